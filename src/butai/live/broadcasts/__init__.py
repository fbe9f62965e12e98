"""Broadcasts: start, stop, retry, and what is on air or was."""
