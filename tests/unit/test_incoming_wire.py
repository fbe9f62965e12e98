"""The frames between an ingest and a relay: any cuts, bounds, unknown ones, and what a link in mid-stream begins with."""

from __future__ import annotations

import itertools
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butai.relay.incoming import wire
from butai.relay.incoming.wire import Ended, Frame, FrameReader, Hello, Opening, Refused, WireError
from butai.relay.rtmp.server_session import Media, Metadata
from tests.examples import examples

FRAMES: list[Frame] = [
    Hello("encoder", "k1", label="OBS at home", since=1.5),
    Metadata({"framerate": 29.97, "encoder": "obs", "stereo": True}),
    Media("video", 2**32 - 1, b"\x17\0\0\0\0avcc"),
    Media("audio", 0, b""),
    Ended(in_order=True),
    Ended(),
    Refused("codec_unsupported", "The picture is HEVC (H.265): set the encoder to H.264"),
]
AVC, AAC = Media("video", 0, b"\x17\0\0\0\0avcc"), Media("audio", 0, b"\xaf\0\x11\x90")


@given(st.lists(st.integers(0, 400), max_size=12))
@examples(ci=40, deep=400)
def test_frames_are_read_as_written_whatever_the_cuts(cuts: list[int]) -> None:
    data, reader, found = b"".join(map(wire.write, FRAMES)), FrameReader(), list[Frame]()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for begin, end in itertools.pairwise(places):
        found += reader.feed(data[begin:end])
    assert found == FRAMES


def test_the_longest_message_of_an_encoder_fits_and_nothing_longer() -> None:
    longest = Media("video", 7, bytes(wire.LONGEST_MEDIA))
    assert list(FrameReader().feed(wire.write(longest))) == [longest]
    with pytest.raises(WireError, match="too long"):
        wire.write(Media("video", 7, bytes(wire.LONGEST_BODY)))
    with pytest.raises(WireError, match="too long"):
        list(FrameReader().feed(struct.pack(">IB", wire.LONGEST_BODY + 1, 2)))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (1, b"{}"),
        (1, b'{"source":"room","source_id":"k"}'),
        (1, b"\xff"),
        (2, b""),
        (2, b"\x12\0\0\0\0"),
        (3, b"[]"),
        (5, b"{}"),
    ],
)
def test_what_is_no_frame_is_refused_without_its_bytes(kind: int, body: bytes) -> None:
    with pytest.raises(WireError) as caught:
        list(FrameReader().feed(struct.pack(">IB", len(body), kind) + body))
    assert "room" not in str(caught.value) and caught.value.__cause__ is None


def test_frames_and_fields_of_a_newer_version_are_skipped() -> None:
    newer = b'{"source":"egress","source_id":"e1","colour":"red"}'
    data = struct.pack(">IB", 3, 99) + b"new" + struct.pack(">IB", len(newer), 1) + newer
    assert list(FrameReader().feed(data)) == [Hello("egress", "e1")]


def test_only_plain_and_short_values_of_metadata_pass() -> None:
    values = {"fps": 30.0, "nan": math.nan, "huge": 1e300, "list": [1], "long": "x" * 300, "y" * 300: 1, "ok": "x"}
    assert list(FrameReader().feed(wire.write(Metadata(values)))) == [Metadata({"fps": 30.0, "ok": "x"})]
    (many,) = FrameReader().feed(wire.write(Metadata({str(number): number for number in range(1000)})))
    assert isinstance(many, Metadata) and len(many.values) == 64


def test_a_link_in_mid_stream_begins_with_the_last_metadata_and_headers() -> None:
    opening = Opening()
    assert opening.frames() == []
    newer = Media("video", 900, b"\x17\0\0\0\0newer")
    for frame in (
        Metadata({"old": 1}),
        AVC,
        AAC,
        Media("video", 40, b"\x17\1\0\0\0idr"),
        Media("video", 41, b"\x22hevc"),
    ):
        opening.note(frame)
    opening.note(newer)
    opening.note(Metadata({"new": 1}))
    assert opening.frames() == [Metadata({"new": 1}), newer, AAC]


def test_the_socket_has_no_longer_path_than_that_of_the_controller() -> None:
    assert len(str(wire.source_socket(Path("/run/butai"), "b1"))) <= len("/run/butai/b1.sock")
