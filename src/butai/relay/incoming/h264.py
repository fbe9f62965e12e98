"""H.264 as encoders send it: parameter sets, and access units with what is not part of a picture taken out. Pure.

ITU-T H.264 (clauses 7.3 and 7.4) and ISO 14496-15 (5.2.4.1). Nothing is decoded: only parameter sets are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from butai.relay import nal

_END_OF_SEQUENCE, _END_OF_STREAM = 10, 11
_PICTURES = frozenset((1, 2, 3, 4, nal.SLICE_IDR))
_HIGH = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))
"""Profiles whose parameter sets tell chroma and depth (7.3.2.1.1)."""
LONGEST_RECORD = 64 * 1024
MOST_SETS = 64
"""Parameter sets at a time. Encoders have two to four."""
MOST_UNITS = 1024
"""Units of an access unit. Encoders send a few slices, or one for each 1500 bytes of a picture."""
_LARGEST = 16384
_SETS = (nal.SPS, nal.PPS)


class MediaUnreadable(ValueError):
    """Bytes that are not in the format that they should have. The text quotes nothing of them."""


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """What a sequence parameter set says. `chroma`: 1 is 4:2:0; `depth`: bits of luma or chroma, whichever has more."""

    profile: int
    level: int
    width: int
    height: int
    chroma: int = 1
    depth: int = 8
    interlaced: bool = False


class _Bits:
    """Reads bits from the left."""

    def __init__(self, data: bytes) -> None:
        # Emulation prevention (7.4.1) is no part of the syntax.
        self._data = data.replace(b"\0\0\3", b"\0\0")
        self._left = len(self._data) * 8
        self._value = int.from_bytes(self._data, "big")

    def take(self, count: int) -> int:
        """An unsigned number of `count` bits."""
        self._left -= count
        if self._left < 0:
            raise MediaUnreadable("a parameter set ends before its end")
        return (self._value >> self._left) & ((1 << count) - 1)

    def ue(self) -> int:
        """An unsigned Exp-Golomb number (9.1)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise MediaUnreadable("a number in a parameter set is too large")
        return (1 << zeros) - 1 + self.take(zeros)

    def se(self) -> int:
        """A signed one (9.1.1)."""
        number = self.ue()
        return (number + 1) // 2 if number % 2 else -(number // 2)


_LONGEST_SET = 4096
"""Bytes of a parameter set that is read. Those of encoders have less than a hundred."""


def picture_format(sps: bytes) -> PictureFormat:
    """Reads a sequence parameter set, with its header byte. Raises `MediaUnreadable`."""
    if not 4 <= len(sps) <= _LONGEST_SET or sps[0] & 0x1F != nal.SPS:
        raise MediaUnreadable("not a sequence parameter set")
    bits = _Bits(sps[4:])
    profile, chroma, depth, separate = sps[1], 1, 8, False
    bits.ue()
    if profile in _HIGH:
        chroma = bits.ue()
        separate = chroma == 3 and bits.take(1) == 1
        depth = 8 + max(bits.ue(), bits.ue())
        bits.take(1)
        if bits.take(1):
            for number in range(8 if chroma != 3 else 12):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if number < 6 else 64)
    _skip_order(bits)
    bits.ue()  # reference frames
    bits.take(1)
    across, down = bits.ue() + 1, bits.ue() + 1
    frames = bits.take(1)
    if not frames:
        bits.take(1)
    bits.take(1)
    width, height = across * 16, down * 16 * (2 - frames)
    if bits.take(1):
        wide = 1 if chroma in (0, 3) or separate else 2
        high = (2 if chroma == 1 else 1) * (2 - frames)
        width -= wide * (bits.ue() + bits.ue())
        height -= high * (bits.ue() + bits.ue())
    if not (0 < width <= _LARGEST and 0 < height <= _LARGEST) or chroma > 3 or depth > 14:
        raise MediaUnreadable("a picture of an impossible format")
    return PictureFormat(profile, sps[3], width, height, chroma, depth, interlaced=not frames)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _skip_order(bits: _Bits) -> None:
    """Skips what tells the order of frames."""
    bits.ue()
    kind = bits.ue()
    if kind == 0:
        bits.ue()
    elif kind == 1:
        bits.take(1)
        bits.se()
        bits.se()
        cycle = bits.ue()
        if cycle > 255:
            raise MediaUnreadable("a parameter set with too many frames")
        for _ in range(cycle):
            bits.se()


def _id(payload: bytes, most: int) -> int:
    number = _Bits(payload[:64]).ue()
    if number > most:
        raise MediaUnreadable("a parameter set with an id that is too large")
    return number


