"""AAC's configuration (ISO 14496-3, 1.6.2.1). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from butai.relay.incoming.h264 import MediaUnreadable

_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_CHANNELS = (0, 1, 2, 3, 4, 5, 6, 8)
LC, SBR, PS = 2, 5, 29
"""Object types: AAC-LC, and the two additions of HE-AAC."""
_LONGEST = 64


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """The format of a sound. `rate` in Hz as it is heard; `channels`: 0 where only the sound itself says so."""

    object_type: int
    rate: int
    channels: int


def sound_format(asc: bytes) -> SoundFormat:
    """Reads an AudioSpecificConfig. Raises `MediaUnreadable`."""
    if not 2 <= len(asc) <= _LONGEST:
        raise MediaUnreadable("not a configuration of AAC")
    value, left = int.from_bytes(asc, "big"), len(asc) * 8

    def take(count: int) -> int:
        nonlocal left
        left -= count
        if left < 0:
            raise MediaUnreadable("a configuration of AAC ends before its end")
        return (value >> left) & ((1 << count) - 1)

    def rate() -> int:
        index = take(4)
        if index < len(_RATES):
            return _RATES[index]
        if index < 15:
            raise MediaUnreadable("a sampling rate that AAC does not have")
        return take(24)

    kind = take(5)
    if kind == 31:
        kind = 32 + take(6)
    hertz, arrangement = rate(), take(4)
    if kind in (SBR, PS):
        hertz = rate()
    if arrangement >= len(_CHANNELS) or not 7000 <= hertz <= 192_000:
        raise MediaUnreadable("a sound of an impossible format")
    return SoundFormat(kind, hertz, 2 if kind == PS else _CHANNELS[arrangement])
