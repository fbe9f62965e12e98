"""The object store. No module here lists a bucket: the service does not have the right to."""
