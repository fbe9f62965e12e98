"""Going live: rooms, destinations, broadcasts and their outputs, and their states by evidence."""
