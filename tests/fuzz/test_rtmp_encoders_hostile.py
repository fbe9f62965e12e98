"""Encoders that send anything: the server's side takes it or refuses it, keeps little, answers little, repeats no key."""

from __future__ import annotations

import random
import struct

from hypothesis import given
from hypothesis import strategies as st

from butai.relay.rtmp import amf0
from butai.relay.rtmp.chunks import LONGEST_MEDIA, LONGEST_MESSAGE, ChunkWriter, Message, ProtocolError
from butai.relay.rtmp.server_session import LONGEST_CANDIDATE, PublishAsked, PublishEnded, ServerSession
from tests.examples import examples
from tests.fuzz.network import pieces

KEY = "canary-hostile-91c2"
HELLO = b"\x03" + bytes(3072)

NUMBERS = st.sampled_from([0.0, 1.0, 2.0, -1.0, 2.0**31, 2.0**64, float("inf"), float("nan")])
LEAVES = (
    st.none()
    | st.booleans()
    | NUMBERS
    | st.sampled_from(["", KEY, f"rtmp://[{KEY}", "x" * 2000])
    | st.text(max_size=30)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["app", "tcUrl", "x"]) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
COMMANDS = st.builds(
    lambda name, number, rest: amf0.encode(name, number, *rest),
    st.sampled_from(
        ["connect", "createStream", "publish", "play", "deleteStream", "FCUnpublish", "FCPublish", "_checkbw", "", KEY]
    ),
    NUMBERS | VALUES,
    st.lists(VALUES, max_size=4),
)
U32 = st.sampled_from([0, 1, 127, 128, 65536, 2**24 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1])
PAYLOADS = (
    COMMANDS
    | st.binary(max_size=300)
    | U32.map(lambda number: struct.pack(">I", number))
    | st.builds(lambda what, number: struct.pack(">HI", what, number), st.integers(0, 40), U32)
    | st.just(amf0.encode("@setDataFrame", "onMetaData", amf0.EcmaArray({"width": float("nan"), KEY: KEY})))
    | st.sampled_from([b"\x0a\x00\x00\x00\x01" * 200, b"\x03\x00\x01a" * 200, b"\x0c\xff\xff\xff\xff", b"\x02\xff\xff"])
)
KINDS = st.sampled_from([1, 2, 3, 4, 5, 6, 8, 9, 15, 17, 18, 20, 22, 255])
MESSAGES = st.lists(
    st.tuples(st.integers(2, 24), st.builds(Message, KINDS, st.integers(0, 2), U32, PAYLOADS)), max_size=12
)


def agreed(until: int) -> list[Message]:
    """What an encoder says that publishes, so far."""
    said = [
        amf0.encode("connect", 1, {"app": "live", "tcUrl": "rtmp://host/live"}),
        amf0.encode("createStream", 2, None),
        amf0.encode("publish", 3, None, KEY, "live"),
    ]
    return [Message(20, 0, 0, payload) for payload in said[:until]]


def held(session: ServerSession) -> int:
    """Bytes that a session keeps of what it was sent."""
    reader = session._reader
    parts = sum(len(stream.payload or b"") for stream in reader._streams.values())
    assert parts == reader._unfinished
    return len(session._opening) + len(reader._buffer) + parts + sum(map(len, session._addresses))


def heard(data: bytes, chance: random.Random, *, takes: bool) -> None:
    """Feeds all of it, as a network would; stops at the first refusal."""
    session, answered, asked, ended, refusal = ServerSession(), 0, 0, 0, ""
    try:
        for piece in pieces(data, chance):
            for event in session.feed(piece):
                assert "canary" not in repr(event)
                if isinstance(event, PublishAsked):
                    asked += 1
                    assert all(0 < len(one) <= LONGEST_CANDIDATE for one in event.candidates)
                    (session.accept if takes else lambda: session.refuse("key_invalid", "No encoder has this key"))()
                ended += isinstance(event, PublishEnded)
            assert held(session) <= 3 * (LONGEST_MEDIA if takes else LONGEST_MESSAGE)
            answered += len(session.data_to_send())
    except ProtocolError as error:
        refusal = repr(error)
    assert "canary" not in refusal
    ended += len(session.end_of_input())
    assert asked <= 1 and ended <= asked
    assert answered <= 10_000 + 20 * len(data)


@examples(ci=200, deep=3000, deadline=None)
@given(st.integers(0, 3), MESSAGES, st.booleans(), st.randoms(use_true_random=False))
def test_any_messages_at_any_step_are_taken_or_refused(
    step: int, messages: list[tuple[int, Message]], takes: bool, chance: random.Random
) -> None:
    writer = ChunkWriter()
    data = HELLO + b"".join(writer.write(3, message) for message in agreed(step))
    for channel, message in messages:
        data += writer.write(channel, message)
        if message.kind == 1 and len(message.payload) >= 4:
            size = int.from_bytes(message.payload[:4], "big")
            writer.chunk_size = size if 0 < size < 2**31 else 128
    heard(data, chance, takes=takes)


@examples(ci=200, deep=3000, deadline=None)
@given(
    MESSAGES, st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6), st.booleans(), st.randoms()
)
def test_a_conversation_with_flipped_bytes_is_taken_or_refused(
    messages: list[tuple[int, Message]], flips: list[tuple[int, int]], takes: bool, chance: random.Random
) -> None:
    writer = ChunkWriter()
    said = [(3, message) for message in agreed(3)] + messages
    data = bytearray(b"".join(writer.write(channel, message) for channel, message in said))
    for place, value in flips:
        data[place % len(data)] = value
    heard(HELLO + bytes(data), chance, takes=takes)


@examples(ci=200, deep=1000, deadline=None)
@given(st.binary(max_size=4000), st.booleans(), st.randoms())
def test_any_bytes_in_place_of_chunks_are_refused_or_waited_for(
    data: bytes, greets: bool, chance: random.Random
) -> None:
    heard((HELLO if greets else b"") + data, chance, takes=True)
