"""Destinations: a user's saved platforms, each with an ingest URL and a sealed stream key."""
