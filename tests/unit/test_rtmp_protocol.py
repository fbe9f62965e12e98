"""RTMP's own layers without a socket: what is written can be read however it is cut, and nothing that is sent breaks us."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butai.relay.packets import AudioFormat, VideoFormat
from butai.relay.rtmp import amf0, flv
from butai.relay.rtmp.addresses import parse
from butai.relay.rtmp.chunks import (
    ABORT,
    ACKNOWLEDGEMENT,
    COMMAND,
    LONGEST_MESSAGE,
    PEER_BANDWIDTH,
    SET_CHUNK_SIZE,
    USER_CONTROL,
    WINDOW_SIZE,
    ChunkReader,
    ChunkWriter,
    Message,
    ProtocolError,
)
from butai.relay.rtmp.failures import Redirected, refused
from butai.relay.rtmp.session import Acknowledged, Connected, Event, Pong, Publishing, PublishRefused, Session
from tests.examples import examples

KEY = "canary-5b7e-key"
ADDRESS = parse("rtmps://b.rtmps.youtube.com:443/live2?backup=1")

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(VALUES, max_size=4))
def test_values_come_back(values: list[object]) -> None:
    assert amf0.decode(amf0.encode(*values)) == values  # pyright: ignore[reportArgumentType]


@examples(ci=200, deep=2000)
@given(st.binary(max_size=200))
def test_any_bytes_are_values_or_refused(data: bytes) -> None:
    try:
        found = amf0.decode(data)
    except amf0.AmfError:
        return
    assert len(found) <= amf0.MOST_VALUES


@pytest.mark.parametrize(
    "data",
    [b"\x0a\x00\x00\x00\x01" * 50, b"\x03\x00\x01a" * 50, b"\x0a\xff\xff\xff\xff" + b"\x05" * 2000, b"\x0d", b"\x00"],
)
def test_deep_long_and_broken_values_are_refused(data: bytes) -> None:
    with pytest.raises(amf0.AmfError):
        amf0.decode(data)


MESSAGES = st.lists(
    st.tuples(
        st.integers(2, 9),
        st.builds(
            Message,
            st.sampled_from([8, 9, 18, 20]),
            st.sampled_from([0, 1]),
            st.one_of(st.integers(0, 5000), st.integers(0xFFFFF0, 0x1000010), st.integers(0, 2**32 - 1)),
            st.binary(max_size=700),
        ),
    ),
    max_size=12,
)


@given(MESSAGES, st.lists(st.integers(1, 300), max_size=60), st.sampled_from([1, 128, 4096]))
def test_messages_come_back_however_the_bytes_are_cut(
    sent: list[tuple[int, Message]], cuts: list[int], chunk_size: int
) -> None:
    writer, reader = ChunkWriter(), ChunkReader()
    resize = Message(SET_CHUNK_SIZE, 0, 0, struct.pack(">I", chunk_size))
    data = writer.write(2, resize)
    writer.chunk_size = chunk_size
    data += b"".join(writer.write(channel, message) for channel, message in sent)
    found: list[Message] = []
    for cut in cuts:
        found += reader.feed(data[:cut])
        data = data[cut:]
    found += reader.feed(data)
    assert found == [resize, *(message for _, message in sent)]


@examples(ci=200, deep=3000)
@given(st.lists(st.binary(max_size=300), max_size=8))
def test_any_bytes_are_messages_or_refused(pieces: list[bytes]) -> None:
    reader = ChunkReader()
    try:
        for piece in pieces:
            for message in reader.feed(piece):
                assert len(message.payload) <= LONGEST_MESSAGE
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"\x02\x00\x00\x00\xff\xff\xff\x14\x00\x00\x00\x00",  # sixteen megabytes
        b"\xc3\x00",  # a continuation of nothing
        ChunkWriter().write(2, Message(SET_CHUNK_SIZE, 0, 0, struct.pack(">I", 0))),
        ChunkWriter().write(2, Message(SET_CHUNK_SIZE, 0, 0, struct.pack(">i", -1))),
        b"".join(ChunkWriter().write(channel, Message(18, 0, 0, b"x" * 5)) for channel in range(3, 40)),
    ],
)
def test_what_no_server_needs_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        ChunkReader().feed(data)


def test_an_aborted_message_is_forgotten() -> None:
    whole = ChunkWriter().write(3, Message(18, 0, 0, b"x" * 200))
    abort = ChunkWriter().write(2, Message(ABORT, 0, 0, struct.pack(">I", 3)))
    reader = ChunkReader()
    assert reader.feed(whole[:140]) == []
    assert [message.kind for message in reader.feed(abort)] == [ABORT]
    assert reader.feed(ChunkWriter().write(3, Message(18, 0, 7, b"y"))) == [Message(18, 0, 7, b"y")]


class Server:
    """The other side, as its own bytes."""

    def __init__(self) -> None:
        self.writer, self.reader = ChunkWriter(), ChunkReader()
        self.session = Session(ADDRESS, KEY)
        self.heard: list[Message] = []

    def listen(self) -> list[list[object]]:
        new = self.reader.feed(self.session.data_to_send())
        self.heard += new
        return [amf0.decode(message.payload) for message in new if message.kind == COMMAND]

    def say(self, kind: int, payload: bytes, stream: int = 0) -> list[Event]:
        return self.session.feed(self.writer.write(3, Message(kind, stream, 0, payload)))

    def answer(self, *values: object) -> list[Event]:
        return self.say(COMMAND, amf0.encode(*values))  # pyright: ignore[reportArgumentType]

    def publishing(self) -> None:
        assert len(self.session.data_to_send()) == 1537
        assert self.session.feed(b"\x03" + bytes(1535)) == []
        assert self.session.feed(bytes(1537)) == []
        hello = self.session.data_to_send()
        assert hello[:1536] == bytes(1536)
        self.heard += self.reader.feed(hello[1536:])
        command = amf0.decode(self.heard[1].payload)
        assert command[:2] == ["connect", 1.0]
        assert command[2]["app"] == "live2?backup=1"
        assert command[2]["tcUrl"] == "rtmps://b.rtmps.youtube.com:443/live2?backup=1"
        assert self.heard[2] == Message(WINDOW_SIZE, 0, 0, struct.pack(">I", 65536))
        assert self.answer("_result", 1, {}, {"code": "NetConnection.Connect.Success"}) == [Connected()]
        assert [command[0] for command in self.listen()] == ["releaseStream", "FCPublish", "createStream"]
        assert self.answer("_error", 2, None, {"code": "NetConnection.Call.Failed"}) == []
        assert self.answer("_result", 4, None, 1) == []
        assert self.listen() == [["publish", 5.0, None, KEY, "live"]]
        assert self.answer("onStatus", 0, None, {"code": "NetStream.Publish.Start", "level": "status"}) == [
            Publishing()
        ]


def test_a_publish_from_hello_to_goodbye() -> None:
    server = Server()
    server.publishing()
    assert server.session.step == "publishing"
    server.session.ping(7)
    server.listen()
    assert server.heard[-1] == Message(USER_CONTROL, 0, 0, struct.pack(">HI", 6, 7))
    assert server.say(USER_CONTROL, struct.pack(">HI", 7, 7)) == [Pong(7)]
    assert server.say(USER_CONTROL, struct.pack(">HI", 6, 99)) == []
    server.listen()
    assert server.heard[-1] == Message(USER_CONTROL, 0, 0, struct.pack(">HI", 7, 99))
    server.session.goodbye()
    assert [command[0] for command in server.listen()] == ["FCUnpublish", "deleteStream"]


@pytest.mark.parametrize("number", [0, 65_536, 2**31, 2**32 - 1])
def test_each_acknowledgement_is_told_whatever_its_number(number: int) -> None:
    server = Server()
    server.publishing()
    assert server.say(ACKNOWLEDGEMENT, struct.pack(">I", 70_000)) == [Acknowledged(70_000)]
    assert server.say(ACKNOWLEDGEMENT, struct.pack(">I", number)) == [Acknowledged(number)]
    assert server.say(ACKNOWLEDGEMENT, struct.pack(">I", number)) == [Acknowledged(number)]


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x00\x01\x02", b"\x00\x01\x11\x70\xff\xff"])
def test_an_acknowledgement_of_another_length_ends_nothing(payload: bytes) -> None:
    server = Server()
    server.publishing()
    assert server.say(ACKNOWLEDGEMENT, payload) == [Acknowledged(int.from_bytes(payload[:4], "big"))]


def test_a_peer_bandwidth_is_answered_with_our_window() -> None:
    server = Server()
    server.publishing()
    assert server.say(PEER_BANDWIDTH, struct.pack(">IB", 2_500_000, 2)) == []
    server.listen()
    assert server.heard[-1] == Message(WINDOW_SIZE, 0, 0, struct.pack(">I", 65536))


@pytest.mark.parametrize("number", [2, 3])
def test_a_no_to_a_courtesy_ends_nothing_also_after_the_start(number: int) -> None:
    server = Server()
    server.publishing()
    assert server.answer("_error", number, None, {"level": "error", "code": "NetConnection.Call.Failed"}) == []


def test_an_answer_belongs_to_the_call_that_it_names() -> None:
    server = Server()
    server.session.data_to_send()
    server.session.feed(b"\x03" + bytes(3072))
    server.heard += server.reader.feed(server.session.data_to_send()[1536:])
    # Of no call, of one that was not made yet, and a number that is none.
    assert server.answer("_error", 0, None, {"level": "error", "code": "NetConnection.Call.Failed"}) == []
    assert server.answer("_result", 4, None, 1) == []
    assert server.answer("_result", "1", {}, {}) == []
    assert server.session.step == "connect"
    assert server.answer("_result", 1, {}, {"code": "NetConnection.Connect.Success"}) == [Connected()]
    # An answer that comes twice is of no call the second time.
    assert server.answer("_error", 1, None, {"level": "error", "code": "NetConnection.Connect.Rejected"}) == []
    # Nothing is published before there is a stream.
    good = {"code": "NetStream.Publish.Start", "level": "status"}
    assert server.answer("onStatus", 0, None, good) == []
    assert server.answer("_result", 4, None, 7) == []
    assert server.listen()[-1] == ["publish", 5.0, None, KEY, "live"]
    assert server.answer("onStatus", 0, None, good) == [Publishing()]


@pytest.mark.parametrize(("number", "step"), [(1, "connect"), (4, "publish"), (5, "publish")])
def test_a_no_to_a_call_that_is_needed_is_a_refusal(number: int, step: str) -> None:
    server = Server()
    server.session.data_to_send()
    server.session.feed(b"\x03" + bytes(3072))
    if number > 1:
        server.answer("_result", 1, {}, {"code": "NetConnection.Connect.Success"})
    if number > 4:
        server.answer("_result", 4, None, 1)
    assert server.session.step == step
    assert server.answer("_error", number, None, {"code": "x", "description": "no"}) == [PublishRefused("x", "no")]


def test_a_good_answer_that_says_no_is_a_refusal() -> None:
    server = Server()
    server.session.data_to_send()
    server.session.feed(b"\x03" + bytes(3072))
    said = {"level": "error", "code": "NetConnection.Connect.Rejected", "description": "auth"}
    assert server.answer("_result", 1, {}, said) == [PublishRefused("NetConnection.Connect.Rejected", "auth")]


@pytest.mark.parametrize("word", ["NetStream.Record.Failed", "NetStream.Record.NoAccess", "NetStream.Play.Failed"])
def test_what_becomes_of_recordings_and_viewers_ends_no_publish(word: str) -> None:
    server = Server()
    server.publishing()
    assert server.answer("onStatus", 0, None, {"level": "error", "code": word}) == []


@pytest.mark.parametrize(
    "said",
    [
        # brpc's answer to a publish that it refuses.
        {"level": "error", "code": "NetStream.Play.StreamNotFound"},
        {"level": "Error", "code": "NetStream.Publish.Whatever"},
        {"code": "NetStream.Publish.Unauthorized"},
        {"code": "NetConnection.Connect.InvalidApp"},
    ],
)
def test_a_refusal_before_the_start_is_one_in_whatever_words(said: dict[str, str]) -> None:
    server = Server()
    server.session.data_to_send()
    server.session.feed(b"\x03" + bytes(3072))
    server.answer("_result", 1, {}, {"code": "NetConnection.Connect.Success"})
    server.answer("_result", 4, None, 1)
    assert server.answer("onStatus", 0, None, said) == [PublishRefused(said["code"], "")]


@pytest.mark.parametrize(
    ("reason", "words"),
    [("no such room", "no such room"), ({"message": "no such room", "n": 1}, "no such room"), (7, "")],
)
def test_the_reason_of_an_application_is_read(reason: object, words: str) -> None:
    server = Server()
    server.session.data_to_send()
    server.session.feed(b"\x03" + bytes(3072))
    said = {"level": "error", "code": "NetConnection.Connect.Rejected", "application": reason}
    assert server.answer("_error", 1, None, said) == [PublishRefused("NetConnection.Connect.Rejected", words)]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (COMMAND, amf0.encode("onBWDone", 0, None) + b"\x11\x0a\x0b\x01"),  # a value of AMF 3
        (COMMAND, b"\x02\x00\x40half"),
        (COMMAND, b""),
        (USER_CONTROL, b"\x00\x1a"),
        (WINDOW_SIZE, b"\x00"),
        (PEER_BANDWIDTH, b""),
    ],
)
def test_a_note_that_cannot_be_read_ends_no_broadcast(kind: int, payload: bytes) -> None:
    server = Server()
    server.publishing()
    assert server.say(kind, payload) == []
    assert server.say(USER_CONTROL, struct.pack(">HI", 7, 5)) == [Pong(5)]


def test_a_user_control_without_a_number_ends_no_connection_before_the_start() -> None:
    server = Server()
    server.session.data_to_send()
    server.session.feed(b"\x03" + bytes(3072))
    assert server.say(USER_CONTROL, b"\x00\x1a") == []
    assert server.answer("_result", 1, {}, {"code": "NetConnection.Connect.Success"}) == [Connected()]


def test_a_status_of_a_class_is_read() -> None:
    status = b"\x10\x00\x06Status" + amf0.encode({"level": "error", "code": "NetStream.Publish.BadName"})[1:]
    server = Server()
    server.publishing()
    said = server.say(COMMAND, amf0.encode("onStatus", 0, None) + status)
    assert said == [PublishRefused("NetStream.Publish.BadName", "")]


@pytest.mark.parametrize("form", ["onStatus", "_error"])
def test_a_redirect_names_another_server(form: str) -> None:
    server = Server()
    server.session.data_to_send()
    server.session.feed(b"\x03" + bytes(3072))
    to = {"code": 302, "redirect": "rtmp://other/live", "redirect2": "rtmp://other/live/stream"}
    said = {"level": "error", "code": "NetConnection.Connect.Rejected", "description": "RTMP 302 Redirect", "ex": to}
    (refusal,) = server.answer(form, 1, None, said)
    assert isinstance(refusal, PublishRefused) and refusal.redirect == "rtmp://other/live"
    error = refused(refusal, "connect", KEY)
    assert isinstance(error, Redirected) and (error.code, error.retryable) == ("redirected", False)
    assert refused(refusal, "publishing", KEY).code == "destination_closed"


def test_the_metadata_are_an_ecma_array() -> None:
    video, audio = VideoFormat(1280, 720, 30, 3500, b""), AudioFormat(48000, 2, 128, b"")
    data = flv.metadata(video, audio)
    name, what, fields = amf0.decode(data)
    assert (name, what, fields["width"], fields["stereo"]) == ("@setDataFrame", "onMetaData", 1280, True)
    head = amf0.encode("@setDataFrame", "onMetaData")
    assert data[len(head) :].startswith(b"\x08" + struct.pack(">I", len(fields)))


@pytest.mark.parametrize("word", ["NetStream.Publish.BadName", "NetStream.Publish.Denied", "NetStream.Failed"])
def test_a_refusal_is_one_whatever_its_level(word: str) -> None:
    server = Server()
    server.publishing()
    assert server.answer("onStatus", 0, None, {"level": "status", "code": word}) == [PublishRefused(word, "")]


def test_a_chunk_stream_may_begin_without_naming_its_stream() -> None:
    ping = b"\x42\x00\x00\x00\x00\x00\x06\x04" + struct.pack(">HI", 6, 5)
    assert ChunkReader().feed(ping) == [Message(USER_CONTROL, 0, 0, struct.pack(">HI", 6, 5))]


def test_what_is_received_is_acknowledged_by_their_window() -> None:
    server = Server()
    server.publishing()
    server.say(WINDOW_SIZE, struct.pack(">I", 100))
    server.session.data_to_send()
    server.say(18, b"x" * 120)
    server.listen()
    assert server.heard[-1].kind == ACKNOWLEDGEMENT


@examples(ci=200, deep=2000)
@given(st.lists(st.binary(max_size=400), max_size=5), st.booleans())
def test_any_server_is_understood_or_refused(pieces: list[bytes], shaken: bool) -> None:
    session = Session(ADDRESS, KEY)
    try:
        if shaken:
            session.feed(b"\x03" + bytes(3072))
        for piece in pieces:
            session.feed(piece)
    except ProtocolError:
        return
    assert len(session.data_to_send()) < 200_000


@examples(ci=200, deep=2000)
@given(
    st.lists(VALUES, max_size=5), st.sampled_from(["_result", "_error", "onStatus", "close", "x"]), st.integers(0, 5)
)
def test_any_command_is_understood_or_refused(values: list[object], name: str, number: int) -> None:
    server = Server()
    server.publishing()
    try:
        events = server.answer(name, number, *values)
    except ProtocolError:
        return
    assert all(isinstance(event, PublishRefused) for event in events)


@pytest.mark.parametrize("stream", [math.nan, math.inf, 0, -1, 2**40, "1", None])
def test_a_stream_that_is_none_is_refused(stream: object) -> None:
    server = Server()
    server.session.data_to_send()
    server.session.feed(b"\x03" + bytes(3072))
    server.answer("_result", 1, {}, {})
    with pytest.raises(ProtocolError):
        server.answer("_result", 4, None, stream)
