"""The object store. No module lists a bucket: the service has no right to."""
