"""An RTMP and RTMPS client for publishing, which knows whether the platform takes what is sent.

Our own, since that is what Butai exists for, and no library tells it: FFmpeg's muxer reports an I/O error for a refused key, an
unknown host and a bad application alike.
"""