@dataclass(frozen=True, slots=True)
class ParameterSets:
    """The parameter sets that are valid now, by their ids."""

    sequences: dict[int, bytes] = field(default_factory=dict)
    pictures: dict[int, bytes] = field(default_factory=dict)

    def with_units(self, units: Iterable[bytes]) -> ParameterSets:
        """The same with newer sets; itself if they are known, and the last sequence parameter set is the last one already. Raises
        `MediaUnreadable`, also beyond `MOST_SETS`."""
        sequences, pictures = dict(self.sequences), dict(self.pictures)
        for unit in units:
            if unit[0] & 0x1F == nal.SPS:
                number = _id(unit[4:], 31)
                if sequences.pop(number, None) != unit:
                    picture_format(unit)
                # At the end, also where its id is known: it came last.
                sequences[number] = unit
            else:
                pictures[_id(unit[1:], 255)] = unit
            if len(sequences) + len(pictures) > MOST_SETS:
                raise MediaUnreadable("too many parameter sets")
        if list(sequences.items()) == list(self.sequences.items()) and pictures == self.pictures:
            return self
        return ParameterSets(sequences, pictures)

    @property
    def format(self) -> PictureFormat:
        """The format of the sequence parameter set that came last."""
        if not self.sequences:
            raise MediaUnreadable("no sequence parameter set")
        return picture_format(list(self.sequences.values())[-1])

    def record(self) -> bytes:
        """The AVCDecoderConfigurationRecord, with lengths of four bytes. Raises `MediaUnreadable`."""
        first, sets, pictures = self.format, list(self.sequences.values()), list(self.pictures.values())
        if not pictures or len(sets) > 31 or len(pictures) > 255:
            # The record counts them in five and in eight bits; there may be one more of either.
            raise MediaUnreadable("parameter sets are missing, or too many")
        record = nal.record_of(sets, pictures, sets[-1], chroma=first.chroma, depth=first.depth)
        if len(record) > LONGEST_RECORD:
            raise MediaUnreadable("parameter sets are too long")
        return record


def read_record(record: bytes) -> tuple[ParameterSets, int]:
    """The parameter sets of an AVCDecoderConfigurationRecord, and the bytes of each unit's length. Raises `MediaUnreadable`."""
    if len(record) < 7 or record[0] != 1 or len(record) > LONGEST_RECORD:
        raise MediaUnreadable("not a configuration record of H.264")
    found, at = list[bytes](), 5
    for mask in (0x1F, 0xFF):
        if at >= len(record):
            raise MediaUnreadable("a configuration record ends before its end")
        count, at = record[at] & mask, at + 1
        for _ in range(count):
            end = at + 2 + int.from_bytes(record[at : at + 2], "big")
            unit = record[at + 2 : end]
            if end > len(record) or not unit or unit[0] & 0x1F not in _SETS:
                raise MediaUnreadable("a configuration record with something else than parameter sets")
            if len(unit) > _LONGEST_SET:
                raise MediaUnreadable("parameter sets are too long")
            found.append(unit)
            at = end
    return ParameterSets().with_units(found), (record[4] & 3) + 1


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One picture. `data`: its units with lengths of four bytes, without parameter sets; empty where there is no picture.
    `idr`: decoding may begin here; `sets`: parameter sets that came with it."""

    data: bytes
    idr: bool
    sets: list[bytes]


def access_unit(data: bytes, length_size: int) -> AccessUnit:
    """Takes what is not part of a picture out of a tag's units: empty ones, ends of sequences, and parameter sets, which are
    returned beside it. All others stay as they are. Start codes become lengths. Raises `MediaUnreadable`."""
    try:
        units = list(islice(_with_lengths(data, length_size), MOST_UNITS + 1))
        as_sent = length_size == 4
    except MediaUnreadable:
        if not data.startswith((b"\0\0\1", b"\0\0\0\1")):
            raise
        units, as_sent = list(islice(nal.units(data), MOST_UNITS + 1)), False
    if len(units) > MOST_UNITS:
        raise MediaUnreadable("a picture of too many units")
    sets, kept, has_picture, idr = list[bytes](), list[bytes](), False, False
    for unit in units:
        kind = unit[0] & 0x1F if unit else _END_OF_STREAM
        if kind in _SETS:
            sets.append(unit)
        elif kind not in (_END_OF_SEQUENCE, _END_OF_STREAM):
            kept.append(unit)
            has_picture = has_picture or kind in _PICTURES
            idr = idr or kind == nal.SLICE_IDR
    if len(sets) > MOST_SETS:
        raise MediaUnreadable("too many parameter sets")
    if any(len(unit) > _LONGEST_SET for unit in sets):
        raise MediaUnreadable("parameter sets are too long")
    if not has_picture:
        return AccessUnit(b"", False, sets)  # noqa: FBT003 - a field
    if not as_sent or len(kept) < len(units):
        data = b"".join(part for unit in kept for part in (len(unit).to_bytes(4, "big"), unit))
    return AccessUnit(data, idr, sets)


def _with_lengths(data: bytes, size: int) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        begin = at + size
        at = begin + int.from_bytes(data[at:begin], "big")
        if begin > len(data) or at > len(data):
            raise MediaUnreadable("a picture whose units do not fit into it")
        yield data[begin:at]
