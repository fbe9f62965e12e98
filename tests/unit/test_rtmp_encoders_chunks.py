"""What encoders send and servers do not: large chunks, extended time stamps in two forms, aggregates, long messages."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butai.relay.rtmp.chunks import (
    ABORT,
    AGGREGATE,
    AUDIO,
    LONGEST_MEDIA,
    LONGEST_MESSAGE,
    MOST_TAGS,
    SET_CHUNK_SIZE,
    VIDEO,
    ChunkReader,
    ChunkWriter,
    Message,
    ProtocolError,
    split,
)
from tests.examples import examples


def without_repetition(channel: int, message: Message, size: int = 128) -> bytes:
    """A message of form 0 whose further chunks do not repeat the extended time stamp."""
    head = bytes((channel,)) + b"\xff\xff\xff" + len(message.payload).to_bytes(3, "big") + bytes((message.kind,))
    head += message.stream.to_bytes(4, "little") + message.timestamp.to_bytes(4, "big")
    parts = [message.payload[at : at + size] for at in range(0, len(message.payload), size)]
    return head + bytes((0xC0 | channel,)).join(parts)


@pytest.mark.parametrize("size", [1, 128, 65536, 2**24 - 1, 2**24, 2**31 - 1])
def test_chunks_of_any_size_that_the_protocol_has_are_read(size: int) -> None:
    reader, writer = ChunkReader(), ChunkWriter()
    reader.feed(writer.write(2, Message(SET_CHUNK_SIZE, 0, 0, struct.pack(">I", size))))
    writer.chunk_size = size
    sent = Message(VIDEO, 1, 40, bytes(range(256)) * 9)
    assert reader.feed(writer.write(6, sent)) == [sent]


@pytest.mark.parametrize("given", [0, 2**31, 2**32 - 1])
def test_sizes_that_the_protocol_does_not_have_are_refused(given: int) -> None:
    with pytest.raises(ProtocolError):
        ChunkReader().feed(ChunkWriter().write(2, Message(SET_CHUNK_SIZE, 0, 0, struct.pack(">I", given))))


@pytest.mark.parametrize("cut", [1, 3, 127, 5000])
def test_an_extended_time_stamp_may_be_missing_before_further_chunks(cut: int) -> None:
    sent = [Message(VIDEO, 1, 0x1000000 + 40 * one, bytes((one, 7)) * 300) for one in range(4)]
    data = b"".join(without_repetition(6, one) for one in sent)
    reader, found = ChunkReader(), list[Message]()
    for at in range(0, len(data), cut):
        found += reader.feed(data[at : at + cut])
    assert found == sent


def test_an_extended_time_stamp_is_there_where_the_publisher_repeats_it() -> None:
    writer, reader = ChunkWriter(), ChunkReader()
    sent = [Message(VIDEO, 1, 0xFFFFFF + 40 * one, bytes(300)) for one in range(3)]
    sent += [Message(AUDIO, 1, 2**32 - 1, bytes(10))]
    # Each on a chunk stream of its own, so that all are of form 0.
    assert reader.feed(b"".join(writer.write(4 + at, one) for at, one in enumerate(sent))) == sent


def test_what_one_chunk_shows_holds_for_the_connection() -> None:
    """A last chunk with fewer than four bytes is not waited for, once it is known how the publisher writes."""
    reader = ChunkReader()
    assert reader.feed(without_repetition(6, Message(VIDEO, 1, 0x1000000, b"a" * 300)))
    short = Message(VIDEO, 1, 0x1000000, b"b" * 129)
    assert reader.feed(without_repetition(6, short)) == [short]


def test_long_messages_are_for_those_who_may_send_them() -> None:
    sent = Message(VIDEO, 1, 0, bytes(LONGEST_MEDIA))
    writer = ChunkWriter()
    writer.chunk_size = 60_000
    data = ChunkWriter().write(2, Message(SET_CHUNK_SIZE, 0, 0, struct.pack(">I", 60_000))) + writer.write(6, sent)
    with pytest.raises(ProtocolError):
        ChunkReader().feed(data)
    reader = ChunkReader()
    reader.longest = LONGEST_MEDIA
    assert reader.feed(data)[-1] == sent
    too_long = b"\x06\0\0\0" + (LONGEST_MEDIA + 1).to_bytes(3, "big") + b"\x09\1\0\0\0"
    with pytest.raises(ProtocolError):
        reader.feed(too_long)


def all_but_a_chunk(channel: int) -> bytes:
    return ChunkWriter().write(channel, Message(VIDEO, 1, 0, bytes(LONGEST_MESSAGE)))[:-129]


def test_messages_that_are_begun_and_never_completed_have_a_bound_together() -> None:
    reader = ChunkReader()
    reader.feed(all_but_a_chunk(3) + all_but_a_chunk(4))
    with pytest.raises(ProtocolError, match="not complete"):
        reader.feed(all_but_a_chunk(5))
    assert reader._unfinished <= 2 * LONGEST_MESSAGE + 128


def test_an_abort_gives_its_bytes_back() -> None:
    reader = ChunkReader()
    for _ in range(10):
        reader.feed(all_but_a_chunk(3))
        reader.feed(ChunkWriter().write(2, Message(ABORT, 0, 0, struct.pack(">I", 3))))
        assert reader._unfinished == 0


def tag(kind: int, timestamp: int, body: bytes) -> bytes:
    head = bytes((kind,)) + len(body).to_bytes(3, "big") + (timestamp & 0xFFFFFF).to_bytes(3, "big")
    return head + bytes((timestamp >> 24, 0, 0, 0)) + body + (len(body) + 11).to_bytes(4, "big")


def test_an_aggregate_has_a_number_of_tags() -> None:
    one = tag(8, 0, b"")
    assert len(split(Message(AGGREGATE, 1, 0, MOST_TAGS * one))) == MOST_TAGS
    with pytest.raises(ProtocolError):
        split(Message(AGGREGATE, 1, 0, (MOST_TAGS + 1) * one))


def test_what_a_message_says_is_not_shown() -> None:
    assert "canary" not in repr(Message(20, 0, 0, b"canary"))


def test_an_aggregate_is_its_tags_at_their_distance_from_the_first() -> None:
    payload = tag(AUDIO, 0x1000010, b"a") + tag(VIDEO, 0x1000031, b"bcd") + tag(AUDIO, 0x1000027, b"")
    assert split(Message(AGGREGATE, 1, 5000, payload)) == [
        Message(AUDIO, 1, 5000, b"a"),
        Message(VIDEO, 1, 5033, b"bcd"),
        Message(AUDIO, 1, 5023, b""),
    ]


@examples(ci=200, deep=3000)
@given(st.binary(max_size=200) | st.builds(lambda body, cut: tag(9, 7, body)[:cut], st.binary(), st.integers(0, 60)))
def test_any_aggregate_is_split_or_refused(payload: bytes) -> None:
    try:
        found = split(Message(AGGREGATE, 1, 2**32 - 1, payload))
    except ProtocolError:
        return
    assert sum(len(one.payload) + 15 for one in found) == len(payload)
    assert all(0 <= one.timestamp < 2**32 for one in found)
