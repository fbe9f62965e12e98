"""What an ingest does with those who publish: one for each key, a relay or a rehearsal; and a successor that takes over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import structlog

from butai.errors import Code
from butai.ingest import listening, publishers
from butai.ingest.connection import KeyRefused
from butai.ingest.listening import Listening, listen
from butai.ingest.publishers import Publisher, Publishers, Source
from butai.relay.incoming.tags import SourceRefused
from butai.relay.incoming.wire import Ended, Frame, FrameReader, Hello, Refused, source_socket, write
from butai.relay.rtmp.server_session import Media, Metadata
from tests.waiting import until

AVC, AAC = Media("video", 0, b"\x17\0\0\0\0avcc"), Media("audio", 0, b"\xaf\0\x11\x90")
SOUND = Media("audio", 20, b"\xaf\x01sound")
BROADCAST = "0c2f"


@dataclass
class Encoder:
    """A connection, as the ingest's function of admission sees it."""

    address: str = "203.0.113.9"
    told: list[Code] = field(default_factory=list[Code])
    receiver: Publisher | None = None

    def end(self, code: Code, text: str) -> None:
        assert text
        self.told.append(code)
        if self.receiver is not None:
            self.receiver.ended(in_order=False)


@dataclass
class Relay:
    """What listens in a relay's place."""

    folder: Path
    links: list[list[Frame]] = field(default_factory=list[list[Frame]])
    writers: list[asyncio.StreamWriter] = field(default_factory=list[asyncio.StreamWriter])
    closed: int = 0

    async def serve(self) -> asyncio.Server:
        path = source_socket(self.folder, BROADCAST)
        path.unlink(missing_ok=True)
        return await asyncio.start_unix_server(self._take, path)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames, link = FrameReader(), list[Frame]()
        self.links.append(link)
        self.writers.append(writer)
        while data := await reader.read(65536):
            link += frames.feed(data)
        self.closed += 1
        writer.close()


@pytest.fixture
async def all_(tmp_path: Path) -> AsyncIterator[Publishers]:
    found = Publishers(tmp_path)
    yield found
    for one in found.all():
        one.ended(in_order=False)


def source(key: UUID) -> Source:
    return Source(key, "studio-1", "OBS at home", "0123456789ab")


def admit(all_: Publishers, key: UUID) -> tuple[Publisher, Encoder]:
    encoder = Encoder()
    encoder.receiver = all_.admit(source(key), encoder)
    return encoder.receiver, encoder


async def test_a_newer_connection_takes_over_once(all_: Publishers, monkeypatch: pytest.MonkeyPatch) -> None:
    key = uuid4()
    over = list[Publisher]()
    all_.when_ended = over.append
    first, encoder = admit(all_, key)
    first.media(AVC)
    second, newer = admit(all_, key)
    assert encoder.told == [Code.ENCODER_REPLACED] and over == [first] and all_.all() == [second]
    # The replaced encoder connects again by itself, and would go on for ever.
    second.media(AVC)
    for _ in range(3):
        with pytest.raises(KeyRefused) as refused:
            admit(all_, key)
        assert refused.value.code == Code.ENCODER_KEY_IN_USE
    assert not newer.told and all_.all() == [second]
    # Other keys are not concerned.
    other, _ = admit(all_, uuid4())
    assert len(all_.all()) == 2
    other.ended(in_order=True)
    # What sends nothing more is replaced at any time, as after a lost network.
    monkeypatch.setattr(publishers, "SILENT_AFTER", 0.0)
    third, _ = admit(all_, key)
    assert newer.told == [Code.ENCODER_REPLACED] and all_.all() == [third]
    monkeypatch.undo()
    fourth, _ = admit(all_, key)
    assert all_.all() == [fourth], "the third took over from none that was sending"
    # When it has ended, the next one has nothing to take over.
    fourth.ended(in_order=True)
    assert all_.all() == [] and over == [first, other, second, third, fourth]
    fifth, _ = admit(all_, key)
    assert not fifth.took_over


async def test_a_publisher_without_a_relay_is_a_rehearsal_and_begins_a_link_with_its_headers(
    all_: Publishers, tmp_path: Path
) -> None:
    publisher, encoder = admit(all_, uuid4())
    publisher.metadata({"framerate": 30})
    publisher.media(AAC)
    publisher.media(SOUND)
    assert publisher.broadcast_id is None
    figures = publisher.figures()
    assert (figures["sound_rate"], figures["sound_channels"], figures["bytes"]) == (48000, 2, 11)
    # A broadcast whose relay takes no links: a rehearsal still.
    publisher.assign(BROADCAST)
    await asyncio.sleep(0)
    publisher.media(SOUND)
    assert publisher.broadcast_id is None
    relay = Relay(tmp_path)
    async with asyncio.timeout(30):
        server = await relay.serve()
        await until(lambda: publisher.broadcast_id == BROADCAST, "a link")
        publisher.media(SOUND)
        # The connection stands before the relay's side has been told of it.
        await until(lambda: bool(relay.links) and len(relay.links[0]) == 4, "frames")
        hello, *rest = relay.links[0]
        assert isinstance(hello, Hello) and hello.since > 0
        assert (hello.source, hello.source_id, hello.label) == ("encoder", str(publisher.source.id), "OBS at home")
        assert rest == [Metadata({"framerate": 30}), AAC, SOUND]
        # A relay that dies and comes back: the same again, and what came meanwhile is left out.
        relay.writers[0].transport.abort()
        await until(lambda: len(relay.links) == 2 and publisher.broadcast_id is not None, "another link")
        publisher.ended(in_order=True)
        await until(lambda: Ended(in_order=True) in relay.links[1], "the end")
        assert relay.links[1][1:] == [Metadata({"framerate": 30}), AAC, Ended(in_order=True)]
        await until(lambda: relay.closed >= 1, "a closed link")
        server.close()
    assert not encoder.told


