"""Going live: rooms, destinations, broadcasts and their outputs, and the truth about them."""
