"""Uploads: streamed from a form, or sent to the store by a signed URL; and the users' quotas."""
