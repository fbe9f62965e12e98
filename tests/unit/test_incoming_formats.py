"""Formats of encoders, read from what x264 and AAC encoders really write; access units; tags and refusals."""

from __future__ import annotations

from fractions import Fraction

import pytest
from av import CodecContext
from av.codec.context import Flags
from hypothesis import given
from hypothesis import strategies as st

from butai.errors import Code
from butai.relay import nal
from butai.relay.incoming import aac, h264
from butai.relay.incoming.h264 import MediaUnreadable, ParameterSets, PictureFormat
from butai.relay.incoming.tags import SourceRefused, Tag, audio_tag, video_tag
from tests.examples import examples


def x264(width: int, height: int, *, profile: str = "high", pixels: str = "yuv420p", **more: str) -> bytes:
    """The global headers of x264 with these settings."""
    context = CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, height, pixels
    context.time_base = Fraction(1, 30)
    context.flags |= Flags.global_header
    context.options = {"profile": profile, "preset": "fast", "threads": "1", **more}
    context.open()
    return bytes(context.extradata or b"")


def sets_of(extradata: bytes) -> list[bytes]:
    return [unit for unit in nal.units(extradata) if unit[0] & 0x1F in (nal.SPS, nal.PPS)]


FORMATS = [
    (x264(1920, 1080), PictureFormat(100, 40, 1920, 1080)),
    (x264(426, 240, profile="main"), PictureFormat(77, 21, 426, 240)),
    (x264(854, 480, profile="baseline"), PictureFormat(66, 31, 854, 480)),
    (x264(638, 358, profile="high10", pixels="yuv420p10le"), PictureFormat(110, 30, 638, 358, 1, 10)),
    (x264(638, 358, profile="high422", pixels="yuv422p10le"), PictureFormat(122, 30, 638, 358, 2, 10)),
    (x264(637, 357, profile="high444", pixels="yuv444p"), PictureFormat(244, 30, 637, 357, 3, 8)),
    (x264(720, 572, **{"x264-params": "interlaced=1"}), PictureFormat(100, 31, 720, 572, interlaced=True)),
    (x264(640, 360, **{"x264-params": "cqm=jvt"}), PictureFormat(100, 30, 640, 360)),
]


@pytest.mark.parametrize(("extradata", "expected"), FORMATS)
def test_a_parameter_set_tells_the_format(extradata: bytes, expected: PictureFormat) -> None:
    assert h264.picture_format(sets_of(extradata)[0]) == expected


@pytest.mark.parametrize("extradata", [one for one, _ in FORMATS])
def test_a_record_is_read_and_written_as_it_was(extradata: bytes) -> None:
    sets = ParameterSets().with_units(sets_of(extradata))
    found, size = h264.read_record(sets.record())
    assert (found, size) == (sets, 4)
    assert found.with_units(sets_of(extradata)) is found
    if sets.format.profile in (66, 77, 100):
        assert sets.record() == nal.configuration_record(extradata)


def test_newer_parameter_sets_replace_those_of_their_id() -> None:
    before = ParameterSets().with_units(sets_of(FORMATS[0][0]))
    after = before.with_units(sets_of(FORMATS[7][0]))
    assert len(after.sequences) == len(after.pictures) == 1
    assert (before.format.width, after.format.width) == (1920, 640)


def with_id_1(sps: bytes) -> bytes:
    """A sequence parameter set of id 0 with another id."""
    rest = sps[4:].replace(b"\0\0\3", b"\0\0")
    bits = "010" + f"{int.from_bytes(rest, 'big'):0{len(rest) * 8}b}"[1:] + "0" * 6
    return sps[:4] + int(bits, 2).to_bytes(len(rest) + 1, "big")


def test_the_format_is_that_of_the_sequence_parameter_set_that_came_last() -> None:
    (wide, pictures), (small, _) = sets_of(FORMATS[0][0]), sets_of(FORMATS[7][0])
    both = ParameterSets().with_units([small, pictures, with_id_1(small)])
    assert both.format.width == 640
    assert list(both.with_units([wide]).sequences) == [1, 0]
    assert both.with_units([wide]).format.width == 1920, "of an id that was known"
    again = ParameterSets().with_units([wide, with_id_1(small)]).with_units([wide])
    assert again.format.width == 1920, "known itself"
    assert again.with_units([with_id_1(small), wide]) is again


