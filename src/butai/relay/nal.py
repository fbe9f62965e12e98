"""Converts H.264 from start codes (Annex B, as x264 writes it) to length prefixes (ISO 14496-15, as RTMP needs it).
Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

SLICE_IDR, SPS, PPS, DELIMITER = 5, 7, 8, 9


def units(data: bytes) -> Iterator[bytes]:
    """Yields the NAL units after start codes of three or four bytes. Bytes before the first start code are skipped."""
    at = data.find(b"\0\0\1")
    while at >= 0:
        begin = at + 3
        at = data.find(b"\0\0\1", begin)
        # A unit never ends with a zero (H.264, 7.4.1), so those before a start code are its fourth byte or padding.
        unit = data[begin:at] if at >= 0 else data[begin:]
        unit = unit.rstrip(b"\0")
        if unit:
            yield unit


def length_prefixed(data: bytes) -> bytes:
    """Prefixes the units of one access unit with lengths of four bytes. Leaves out delimiters, and parameter sets,
    which are in the configuration record."""
    prefixed: list[bytes] = []
    for unit in units(data):
        if unit[0] & 0x1F not in (SPS, PPS, DELIMITER):
            prefixed += (len(unit).to_bytes(4, "big"), unit)
    return b"".join(prefixed)


def configuration_record(extradata: bytes) -> bytes:
    """Builds the AVCDecoderConfigurationRecord (ISO 14496-15, 5.2.4.1) from an encoder's global headers.

    Raises `ValueError` if they hold no parameter sets.
    """
    sets = [unit for unit in units(extradata) if unit[0] & 0x1F == SPS]
    pictures = [unit for unit in units(extradata) if unit[0] & 0x1F == PPS]
    if not sets or not pictures:
        raise ValueError("the encoder gave no parameter sets")
    return record_of(sets, pictures, sets[0])


_IN_RECORD = frozenset((100, 110, 122, 144, 244, 44))
"""Profiles whose record tells chroma and depth."""


def record_of(
    sequences: Sequence[bytes], pictures: Sequence[bytes], head: bytes, *, chroma: int = 1, depth: int = 8
) -> bytes:
    """Builds the AVCDecoderConfigurationRecord with lengths of four bytes. `head`: the sequence parameter set whose profile and
    level it names; `chroma`: the format (1 is 4:2:0); `depth`: bits of luma and chroma."""
    record = bytearray((1, head[1], head[2], head[3], 0xFC | 3, 0xE0 | len(sequences)))
    for unit in sequences:
        record += len(unit).to_bytes(2, "big") + unit
    record.append(len(pictures))
    for unit in pictures:
        record += len(unit).to_bytes(2, "big") + unit
    if head[1] in _IN_RECORD:
        # No extensions of the sequence parameter set.
        record += bytes((0xFC | chroma, 0xF8 | depth - 8, 0xF8 | depth - 8, 0))
    return bytes(record)
