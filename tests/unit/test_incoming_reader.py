"""An encoder's messages become packets: formats before what needs them, misfits, refusals, any bytes."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butai.errors import Code
from butai.relay import nal
from butai.relay.incoming.h264 import LONGEST_RECORD, ParameterSets
from butai.relay.incoming.reader import SourceReader
from butai.relay.incoming.tags import SourceRefused
from butai.relay.incoming.timeline import Timeline
from butai.relay.packets import AudioFormat, Kind, Packet, VideoFormat
from tests.examples import examples
from tests.unit.test_incoming_formats import FORMATS, lengths, sets_of

HD, SD, DEEP, FULL, INTERLACED = (FORMATS[one][0] for one in (0, 1, 3, 5, 6))
IDR, SLICE = b"\x65" + b"k" * 40, b"\x41" + b"p" * 20
ASC, ASC_44 = b"\x11\x90", b"\x12\x10"


def record(extradata: bytes) -> bytes:
    return ParameterSets().with_units(sets_of(extradata)).record()


def header(extradata: bytes) -> bytes:
    return b"\x17\0\0\0\0" + record(extradata)


def picture(*units: bytes, keyframe: bool = False, offset: int = 0) -> bytes:
    head = bytes((0x17 if keyframe else 0x27, 1)) + (offset & 0xFFFFFF).to_bytes(3, "big")
    return head + lengths(*units)


def sound(data: bytes = b"aac") -> bytes:
    return b"\xaf\1" + data


def begun(extradata: bytes = HD, asc: bytes = ASC) -> SourceReader:
    reader = SourceReader(Timeline())
    assert reader.feed("video", 0, header(extradata), 0) == []
    assert reader.feed("audio", 0, b"\xaf\0" + asc, 0) == []
    return reader


def test_formats_come_before_the_first_packet_that_needs_them() -> None:
    reader = SourceReader(Timeline())
    reader.metadata({"framerate": 29.97, "videodatarate": 3500.0, "audiodatarate": 160.0})
    reader.feed("video", 5000, header(HD), 100)
    reader.feed("audio", 5000, b"\xaf\0" + ASC, 100)
    assert reader.feed("audio", 5000, sound(), 100) == [], "before the first key frame"
    assert reader.feed("video", 5000, picture(SLICE), 100) == []
    (first,) = reader.feed("video", 5033, picture(IDR, keyframe=True, offset=66), 140)
    assert first == Packet("video", lengths(IDR), 140, 206, keyframe=True)
    assert first.format == VideoFormat(1920, 1080, 30, 3500, record(HD))
    (heard,) = reader.feed("audio", 5040, sound(), 147)
    assert heard == Packet("audio", b"aac", 147, 147, keyframe=True)
    assert heard.format == AudioFormat(48000, 2, 160, ASC)
    (second,) = reader.feed("video", 5066, picture(SLICE, offset=-33), 173)
    assert second == Packet("video", lengths(SLICE), 173, 140, keyframe=False)
    assert second.format is first.format
    assert reader.misfits() == frozenset()


def test_a_header_that_is_sent_again_is_no_change_and_a_new_one_goes_with_the_next_picture() -> None:
    reader = begun()
    (begun_with,) = reader.feed("video", 0, picture(IDR, keyframe=True), 0)
    reader.feed("video", 33, header(HD), 33)
    (same,) = reader.feed("video", 33, picture(SLICE), 33)
    assert same.format is begun_with.format
    reader.feed("video", 66, header(SD), 66)
    (packet,) = reader.feed("video", 66, picture(IDR, keyframe=True), 66)
    assert packet.keyframe and isinstance(packet.format, VideoFormat)
    assert (packet.format.width, packet.format.height, packet.format.avcc) == (426, 240, record(SD))
    reader.feed("audio", 66, sound(), 66)
    reader.feed("audio", 70, b"\xaf\0" + ASC_44, 70)
    (heard,) = reader.feed("audio", 87, sound(), 87)
    assert heard.format == AudioFormat(44100, 2, 0, ASC_44)


def test_parameter_sets_among_the_pictures_become_a_header() -> None:
    reader = begun()
    (first,) = reader.feed("video", 0, picture(IDR, keyframe=True), 0)
    (second,) = reader.feed("video", 33, picture(*sets_of(HD), IDR, keyframe=True), 33)
    assert second == Packet("video", lengths(IDR), 33, 33, keyframe=True)
    assert second.format is first.format, "known ones are no news"
    (packet,) = reader.feed("video", 66, picture(*sets_of(SD), IDR, keyframe=True), 66)
    assert isinstance(packet.format, VideoFormat) and packet.format.avcc == record(SD)
    assert packet == Packet("video", lengths(IDR), 66, 66, keyframe=True)


def test_an_encoder_with_parameter_sets_among_the_pictures_alone_needs_no_header() -> None:
    reader = SourceReader(Timeline())
    data = b"".join(b"\0\0\0\1" + unit for unit in [*sets_of(HD), IDR])
    (packet,) = reader.feed("video", 0, b"\x17\1\0\0\0" + data, 0)
    assert isinstance(packet.format, VideoFormat)
    assert packet == Packet("video", lengths(IDR), 0, 0, keyframe=True)


def test_shorter_lengths_come_with_a_header_that_says_four() -> None:
    reader = SourceReader(Timeline())
    short = bytearray(record(HD))
    short[4] = 0xFC | 1
    reader.feed("video", 0, b"\x17\0\0\0\0" + short, 0)
    (packet,) = reader.feed("video", 0, b"\x17\1\0\0\0" + lengths(IDR, size=2), 0)
    assert isinstance(packet.format, VideoFormat)
    assert packet.format.avcc == nal.configuration_record(HD)
    assert packet.data == lengths(IDR)


@pytest.mark.parametrize(
    "body", [b"", b"\x17\2\0\0\0", b"\x57\0", picture(b"\x06sei"), picture(b""), picture(b"\x0a"), b"\x27\1\0\0\0"]
)
def test_what_is_no_picture_is_dropped_and_not_counted(body: bytes) -> None:
    reader = begun()
    reader.feed("video", 0, picture(IDR, keyframe=True), 0)
    assert reader.feed("video", 33, body, 33) == []
    assert reader.figures.pictures == 1
    assert reader.misfits() == frozenset()


@pytest.mark.parametrize(
    ("extradata", "asc", "expected"),
    [
        (DEEP, ASC, {Code.PROFILE_UNUSUAL, Code.DEPTH_UNUSUAL}),
        (FULL, ASC, {Code.PROFILE_UNUSUAL, Code.CHROMA_UNUSUAL}),
        (INTERLACED, ASC, {Code.INTERLACED}),
        (HD, b"\x12\x88", {Code.SOUND_RATE_UNUSUAL}),
        (HD, b"\x11\xb0", {Code.SOUND_CHANNELS_UNUSUAL}),
        (HD, bytes.fromhex("2b920800"), {Code.SOUND_CODEC_UNUSUAL}),
    ],
)
def test_what_platforms_may_not_take_is_said_and_passed_on(extradata: bytes, asc: bytes, expected: set[Code]) -> None:
    reader = begun(extradata, asc)
    assert len(reader.feed("video", 0, picture(IDR, keyframe=True), 0)) == 1
    assert len(reader.feed("audio", 0, sound(), 0)) == 1
    assert reader.misfits() == expected


def test_rare_key_frames_and_clocks_apart_are_said() -> None:
    reader = begun()
    for number in range(0, 4000, 500):
        reader.feed("video", number, picture(IDR if not number else SLICE, keyframe=not number), number)
    assert reader.misfits() == frozenset()
    reader.feed("video", 4500, picture(SLICE), 4500)
    reader.feed("audio", 100_000, sound(), 4500)
    assert reader.misfits() == {Code.RARE_KEYFRAMES, Code.CLOCKS_APART}


def test_a_few_unreadable_pictures_are_left_out_and_many_are_refused() -> None:
    reader = begun()
    reader.feed("video", 0, picture(IDR, keyframe=True), 0)
    broken = picture(SLICE)[:-1]
    for number in range(40):
        assert reader.feed("video", number, broken, number) == []
    assert reader.misfits() == {Code.MEDIA_UNREADABLE}
    assert len(reader.feed("video", 50, picture(SLICE), 50)) == 1
    for number in range(50):
        reader.feed("video", 100 + number, broken, 100 + number)
    with pytest.raises(SourceRefused) as refused:
        reader.feed("video", 200, broken, 200)
    assert refused.value.code is Code.CODEC_UNSUPPORTED


def test_sounds_that_can_be_read_excuse_no_pictures_that_cannot() -> None:
    reader = begun()
    reader.feed("video", 0, picture(IDR, keyframe=True), 0)
    broken = picture(SLICE)[:-1]
    for number in range(50):
        assert reader.feed("video", number, broken, number) == []
        assert reader.feed("audio", number, sound(), number)
    with pytest.raises(SourceRefused):
        reader.feed("video", 50, broken, 50)


def test_other_codecs_are_refused_at_the_first_message() -> None:
    with pytest.raises(SourceRefused):
        begun().feed("video", 0, b"\x90hvc1x", 0)
    with pytest.raises(SourceRefused):
        begun().feed("audio", 0, b"\x2f\xff", 0)


def test_the_second_connection_goes_on_behind_the_first() -> None:
    line, at = Timeline(), list[int]()
    for one in range(3):
        reader = SourceReader(line)
        reader.feed("video", 0, header(HD), 0)
        (packet,) = reader.feed("video", 900_000, picture(IDR, keyframe=True), 10 * one)
        assert packet.format is not None, "each connection tells its format"
        at.append(packet.dts)
        (last,) = reader.feed("video", 900_500, picture(SLICE), 10 * one)
        at.append(last.dts)
    assert at == sorted(set(at))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e12, "30", None, True, {}, []])
def test_numbers_that_an_encoder_makes_up_are_not_repeated(value: Any) -> None:
    reader = begun()
    reader.metadata({"framerate": value, "videodatarate": value, "audiodatarate": value})
    (packet,) = reader.feed("video", 0, picture(IDR, keyframe=True), 0)
    assert isinstance(packet.format, VideoFormat)
    assert (packet.format.fps, packet.format.kbps) == (0, 0)


HEADS = st.sampled_from([b"\x17\0\0\0\0", b"\x17\1\0\0\0", b"\xaf\0"])
UNITS = st.sampled_from([*sets_of(HD), *sets_of(FULL), IDR, SLICE, b"", b"\x67", b"\x68", b"\x67d\0\x1f"])
PICTURE_SETS = st.builds(
    lambda number, filler: b"\x68" + struct.pack(">I", number) + filler,
    st.integers(0, 2**32 - 1),
    st.binary(max_size=4090),
)
BODIES = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([header(HD), header(SD), b"\xaf\0" + ASC, sound(), picture(IDR, keyframe=True), picture(SLICE)]),
    st.builds(lambda head, rest: head + rest, HEADS, st.binary(max_size=60)),
    st.lists(UNITS, max_size=5).map(lambda units: picture(*units)),
    PICTURE_SETS.map(lambda unit: picture(unit, IDR)),
)


@examples(ci=300, deep=3000, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["audio", "video"]), st.integers(0, 2**32 - 1), BODIES), max_size=25))
def test_any_messages_are_packets_or_left_out_or_refused(messages: list[tuple[Kind, int, bytes]]) -> None:
    reader, last = SourceReader(Timeline()), {"audio": 0, "video": 0}
    for now, (kind, stamp, body) in enumerate(messages):
        try:
            passed = reader.feed(kind, stamp, body, now)
        except SourceRefused:
            return
        for one in passed:
            assert isinstance(one.format, VideoFormat if kind == "video" else AudioFormat), (
                "no packet without its format"
            )
            if isinstance(one.format, VideoFormat):
                assert 0 < one.format.width <= 16384 and len(one.format.avcc) <= LONGEST_RECORD
            assert one.dts >= last[kind] and one.data
            last[kind] = one.dts
        reader.misfits()


def test_parameter_sets_have_a_bound_even_before_there_is_a_picture() -> None:
    """Ids of picture parameter sets end at 255, whatever an encoder makes up."""
    reader = SourceReader(Timeline())
    refused = False
    for number in range(1, 300):
        # Exp-Golomb numbers from 127 to 511.
        unit = b"\x68" + (((256 + number) << 15) | 1).to_bytes(4, "big") + bytes(4000)
        try:
            reader.feed("video", 0, picture(unit, keyframe=True), number)
        except SourceRefused:
            refused = True
    assert refused
    assert reader._sets is None or len(reader._sets.pictures) <= 256
