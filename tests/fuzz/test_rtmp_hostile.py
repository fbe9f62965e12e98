"""RTMP servers that send anything: the publisher's side ends with a code, keeps little, and is never long about it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import sys
import time

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from butai.relay.packets import Packet, VideoFormat
from butai.relay.rtmp import amf0
from butai.relay.rtmp.addresses import parse
from butai.relay.rtmp.chunks import LONGEST_MESSAGE, MOST_STREAMS, ChunkWriter, Message, ProtocolError
from butai.relay.rtmp.connection import Limits, Target
from butai.relay.rtmp.preflight import check
from butai.relay.rtmp.publisher import Publisher, PublishError
from butai.relay.rtmp.session import Acknowledged, Session
from tests.examples import examples
from tests.fuzz.network import pieces

KEY = "canary-hostile-77d0"
ADDRESS = parse("rtmp://127.0.0.1/live")
CODES = {
    *("key_rejected", "already_publishing", "destination_unreachable", "destination_closed", "destination_stalled"),
    *("invalid_destination", "tls_failed"),
}

NUMBERS = st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, -1.0, 2.0**31, 2.0**64, float("inf"), float("nan")])
WORDS = st.sampled_from(
    [
        *("NetConnection.Connect.Success", "NetConnection.Connect.Rejected", "NetConnection.Connect.InvalidApp"),
        *("NetStream.Publish.Start", "NetStream.Publish.BadName", "NetStream.Publish.Denied", "", KEY, KEY.upper()),
    ]
)
LEAVES = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=30)
STATUS = st.fixed_dictionaries(
    {"code": WORDS | LEAVES}, optional={"level": WORDS | st.just("error"), "description": LEAVES}
)
VALUES = STATUS | st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
COMMANDS = st.builds(
    lambda name, number, rest: amf0.encode(name, number, *rest),
    st.sampled_from(["_result", "_error", "onStatus", "close", "onBWDone", "publish", ""]),
    NUMBERS | VALUES,
    st.lists(VALUES, max_size=4),
)
U32 = st.sampled_from([0, 1, 127, 128, 65536, 2**24 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1])
PAYLOADS = (
    COMMANDS
    | st.binary(max_size=300)
    | U32.map(lambda number: struct.pack(">I", number))
    | st.builds(lambda what, number: struct.pack(">HI", what, number), st.integers(0, 40), U32)
    | st.sampled_from([b"\x0a\x00\x00\x00\x01" * 200, b"\x03\x00\x01a" * 200, b"\x0c\xff\xff\xff\xff", b"\x02\xff\xff"])
)
KINDS = st.sampled_from([1, 2, 3, 4, 5, 6, 8, 9, 15, 17, 18, 20, 22, 255])
MESSAGES = st.lists(
    st.tuples(st.integers(2, 24), st.builds(Message, KINDS, st.integers(0, 2), U32, PAYLOADS)), max_size=12
)


def agreed(until: int = 3) -> list[Message]:
    """What a platform says that takes everything, so far."""
    said = [
        amf0.encode("_result", 1, None, {"code": "NetConnection.Connect.Success"}),
        amf0.encode("_result", 4, None, 1),
        amf0.encode("onStatus", 0, None, {"level": "status", "code": "NetStream.Publish.Start"}),
    ]
    return [Message(20, 0, 0, payload) for payload in said[:until]]


def held(session: Session) -> int:
    """Bytes that a session keeps of what it was sent."""
    reader = session._reader
    parts = sum(len(stream.payload or b"") for stream in reader._streams.values())
    return len(session._handshake) + len(reader._buffer) + parts


def heard(session: Session, data: bytes, chance: random.Random) -> None:
    """Feeds all of it, as a network would; stops at the first refusal."""
    answered = 0
    with contextlib.suppress(ProtocolError):
        for piece in pieces(data, chance):
            for event in session.feed(piece):
                if isinstance(event, Acknowledged):
                    assert 0 <= event.number < 2**32
            answered += len(session.data_to_send())
    assert held(session) <= (MOST_STREAMS + 1) * LONGEST_MESSAGE
    assert answered <= 10_000 + 20 * len(data)


@examples(ci=200, deep=3000, deadline=None)
@given(st.integers(0, 3), MESSAGES, st.randoms(use_true_random=False))
def test_any_messages_at_any_step_are_understood_or_refused(
    step: int, messages: list[tuple[int, Message]], chance: random.Random
) -> None:
    writer = ChunkWriter()
    data = b"\x03" + bytes(3072)
    data += b"".join(writer.write(3, message) for message in agreed(step))
    for channel, message in messages:
        data += writer.write(channel, message)
        if message.kind == 1 and len(message.payload) >= 4:
            size = int.from_bytes(message.payload[:4], "big")
            writer.chunk_size = size if 0 < size < 2**24 else 128
    heard(Session(ADDRESS, KEY), data, chance)


@examples(ci=200, deep=3000, deadline=None)
@given(MESSAGES, st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6), st.randoms())
def test_a_conversation_with_flipped_bytes_is_understood_or_refused(
    messages: list[tuple[int, Message]], flips: list[tuple[int, int]], chance: random.Random
) -> None:
    writer = ChunkWriter()
    said = [(3, message) for message in agreed()] + messages
    data = bytearray(b"".join(writer.write(channel, message) for channel, message in said))
    for place, value in flips:
        data[place % len(data)] = value
    heard(Session(ADDRESS, KEY), b"\x03" + bytes(3072) + data, chance)


@examples(ci=200, deep=1000, deadline=None)
@given(st.binary(max_size=4000), st.randoms())
def test_any_bytes_in_place_of_chunks_are_refused_or_waited_for(data: bytes, chance: random.Random) -> None:
    heard(Session(ADDRESS, KEY), b"\x03" + bytes(3072) + data, chance)


@pytest.mark.parametrize("size", [1, 128, 65536, 2**24 - 1])
def test_messages_that_never_end_are_kept_up_to_their_limit_alone(size: int) -> None:
    session, writer = Session(ADDRESS, KEY), ChunkWriter()
    session.feed(b"\x03" + bytes(3072))
    session.feed(writer.write(2, Message(1, 0, 0, struct.pack(">I", size))))
    began = time.monotonic()
    with contextlib.suppress(ProtocolError):
        for channel in range(3, 64):
            head = bytes((channel, 0, 0, 0)) + (LONGEST_MESSAGE).to_bytes(3, "big") + b"\x12" + bytes(4)
            first = min(size, LONGEST_MESSAGE - 1)
            session.feed(head + bytes(first))
            for _ in range((LONGEST_MESSAGE - 1 - first) // size if size < 65536 else 0):
                session.feed(bytes((0xC0 | channel,)) + bytes(size))
    assert held(session) <= (MOST_STREAMS + 1) * LONGEST_MESSAGE
    assert sys.getsizeof(session._reader._buffer) < 4 * LONGEST_MESSAGE
    assert time.monotonic() - began < 20


# Over a socket

VIDEO = VideoFormat(640, 360, 30, 2000, bytes(20))
LIMITS = Limits(connect_timeout=1, publish_timeout=0.4, stall_after=0.2, ignored_after=0.2, give_up_stalled=0.3)


async def ended(said: bytes, *, hangs_up: bool) -> tuple[str, str]:
    """How a publish ends at a server that says this; an empty code where it would go on."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.write(said)
            await writer.drain()
            if hangs_up:
                await asyncio.sleep(0.05)
            else:
                await asyncio.sleep(3)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"rtmp://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"
    publisher = Publisher(Target(url, KEY, True), report=lambda *_: None, limits=LIMITS)
    task = asyncio.create_task(publisher.run())
    try:
        async with asyncio.timeout(4):
            for number in range(80):
                publisher.send(Packet("video", bytes(20_000), number * 33, number * 33, number % 30 == 0, VIDEO))
                done, _ = await asyncio.wait([task], timeout=0.02)
                if done:
                    break
            publisher.stop()
            await task
    except PublishError as error:
        return error.code, f"{error!r} {error.detail}"
    finally:
        server.close()
    return "", ""


