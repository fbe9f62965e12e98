"""The product shown to a newcomer, on one machine and with no account anywhere: files to begin with, and going live.

Called by `butai demo library` and `butai demo live`. It is a client of the service like any other: over HTTP, with a host
and two platforms of its own, each in a process of its own. Nothing of the service imports it, and it imports nothing of
the service.
"""
