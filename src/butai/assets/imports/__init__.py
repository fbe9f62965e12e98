"""Fills the index from a bucket that has files in it already: listings, and each object verified by a HEAD."""