@examples(ci=20, deep=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 3), MESSAGES, st.binary(max_size=200), st.booleans())
def test_every_server_ends_with_a_code_in_time_and_no_key_in_the_words(
    step: int, messages: list[tuple[int, Message]], rest: bytes, hangs_up: bool
) -> None:
    writer = ChunkWriter()
    said = b"\x03" + bytes(3072) + b"".join(writer.write(3, message) for message in agreed(step))
    said += b"".join(writer.write(channel, message) for channel, message in messages) + rest
    began = time.monotonic()
    code, words = asyncio.run(ended(said, hangs_up=hangs_up))
    assert time.monotonic() - began < 4
    assert code in CODES | {""}
    if hangs_up or step < 3:
        assert code
    assert "canary" not in words.lower()


@examples(ci=40, deep=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=4000))
def test_every_server_is_tried_to_an_end(said: bytes) -> None:
    async def tried() -> list[str]:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.drain()
                await asyncio.sleep(3)
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"rtmp://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"
        try:
            async with asyncio.timeout(3):
                steps = await check(Target(url, KEY, True), publish=True, limits=LIMITS)
        finally:
            server.close()
        assert "canary" not in repr(steps)
        return [step.code for step in steps if not step.ok]

    assert asyncio.run(tried()) == ["destination_unreachable"]
