"""Encoders as hosts: the keys with which OBS and others publish into a room by Butai's own ingest."""
