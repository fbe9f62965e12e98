"""An RTMP and RTMPS client for publishing, which knows whether the platform reads what is sent.

It is Butai's own, since this is Butai's purpose, and no library gives the reasons: FFmpeg's muxer reports an I/O error
for a refused key, an unknown host and a bad application alike.
"""
