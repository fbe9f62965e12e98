"""The relay: one process for each broadcast (`python -m butai.relay`), which publishes a LiveKit room's media to platforms.

Its controller and it exchange the lines of `butai.relay.messages`. It has no access to the database, and does not import
`butai.live`.
"""
