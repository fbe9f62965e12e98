"""The built-in relay as an engine: one process for each broadcast."""
