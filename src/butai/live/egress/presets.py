"""The presets of a broadcast's encoding.

Bitrates stay within what both platforms accept: Twitch at most 6,000 kbps for picture and sound (its broadcast guidelines),
YouTube 4,000 at 720p30 and more at larger sizes (its encoder settings).
"""

from __future__ import annotations

from typing import Literal

from butai.relay.messages import Preset

Name = Literal["480p30", "720p30", "720p60", "1080p30", "1080p60"]

PRESETS: dict[str, Preset] = {
    "480p30": Preset(width=854, height=480, fps=30, video_kbps=1500),
    "720p30": Preset(width=1280, height=720, fps=30, video_kbps=3500),
    "720p60": Preset(width=1280, height=720, fps=60, video_kbps=4500),
    "1080p30": Preset(width=1920, height=1080, fps=30, video_kbps=5000),
    "1080p60": Preset(width=1920, height=1080, fps=60, video_kbps=5800),
}

RELAY_COSTS: dict[str, float] = {"480p30": 0.3, "720p30": 0.34, "720p60": 0.55, "1080p30": 0.6, "1080p60": 1.05}
"""Cores that a relay with two outputs takes, when the host sends a picture of the preset's size (480p30: of 720p30).

720p30: `bench/relay.py` on the machine of docs/performance.md. The others: one run of 12 s of the same broadcast at each
preset there, to its 720p30; 1080p60, which that machine cannot carry, by the ratio of the two at 720p."""

LIVEKIT_COST = 0.001
"""Cores of a controller that a broadcast on LiveKit Egress takes: 0.31 for 1,000 of them (`bench/egress.py`), with a
margin. Their media are on LiveKit's machines, which admit by themselves."""
