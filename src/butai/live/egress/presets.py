"""The presets of a broadcast's encoding.

Bitrates stay within what both platforms accept: Twitch at most 6,000 kbps for picture and sound (its broadcast guidelines),
YouTube 4,000 at 720p30 and more at larger sizes (its encoder settings).
"""

from __future__ import annotations

from typing import Literal

from butai.relay.messages import Preset

Name = Literal["720p30", "720p60", "1080p30", "1080p60"]

PRESETS: dict[str, Preset] = {
    "720p30": Preset(width=1280, height=720, fps=30, video_kbps=3500),
    "720p60": Preset(width=1280, height=720, fps=60, video_kbps=4500),
    "1080p30": Preset(width=1920, height=1080, fps=30, video_kbps=5000),
    "1080p60": Preset(width=1920, height=1080, fps=60, video_kbps=5800),
}
