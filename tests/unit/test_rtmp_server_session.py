"""The server's side of RTMP without a socket: encoders' conversations, and what is refused."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import pytest

from butai.relay.rtmp import amf0, chunks
from butai.relay.rtmp.addresses import parse
from butai.relay.rtmp.chunks import ChunkReader, ChunkWriter, Message, ProtocolError
from butai.relay.rtmp.server_session import (
    ACKNOWLEDGE_EARLY,
    ACKNOWLEDGE_LATER,
    EARLY,
    LONGEST_CANDIDATE,
    MOST_EARLY_MESSAGES,
    Media,
    Metadata,
    PublishAsked,
    PublishEnded,
    ServerEvent,
    ServerSession,
)
from butai.relay.rtmp.session import Pong, Publishing, PublishRefused, Session

KEY = "canary-41d8-key"
HELLO = b"\x03" + bytes(8) + b"\x55" * 1528


class Encoder:
    """The other side, as its own bytes: past the handshake."""

    def __init__(self) -> None:
        self.session, self.writer, self.reader = ServerSession(), ChunkWriter(), ChunkReader()
        assert self.session.feed(HELLO) == []
        answer = self.session.data_to_send()
        assert len(answer) == 3073 and answer[0] == 3
        assert answer[1537:] == HELLO[1:], "S2 repeats C1"
        self.session.feed(answer[1:1537])
        assert self.session.step == "connect"

    def say(self, kind: int, payload: bytes, timestamp: int = 0, stream: int = 1) -> list[ServerEvent]:
        return self.session.feed(self.writer.write(3, Message(kind, stream, timestamp, payload)))

    def call(self, *values: Any) -> list[ServerEvent]:
        return self.say(chunks.COMMAND, amf0.encode(*values))

    def heard(self) -> list[Message]:
        return self.reader.feed(self.session.data_to_send())

    def commands(self) -> list[list[Any]]:
        return [amf0.decode(one.payload) for one in self.heard() if one.kind == chunks.COMMAND]

    def publishing(self) -> Encoder:
        self.call("connect", 1, {"app": "live", "tcUrl": "rtmp://host/live"})
        self.call("createStream", 2, None)
        assert self.call("publish", 3, None, KEY, "live") == [PublishAsked((KEY, "live"))]
        self.session.accept()
        self.heard()
        return self


def test_our_own_publisher_publishes() -> None:
    server, client = ServerSession(), Session(parse("rtmp://127.0.0.1/live"), KEY)
    events: list[Any] = []
    for _ in range(12):
        for event in server.feed(client.data_to_send()):
            events.append(event)
            if isinstance(event, PublishAsked):
                server.accept()
        events += client.feed(server.data_to_send())
    assert client.step == server.step.replace("asked", "") == "publishing"
    assert PublishAsked((KEY, "live")) in events and Publishing() in events
    client.ping(77)
    server.feed(client.data_to_send())
    assert client.feed(server.data_to_send()) == [Pong(77)]
    client.goodbye()
    assert server.feed(client.data_to_send()) == [PublishEnded(in_order=True)]


def test_our_own_publisher_hears_why_it_is_refused() -> None:
    server, client = ServerSession(), Session(parse("rtmp://127.0.0.1/live"), KEY)
    events: list[Any] = []
    for _ in range(12):
        if any(isinstance(event, PublishAsked) for event in server.feed(client.data_to_send())):
            server.refuse("key_invalid", "No encoder has this key")
        events += client.feed(server.data_to_send())
    assert events[-1] == PublishRefused("NetStream.Publish.BadName", "key_invalid: No encoder has this key")
    assert server.step == "over"


@pytest.mark.parametrize("cut", [1, 700, 1536, 1537, 1538, 3073])
def test_a_handshake_may_come_in_pieces(cut: int) -> None:
    session, data = ServerSession(), HELLO + bytes(1536)
    for at in range(0, len(data), cut):
        assert session.feed(data[at : at + cut]) == []
    assert session.step == "connect"
    assert len(session.data_to_send()) == 3073


@pytest.mark.parametrize("first", [b"\x06", b"G", b"\x16\x03\x01"])
def test_another_protocol_is_refused_at_its_first_byte(first: bytes) -> None:
    with pytest.raises(ProtocolError):
        ServerSession().feed(first)


def test_connect_is_answered_as_encoders_want_it() -> None:
    encoder = Encoder()
    encoder.call("connect", 1, {"app": "live", "type": "nonprivate", "tcUrl": "rtmp://host/live"})
    heard = encoder.heard()
    assert [one.kind for one in heard] == [
        chunks.WINDOW_SIZE,
        chunks.PEER_BANDWIDTH,
        chunks.SET_CHUNK_SIZE,
        chunks.COMMAND,
    ]
    name, number, _, good = amf0.decode(heard[-1].payload)
    assert (name, number, good["code"], good["level"]) == ("_result", 1, "NetConnection.Connect.Success", "status")


def test_gstreamer_numbers_its_courtesies_and_its_publish_zero() -> None:
    encoder = Encoder()
    encoder.call("connect", 1, {"app": "live"})
    encoder.heard()
    for name in ("releaseStream", "FCPublish"):
        assert encoder.call(name, 0, None, KEY) == []
    assert encoder.commands() == []
    encoder.call("createStream", 2, None)
    assert encoder.commands() == [["_result", 2, None, 1]]
    assert encoder.call("publish", 0, None, KEY, "live") == [PublishAsked((KEY, "live"))]
    encoder.session.accept()
    begin, start = encoder.heard()
    assert (begin.kind, begin.payload) == (chunks.USER_CONTROL, bytes((0, 0, 0, 0, 0, 1)))
    name, number, nothing, status = amf0.decode(start.payload)
    assert (name, number, nothing, start.stream) == ("onStatus", 0, None, 1)
    assert (status["level"], status["code"]) == ("status", "NetStream.Publish.Start")


def test_ffmpeg_numbers_them_and_gets_answers() -> None:
    encoder = Encoder()
    encoder.call("connect", 1, {"app": "live"})
    encoder.heard()
    encoder.call("releaseStream", 2, None, KEY)
    encoder.call("FCPublish", 3, None, KEY)
    encoder.call("createStream", 4, None)
    encoder.call("_checkbw", 5, None)
    encoder.call("somethingNew", 6, None)
    assert encoder.commands() == [["_result", one, None, None if one != 4 else 1] for one in (2, 3, 4, 5)]


def test_commands_in_the_form_of_amf3_are_read() -> None:
    encoder = Encoder()
    for values in (("connect", 1, {"app": "live"}), ("createStream", 2, None)):
        encoder.say(chunks.COMMAND_3, b"\0" + amf0.encode(*values))
    asked = encoder.say(chunks.COMMAND_3, b"\0" + amf0.encode("publish", 3, None, KEY, "live"))
    assert asked == [PublishAsked((KEY, "live"))]


@pytest.mark.parametrize(
    ("app", "address", "name", "candidates"),
    [
        ("live", "rtmp://host/live", KEY, (KEY, "live")),
        ("live", "rtmp://host/live", f" {KEY}\n", (KEY, "live")),
        ("live", "rtmp://host/live", f"{KEY}?x=1", (f"{KEY}?x=1", KEY, "live")),
        (f"live/{KEY}", f"rtmp://host/live/{KEY}", "", (KEY,)),
        (f"{KEY}/", f"rtmp://host/{KEY}/", "", (KEY,)),
        ("live", "rtmp://host/live", f"rtmp://host/live/{KEY}", (f"rtmp://host/live/{KEY}", KEY, "live")),
        (7, None, None, ()),
        ("x" * 600, "", "y" * 600, ()),
    ],
)
def test_a_key_is_looked_for_where_people_paste_it(
    app: Any, address: Any, name: Any, candidates: tuple[str, ...]
) -> None:
    encoder = Encoder()
    encoder.call("connect", 1, {"app": app, "tcUrl": address})
    (event,) = encoder.call("publish", 3, None, name, "live")
    assert isinstance(event, PublishAsked)
    assert event.candidates == candidates
    assert all(len(one) <= LONGEST_CANDIDATE for one in event.candidates)
    assert KEY not in repr(event) and KEY not in repr(vars(encoder.session))


def test_media_metadata_and_aggregates_are_events_once_the_key_was_accepted() -> None:
    encoder = Encoder()
    encoder.call("connect", 1, {"app": "live"})
    assert encoder.say(chunks.VIDEO, b"\x17\0", 10) == []
    encoder.call("publish", 3, None, KEY, "live")
    assert encoder.say(chunks.VIDEO, b"\x17\0", 20) == [], "not answered yet"
    encoder.session.accept()
    assert encoder.say(chunks.VIDEO, b"\x17\0", 30) == [Media("video", 30, b"\x17\0")]
    assert encoder.say(chunks.AUDIO, b"\xaf\1", 2**32 - 1) == [Media("audio", 2**32 - 1, b"\xaf\1")]
    told = {"width": 1280.0, "encoder": "obs-output module"}
    said = amf0.encode("@setDataFrame", "onMetaData", amf0.EcmaArray(told))
    assert encoder.say(chunks.DATA, said) == [Metadata(told)]
    assert encoder.say(chunks.DATA_3, b"\0" + said) == [Metadata(told)]
    assert encoder.say(chunks.DATA, amf0.encode("onTextData", {"text": "x"})) == []
    assert encoder.say(chunks.DATA, b"\x0d\x0d") == []
    inner = b"\x08\0\0\2\0\0\7\0\0\0\0\xaf\1\0\0\0\x0d"
    assert encoder.say(chunks.AGGREGATE, inner, 500) == [Media("audio", 500, b"\xaf\1")]


@pytest.mark.parametrize("name", ["FCUnpublish", "deleteStream", "closeStream"])
def test_an_end_in_order_is_told_once_and_not_answered(name: str) -> None:
    encoder = Encoder().publishing()
    assert encoder.call(name, 0, None, 1) == [PublishEnded(in_order=True)]
    assert encoder.call("deleteStream", 7, None, 1) == []
    assert encoder.say(chunks.VIDEO, b"\x17\0", 10) == []
    assert encoder.session.end_of_input() == []
    assert encoder.session.data_to_send() == b""


def test_a_connection_that_is_lost_is_no_end_in_order() -> None:
    assert Encoder().publishing().session.end_of_input() == [PublishEnded(in_order=False)]
    assert Encoder().session.end_of_input() == []


@pytest.mark.parametrize(
    ("asked", "early", "later"),
    [
        (None, ACKNOWLEDGE_EARLY, ACKNOWLEDGE_LATER),
        (2_500_000, ACKNOWLEDGE_EARLY, ACKNOWLEDGE_LATER),
        (70_000, ACKNOWLEDGE_EARLY, 70_000),
        (10_000, 10_000, 10_000),
        (0, 1024, 1024),
    ],
)
def test_bytes_are_acknowledged_early_then_seldom_and_as_often_as_the_encoder_asks(
    asked: int | None, early: int, later: int
) -> None:
    """FFmpeg's goodbye is lost behind an acknowledgement that it has not read."""
    encoder = Encoder().publishing()
    if asked is not None:
        encoder.say(chunks.WINDOW_SIZE, struct.pack(">I", asked))
    encoder.say(chunks.PEER_BANDWIDTH, struct.pack(">IB", 1, 2))
    encoder.heard()
    acknowledged = [encoder.session.received]
    while encoder.session.received < 5 * EARLY:
        encoder.say(chunks.VIDEO, bytes(900))
        acknowledged += [int.from_bytes(one.payload) for one in encoder.heard() if one.kind == chunks.ACKNOWLEDGEMENT]
    steps = [(after, after - before) for before, after in pairwise(acknowledged)]
    # A message of 900 bytes has seven headers of chunks.
    assert all(early <= step < early + 920 for after, step in steps[1:] if after <= EARLY)
    assert all(later <= step < later + 920 for after, step in steps if after > EARLY + later)
    assert len(steps) >= 3


