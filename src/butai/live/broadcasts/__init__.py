"""Broadcasts: start, stop, retry, status and history."""