def test_parameter_sets_have_a_number() -> None:
    sequence, _ = sets_of(FORMATS[0][0])
    # Exp-Golomb numbers from 63 on.
    pictures = [b"\x68" + (((64 + number) << 19) | 1).to_bytes(4, "big") for number in range(h264.MOST_SETS)]
    assert len(ParameterSets().with_units([sequence, *pictures[:-1]]).pictures) == h264.MOST_SETS - 1
    with pytest.raises(MediaUnreadable):
        ParameterSets().with_units([sequence, *pictures])


@pytest.mark.parametrize(
    "record",
    [
        b"",
        bytes(20),
        b"\x01\x64\x00\x1f\xff",
        b"\x01\x64\x00\x1f\xff\xe1\x00\xff\x67",
        b"\x01\x64\x00\x1f\xff\xe1\x00\x01\x06\x00",
        b"\x01\x64\x00\x1f\xff\xe1\x00\x05\x67\x64\x00\x1f\x00\x00",
        b"\x01\x64\x00\x1f\xff\xe1" + (5000).to_bytes(2, "big") + b"\x67" + bytes(4999) + b"\x00",
    ],
)
def test_what_is_no_record_is_unreadable(record: bytes) -> None:
    with pytest.raises(MediaUnreadable):
        h264.read_record(record)[0].record()


