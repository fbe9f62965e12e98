"""Butai (舞台, "stage"): the backend of a browser VTuber studio.

Two domains in one service: `butai.assets` keeps the index of a studio's files,
`butai.live` publishes a room to YouTube and Twitch. The entry point is `butai.cli`.
"""

__version__ = "0.1.0"
