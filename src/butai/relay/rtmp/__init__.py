"""RTMP and RTMPS publishing, written for one thing: to know whether the platform takes what is sent.

Called by `butai.relay` for outputs and by `butai.live.preflight` for the test of a destination.
"""