@examples(ci=300, deep=5000)
@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=8),
    st.integers(0, 99),
)
def test_any_record_is_read_or_refused(
    one: tuple[bytes, PictureFormat], flips: list[tuple[int, int]], cut: int
) -> None:
    record = bytearray(ParameterSets().with_units(sets_of(one[0])).record())
    for place, value in flips:
        record[place % len(record)] = value
    try:
        found = h264.read_record(bytes(record[: len(record) - cut // 2]))[0].format
    except MediaUnreadable:
        return
    assert 0 < found.width <= 16384 and 0 < found.height <= 16384


def lengths(*units: bytes, size: int = 4) -> bytes:
    return b"".join(len(unit).to_bytes(size, "big") + unit for unit in units)


SLICE, IDR, SEI, AUD, FILLER = b"\x41abc\0\0", b"\x65key", b"\x06sei", b"\x09\xf0", b"\x0c\xff\x80"


def test_a_picture_without_anything_else_is_not_touched() -> None:
    data = lengths(AUD, SEI, IDR, SLICE, FILLER)
    unit = h264.access_unit(data, 4)
    assert unit.data is data and unit.idr and unit.sets == []
    assert not h264.access_unit(lengths(SLICE), 4).idr


@pytest.mark.parametrize(
    "data", [b"", lengths(SEI), lengths(b"", b""), lengths(AUD, FILLER), lengths(b"\x0a"), lengths(b"\x0b", SEI)]
)
def test_what_has_no_slice_is_no_picture(data: bytes) -> None:
    assert h264.access_unit(data, 4).data == b""


def test_what_is_no_part_of_a_picture_is_taken_out() -> None:
    sps, pps = sets_of(FORMATS[0][0])
    unit = h264.access_unit(lengths(b"", sps, pps, SEI, IDR, b"\x0a", b"\x0b"), 4)
    assert unit.data == lengths(SEI, IDR)
    assert (unit.idr, unit.sets) == (True, [sps, pps])


@pytest.mark.parametrize("size", [1, 2])
def test_shorter_lengths_become_four_bytes(size: int) -> None:
    assert h264.access_unit(lengths(SEI, SLICE, size=size), size).data == lengths(SEI, SLICE)


def test_start_codes_become_lengths() -> None:
    sps, pps = sets_of(FORMATS[0][0])
    data = b"\0\0\0\1" + sps + b"\0\0\0\1" + pps + b"\0\0\1" + IDR
    unit = h264.access_unit(data, 4)
    assert (unit.data, unit.sets, unit.idr) == (lengths(IDR), [sps, pps], True)


@pytest.mark.parametrize(
    "data",
    [
        lengths(*[b""] * h264.MOST_UNITS, IDR),
        b"\0\0\1x" * h264.MOST_UNITS + b"\0\0\1" + IDR,
        lengths(*[b"\x68\xce\x0f"] * (h264.MOST_SETS + 1), IDR),
    ],
    ids=["empty", "start codes", "parameter sets"],
)
def test_a_picture_of_too_many_units_is_unreadable(data: bytes) -> None:
    with pytest.raises(MediaUnreadable):
        h264.access_unit(data, 4)


@pytest.mark.parametrize("data", [b"\0\0\0\5abc", b"\0\0", lengths(IDR)[:-1], b"\xff\xff\xff\xffx"])
def test_lengths_that_do_not_fit_are_unreadable(data: bytes) -> None:
    with pytest.raises(MediaUnreadable):
        h264.access_unit(data, 4)


@examples(ci=300, deep=5000)
@given(st.binary(max_size=60) | st.lists(st.binary(max_size=9), max_size=5).map(lambda units: lengths(*units)))
def test_any_bytes_are_a_picture_or_none_or_unreadable(data: bytes) -> None:
    try:
        unit = h264.access_unit(data, 4)
    except MediaUnreadable:
        return
    assert h264.access_unit(unit.data, 4).data == unit.data
    assert len(unit.data) <= 2 * len(data) + 4


@pytest.mark.parametrize(
    ("asc", "expected"),
    [
        ("1190", (aac.LC, 48000, 2)),
        ("1210", (aac.LC, 44100, 2)),
        ("1188", (aac.LC, 48000, 1)),
        ("119056e500", (aac.LC, 48000, 2)),
        ("2b920800", (aac.SBR, 44100, 2)),
        ("eb8a0800", (aac.PS, 44100, 2)),
        ("1690", None),
    ],
)
def test_a_configuration_of_aac_tells_the_format(asc: str, expected: tuple[int, int, int] | None) -> None:
    if expected is None:
        with pytest.raises(MediaUnreadable):
            aac.sound_format(bytes.fromhex(asc))
    else:
        found = aac.sound_format(bytes.fromhex(asc))
        assert (found.object_type, found.rate, found.channels) == expected


@given(st.binary(max_size=70))
def test_any_configuration_of_aac_is_read_or_refused(asc: bytes) -> None:
    try:
        found = aac.sound_format(asc)
    except MediaUnreadable:
        return
    assert 7000 <= found.rate <= 192_000 and found.channels <= 8


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\x17\0\0\0\0rec", Tag("header", b"rec")),
        (b"\x17\1\0\0\x21pic", Tag("media", b"pic", keyframe=True, offset=33)),
        (b"\x27\1\xff\xff\xfepic", Tag("media", b"pic", offset=-2)),
        (b"\x17\2\0\0\0", None),
        (b"\x17\2\0\0\0x", None),
        (b"\x57\0", None),
        (b"\x52\0", None),
        (b"\x17\1\0\0\0", None),
        (b"\x17", None),
        (b"", None),
        (b"\x90avc1rec", Tag("header", b"rec")),
        (b"\x91avc1\0\0\x21pic", Tag("media", b"pic", keyframe=True, offset=33)),
        (b"\xa3avc1pic", Tag("media", b"pic")),
        (b"\x92avc1", None),
        (b"\xd1avc1\0", None),
    ],
)
def test_video_tags_are_headers_pictures_or_nothing(body: bytes, expected: Tag | None) -> None:
    assert video_tag(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\xaf\0asc", Tag("header", b"asc")),
        (b"\xaf\1raw", Tag("media", b"raw")),
        (b"\xaf\1", None),
        (b"\xaf", None),
        (b"", None),
        (b"\x90mp4aasc", Tag("header", b"asc")),
        (b"\x91mp4araw", Tag("media", b"raw")),
        (b"\x92mp4a", None),
        (b"\x94mp4a\0", None),
    ],
)
def test_audio_tags_are_headers_sounds_or_nothing(body: bytes, expected: Tag | None) -> None:
    assert audio_tag(body) == expected


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"\x90hvc1x", "HEVC"),
        (b"\x1c\0", "HEVC"),
        (b"\x90av01x", "AV1"),
        (b"\x90vp09x", "VP9"),
        (b"\x14\0", "VP6"),
        (b"\x12\0", "Sorenson"),
        (b"\x1f\0", "unknown"),
        (b"\x90zzzzx", "unknown"),
        (b"\x90", "unknown"),
        (b"\x96\0avc1", "multitrack"),
    ],
)
def test_other_pictures_are_refused_by_name(body: bytes, named: str) -> None:
    with pytest.raises(SourceRefused, match=named) as refused:
        video_tag(body)
    assert refused.value.code is Code.CODEC_UNSUPPORTED


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"\x2f\xff", "MP3"),
        (b"\xb6x", "Speex"),
        (b"\x90Opusx", "Opus"),
        (b"\x90.mp3x", "MP3"),
        (b"\x95mp4a", "one audio track"),
        (b"\xdf", "unknown"),
    ],
)
def test_other_sounds_are_refused_by_name(body: bytes, named: str) -> None:
    with pytest.raises(SourceRefused, match=named):
        audio_tag(body)
