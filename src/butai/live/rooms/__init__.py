"""Rooms, who owns them, and the tokens to join them with."""
