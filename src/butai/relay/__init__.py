"""The relay: one process for each broadcast (`python -m butai.relay`), which publishes a LiveKit room's media to
platforms.

The relay and its controller exchange the lines of `butai.relay.messages`. The relay has no access to the database, and
does not import `butai.live`.
"""
