"""Silent AAC frames (ISO 14496-3, 4.4.2.1), made bit by bit, so that no encoder runs for them. Pure."""

from __future__ import annotations

from butai.relay.incoming import aac
from butai.relay.packets import AudioFormat

SAMPLES = 1024
"""Samples of a frame, before HE-AAC doubles their rate."""
OWN = AudioFormat(48000, 2, 0, b"\x11\x90")
"""The format of silence where the source has no sound, or one whose silence is not known: AAC-LC, 48 kHz, stereo."""
_ALONE, _PAIR, _LOW, _END = 0, 1, 3, 7
_ELEMENTS: dict[int, tuple[int, ...]] = {
    1: (_ALONE,),
    2: (_PAIR,),
    3: (_ALONE, _PAIR),
    4: (_ALONE, _PAIR, _ALONE),
    5: (_ALONE, _PAIR, _PAIR),
    6: (_ALONE, _PAIR, _PAIR, _LOW),
    8: (_ALONE, _PAIR, _PAIR, _PAIR, _LOW),
}
"""The elements of a frame by the number of channels (table 1.19)."""


class _Bits:
    """Writes bits from the left."""

    def __init__(self) -> None:
        self._value = self._count = 0

    def put(self, value: int, count: int) -> None:
        """Adds the lowest `count` bits."""
        self._value, self._count = self._value << count | value, self._count + count

    def bytes(self) -> bytes:
        """All of them, filled up with zeros to whole bytes."""
        rest = -self._count % 8
        return (self._value << rest).to_bytes((self._count + rest) // 8, "big")


def silence(format_: AudioFormat) -> tuple[bytes, float] | None:
    """A silent frame of this format, and the milliseconds that it takes. None where its silence is not known."""
    try:
        found = aac.sound_format(format_.asc)
    except aac.MediaUnreadable:
        return None
    # Parametric stereo is one channel, until it is decoded.
    elements = _ELEMENTS.get(1 if found.object_type == aac.PS else found.channels)
    if found.object_type not in (aac.LC, aac.SBR, aac.PS) or elements is None:
        return None
    twice = 1 if found.object_type == aac.LC else 2
    return _frame(elements), SAMPLES * twice * 1000 / found.rate


def _frame(elements: tuple[int, ...]) -> bytes:
    bits, numbers = _Bits(), dict[int, int]()
    for element in elements:
        bits.put(element, 3)
        bits.put(numbers.get(element, 0), 4)
        numbers[element] = numbers.get(element, 0) + 1
        if element == _PAIR:
            bits.put(1, 1)
            _put_info(bits)
            bits.put(0, 2)
            for _ in range(2):
                bits.put(0, 8 + 3)
        else:
            bits.put(0, 8)
            _put_info(bits)
            bits.put(0, 3)
    bits.put(_END, 3)
    return bits.bytes()


def _put_info(bits: _Bits) -> None:
    """One long window without any band: nothing is sounding."""
    bits.put(0, 1 + 2 + 1 + 6 + 1)
