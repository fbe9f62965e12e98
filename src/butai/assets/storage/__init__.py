"""The object store. Nothing here lists a bucket: the service has no right to."""
