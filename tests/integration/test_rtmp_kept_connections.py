"""An attempt takes the connection over which its server was checked."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from butai.relay.messages import HeldOutput, StartOutputLine
from butai.relay.reachability import Reachability
from butai.relay.rtmp.addresses import server_of
from butai.relay.rtmp.connection import Target
from butai.relay.rtmp.publisher import Publisher
from butai.relay.timing import Limits, RelayTiming
from tests.fakes.rtmp_server import Server
from tests.platforms import Authority
from tests.pushes import KEY
from tests.waiting import until


@dataclass
class Counting(Server):
    """Counts its connections; the first one may have an `end` of its own once something comes, or be silent."""

    end: str = ""
    first_bytes: list[bytes] = field(default_factory=list)
    silent_ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.first_bytes)
        self.first_bytes.append(b"")
        if number == 0 and self.end:
            self.first_bytes[0] = await reader.read(1)
            if self.end == "silent":
                await reader.read()
                self.silent_ended.set()
            elif self.end == "hangs up later":
                await reader.readexactly(1536)
                writer.write(b"\x03" + bytes(3072))
                # The reply to its own, and the first command.
                await reader.readexactly(1537)
            return
        await super()._serve(reader, writer)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("end", ["", "hangs up", "hangs up later", "silent"])
async def test_an_attempt_begins_on_the_checked_connection_and_makes_another_where_that_has_died(
    end: str, secure: bool, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    tls, trusting = authority.context("127.0.0.1"), ssl.create_default_context(cafile=str(authority.file))
    server = Counting(acks=65536, end=end, tls=tls if secure else None)
    told, phases = list[str](), list[str]()
    async with server.running() as url:
        order = StartOutputLine("o1", 1, url, KEY, allow_private=True)
        checks = Reachability(lambda line: told.append(line.code), RelayTiming(), trusting)
        checks.watch([HeldOutput("o1", server_of(url), allow_private=True)])
        await until(lambda: told == [""], "the check")
        # As the controller does: the output no longer waits, and then its attempt is ordered.
        checks.watch([])
        publisher = Publisher(
            Target(url, KEY, True),
            report=lambda phase, _code, _detail: phases.append(phase),
            limits=Limits(kept_silence=0.3),
            tls=trusting,
            take=lambda: checks.take(order),
        )
        running = asyncio.create_task(publisher.run())
        await until(lambda: phases == ["connecting", "publishing"], "the key was taken")
        assert len(server.first_bytes) == (2 if end else 1)
        publisher.stop()
        await running
        await checks.close()
    assert server.commands.count("publish") == 1
    assert server.first_bytes[0] == (b"\x03" if end else b"")


@pytest.mark.parametrize("kept_for", [0.01, 3600.0])
async def test_a_connection_that_no_attempt_takes_is_closed(kept_for: float) -> None:
    """Once its output no longer waits, or at the end."""
    server, told = Counting(end="silent"), list[str]()
    async with server.running() as url:
        checks = Reachability(lambda line: told.append(line.code), RelayTiming(kept_for=kept_for))
        checks.watch([HeldOutput("o1", server_of(url), allow_private=True)])
        await until(lambda: bool(checks._open), "the check")
        checks.watch([])
        if kept_for >= 1:
            assert checks._open and not server.silent_ended.is_set()
            await checks.close()
        await until(server.silent_ended.is_set, "closed")
        await checks.close()
        assert not checks._open
        assert checks.take(StartOutputLine("o1", 1, url, KEY, allow_private=True)) is None
    assert told == [""]
