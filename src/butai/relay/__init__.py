"""The built-in egress: one process for each broadcast, from a LiveKit room to RTMP platforms.

Started by `butai.live.egress.relay.engine` as `python -m butai.relay`; speaks with it by the messages of
`butai.relay.messages`. Knows no database and nothing of `butai.live`.
"""
