"""Resumable uploads, by the tus protocol 1.0."""
