"""Limits of rate: the token bucket, and the buckets of callers and addresses."""