def test_pings_of_the_encoder_are_answered() -> None:
    encoder = Encoder().publishing()
    encoder.say(chunks.USER_CONTROL, struct.pack(">HI", 6, 4711))
    assert [one.payload for one in encoder.heard()] == [struct.pack(">HI", 7, 4711)]


def test_a_publish_on_air_can_be_ended_in_words() -> None:
    encoder = Encoder().publishing()
    encoder.session.refuse("codec_unsupported", "Butai passes on H.264", "NetStream.Publish.Rejected")
    ((_, _, _, status),) = encoder.commands()
    assert (status["level"], status["code"]) == ("error", "NetStream.Publish.Rejected")
    assert status["description"] == "codec_unsupported: Butai passes on H.264"
    assert encoder.say(chunks.VIDEO, b"\x17\0") == []
    encoder.session.refuse("again", "again")
    encoder.session.accept()
    assert encoder.commands() == []


EMPTY = b"\x07" + bytes(11)
EMPTY_AGAIN = b"\xc7"


def test_empty_messages_have_a_bound_before_the_key_was_accepted_and_are_counted_later() -> None:
    encoder = Encoder()
    assert encoder.session.feed(EMPTY + (MOST_EARLY_MESSAGES - 1) * EMPTY_AGAIN) == []
    with pytest.raises(ProtocolError):
        encoder.session.feed(EMPTY_AGAIN)
    with pytest.raises(ProtocolError):
        Encoder().session.feed(EMPTY + 60_000 * EMPTY_AGAIN)
    encoder = Encoder().publishing()
    before = encoder.session.messages
    assert encoder.session.feed(EMPTY + 999 * EMPTY_AGAIN) == []
    assert encoder.session.messages == before + 1000
    tags = 3 * (b"\x12" + bytes(10) + b"\0\0\0\x0b")
    assert encoder.say(chunks.AGGREGATE, tags) == []
    assert encoder.session.messages == before + 1004, "an aggregate and its tags"


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (chunks.COMMAND, b"\xff"),
        (chunks.COMMAND, amf0.encode("closeStream")),
        (chunks.COMMAND, amf0.encode("closeStream", float("nan"))),
        (chunks.USER_CONTROL, b"\0"),
        (chunks.WINDOW_SIZE, b"\0"),
    ],
)
def test_what_cannot_be_read_ends_no_publish_and_hides_no_end(kind: int, payload: bytes) -> None:
    encoder = Encoder().publishing()
    assert encoder.say(kind, payload) == []
    assert encoder.say(chunks.VIDEO, b"\x17\0", 10) == [Media("video", 10, b"\x17\0")]
    goodbye = encoder.writer.write(3, Message(chunks.COMMAND, 1, 0, amf0.encode("FCUnpublish", 0, None, KEY)))
    unreadable = encoder.writer.write(3, Message(kind, 1, 0, payload))
    no_chunk = b"\xff"
    assert encoder.session.feed(goodbye + unreadable + no_chunk) == [PublishEnded(in_order=True)]
    before = Encoder()
    before.call("connect", 1, {"app": "live"})
    with pytest.raises(ProtocolError):
        before.say(kind, payload)