async def test_what_a_relay_refuses_is_told_to_the_encoder(all_: Publishers, tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    publisher, encoder = admit(all_, uuid4())
    async with asyncio.timeout(30):
        server = await relay.serve()
        publisher.assign(BROADCAST)
        await until(lambda: publisher.broadcast_id is not None, "a link")
        await until(lambda: len(relay.writers) == 1, "a connection")
        relay.writers[0].write(write(Refused("codec_unsupported", "The picture is HEVC (H.265)")))
        await until(lambda: encoder.told == [Code.CODEC_UNSUPPORTED], "a word")
        server.close()
    assert all_.all() == []


async def test_what_cannot_be_passed_on_is_refused_in_a_rehearsal_too(all_: Publishers) -> None:
    publisher, _ = admit(all_, uuid4())
    with pytest.raises(SourceRefused):
        publisher.media(Media("video", 0, b"\x12picture of H.263"))


async def test_a_relay_that_reads_nothing_costs_no_memory_beyond_its_bound(
    all_: Publishers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("butai.ingest.links.MOST_UNREAD", 1024 * 1024)
    begun = asyncio.Event()

    async def hangs(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await asyncio.sleep(60)
        writer.close()

    server = await asyncio.start_unix_server(hangs, source_socket(tmp_path, BROADCAST), limit=1024)
    publisher, encoder = admit(all_, uuid4())
    publisher.assign(BROADCAST)
    async with asyncio.timeout(30):
        await until(lambda: publisher.broadcast_id is not None, "a link")
        for _ in range(200):
            if publisher.broadcast_id is None:
                break
            publisher.media(Media("audio", 0, b"\xaf\x01" + bytes(65536)))
        assert publisher.broadcast_id is None, "the link is closed, and the publish goes on"
    assert not encoder.told
    server.close()


async def taking(one: Listening) -> bool:
    """Whether a connection to its port is accepted by it."""
    loop = asyncio.get_running_loop()
    one.socket.setblocking(False)
    _, writer = await asyncio.open_connection("127.0.0.1", one.port)
    peer, _ = await loop.sock_accept(one.socket)
    peer.close()
    writer.close()
    return True


async def test_a_successor_takes_the_listening_socket_over(tmp_path: Path) -> None:
    async with asyncio.timeout(30):
        first = await listen(tmp_path, "127.0.0.1", 0)
        assert (listening.control_path(tmp_path).stat().st_mode & 0o777) == 0o600
        leaving = asyncio.create_task(first.wait_for_successor())
        port = first.port
        # It waits in the queue that both have.
        _, early = await asyncio.open_connection("127.0.0.1", port)
        second = await listen(tmp_path, "127.0.0.1", port)
        await leaving
        first.close()
        assert second.port == port
        second.socket.setblocking(False)
        peer, _ = await asyncio.get_running_loop().sock_accept(second.socket)
        peer.close()
        early.close()
        assert await taking(second)
        # The next one is to listen elsewhere.
        leaving = asyncio.create_task(second.wait_for_successor())
        with socket.create_server(("127.0.0.1", 0)) as other:
            elsewhere = other.getsockname()[1]
            with pytest.raises(OSError, match="in use"):
                await listen(tmp_path, "127.0.0.1", elsewhere)
            assert not leaving.done(), "what cannot listen takes nothing over"
        third = await listen(tmp_path, "127.0.0.1", elsewhere)
        await leaving
        second.close()
        assert third.port == elsewhere and await taking(third)
        assert listening.control_path(tmp_path).exists(), "of the third"
        third.close()
        assert not listening.control_path(tmp_path).exists()
        # A process that died leaves its socket's name.
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(listening.control_path(tmp_path)))
        fourth = await listen(tmp_path, "127.0.0.1", 0)
        assert await taking(fourth)
        fourth.close()


async def test_a_process_that_was_succeeded_removes_nothing_of_a_later_one(tmp_path: Path) -> None:
    path, kept = listening.control_path(tmp_path), tmp_path / "kept"
    first = await listen(tmp_path, "127.0.0.1", 0)
    kept.hardlink_to(path)
    first.close()
    assert not path.exists()
    # The number of a file is given again: a later process' socket may have it.
    kept.rename(path)
    first.close()
    assert path.exists()


async def test_a_successor_that_is_too_late_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = asyncio.Event()

    async def slow(*_: object) -> bool:
        await late.wait()
        return True

    monkeypatch.setattr(listening, "_is_at", slow)
    monkeypatch.setattr(listening, "_ANSWER_WITHIN", 0.2)
    first = await listen(tmp_path, "127.0.0.1", 0)
    leaving = asyncio.create_task(first.wait_for_successor())
    with structlog.testing.capture_logs() as said:
        taking_over = asyncio.create_task(listen(tmp_path, "127.0.0.1", first.port))
        await until(lambda: any(one["event"] == "ingest.not_taken_over" for one in said), "it gave up")
    late.set()
    with pytest.raises(OSError, match="pipe"):
        await taking_over
    assert not leaving.done() and await taking(first)
    monkeypatch.undo()
    second = await listen(tmp_path, "127.0.0.1", first.port)
    await leaving
    first.close()
    assert await taking(second)
    second.close()


async def test_a_predecessor_that_hangs_keeps_its_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_ANSWER_WITHIN", 0.2)
    first = await listen(tmp_path, "127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        await listen(tmp_path, "127.0.0.1", first.port)
    assert await taking(first)
    first.close()
