"""Rooms, their owners, and the tokens to join them with."""