def test_a_publisher_that_wants_to_play_has_ended_its_publish() -> None:
    encoder = Encoder().publishing()
    assert encoder.call("play", 0, None, KEY) == [PublishEnded(in_order=False)]
    assert encoder.session.end_of_input() == []


def test_nothing_is_played_here() -> None:
    encoder = Encoder()
    encoder.call("connect", 1, {"app": "live"})
    encoder.heard()
    encoder.call("play", 0, None, KEY)
    ((name, _, _, status),) = encoder.commands()
    assert (name, status["code"]) == ("onStatus", "NetStream.Play.Failed")
    assert encoder.session.step == "over"


@pytest.mark.parametrize(
    "said",
    [
        [("publish", 1, None, KEY)],
        [("connect", 1, {"app": KEY}), ("connect", 2, {"app": KEY})],
        [("connect", 1, {"app": KEY}), ("publish", 2, None, KEY), ("publish", 3, None, KEY)],
        [("connect", "one", {"app": KEY})],
        [("connect", float("nan"), {"app": KEY})],
        [(KEY,)],
    ],
)
def test_what_no_encoder_says_is_refused_without_repeating_it(said: list[tuple[Any, ...]]) -> None:
    encoder = Encoder()
    for values in said[:-1]:
        encoder.call(*values)
    with pytest.raises(ProtocolError) as refused:
        encoder.call(*said[-1])
    assert KEY not in f"{refused.value!r}"
