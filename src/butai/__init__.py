"""Butai (舞台, "stage"): the backend of a browser VTuber studio.

Two domains in one service: `butai.assets` keeps the index of a studio's files,
`butai.live` puts a room on YouTube and Twitch. `butai.cli` is the way in.
"""

__version__ = "0.1.0"
