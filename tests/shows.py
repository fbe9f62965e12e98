"""Broadcasts for tests of the controller: rows as the services write them, the reporting relay, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from pydantic import SecretStr

from butai.config import DatabaseSettings, LiveKitSettings, LiveSettings, RetrySettings
from butai.controller import Controller
from butai.database import Database
from butai.live.egress.relay.egress import RelayEgress
from butai.live.projects import Projects
from butai.live.reconcile.timing import Timing
from tests.fakes.controller_process import RELAY, hurried
from tests.forked import Forked
from tests.processes import forked

LIVEKIT = LiveKitSettings(url="ws://127.0.0.1:9", api_key="devkey", api_secret=SecretStr("s" * 32))
PROJECTS = Projects(LIVEKIT, LiveSettings())
QUICK = RetrySettings(base=0.2, cap=1.0, attempts=4)
PATIENCE = 60.0
"""Seconds after which what is waited for is taken not to come."""
KEY = "canary-stream-key-7d1e"

T = TypeVar("T")


async def until(look: Callable[[], Awaitable[T]], patience: float = PATIENCE) -> T:
    """Looks again and again until there is something."""
    deadline = time.monotonic() + patience
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {patience} s"
        await asyncio.sleep(0.02)


class Shows:
    """One database and one relay folder."""

    pace = 4.0
    """By how much our own waiting is divided, in controllers and in their relays."""

    def __init__(self, url: str, folder: Path, **live: Any) -> None:
        self.url, self.folder = url, folder
        # Room for every broadcast of a test, however few cores the machine has.
        rules: dict[str, Any] = {"capacity": 100.0} | {
            f"{name}_retry": QUICK for name in ("youtube", "twitch", "custom")
        }
        self.live = LiveSettings(relay_folder=folder, **(rules | live))

    # What hosts want

    async def begin(self, *urls: str, preset: str = "720p30", platform: str = "custom") -> UUID:
        """A broadcast with an output for each URL, as the service writes it."""
        broadcast_id = uuid.uuid4()
        room_id = f"room-{broadcast_id}"
        async with await self.connect() as connection, connection.transaction():
            await connection.execute(
                "INSERT INTO rooms (room_id, owner_user_id, host_identity) VALUES (%s, 'u1', 'host')", (room_id,)
            )
            await connection.execute(
                "INSERT INTO broadcasts (id, room_id, host_identity, wanted, preset, source_grace, on_source_lost, egress) "
                "VALUES (%s, %s, 'host', 'on_air', %s, 60, 'end', 'relay')",
                (broadcast_id, room_id, preset),
            )
            for url in urls:
                await connection.execute(
                    "INSERT INTO outputs (id, broadcast_id, platform, ingest_url, sealed_key, key_fingerprint, state) "
                    "VALUES (%s, %s, %s, %s, %s, 'f', 'pending')",
                    (uuid.uuid4(), broadcast_id, platform, url, KEY.encode()),
                )
        return broadcast_id

    async def do(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """One statement; its rows."""
        async with await self.connect() as connection:
            cursor = await connection.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []

    async def stop(self, broadcast_id: UUID) -> None:
        await self.do("UPDATE outputs SET wanted = 'off' WHERE broadcast_id = %s", broadcast_id)
        await self.do(
            "UPDATE broadcasts SET wanted = 'off_air', stop_asked_at = now() WHERE id = %s AND wanted = 'on_air'",
            broadcast_id,
        )

    async def stop_output(self, output_id: UUID) -> None:
        await self.do("UPDATE outputs SET wanted = 'off' WHERE id = %s", output_id)

    async def retry(self, output_id: UUID) -> None:
        await self.do("UPDATE outputs SET retry_asked_at = now() WHERE id = %s", output_id)

    # What came of it

    async def connect(self) -> psycopg.AsyncConnection[dict[str, Any]]:
        return await psycopg.AsyncConnection[dict[str, Any]].connect(self.url, autocommit=True, row_factory=dict_row)

    async def broadcast(self, broadcast_id: UUID) -> dict[str, Any]:
        return (await self.do("SELECT * FROM broadcasts WHERE id = %s", broadcast_id))[0]

    async def outputs(self, broadcast_id: UUID) -> dict[str, dict[str, Any]]:
        """By URL."""
        rows = await self.do("SELECT * FROM outputs WHERE broadcast_id = %s", broadcast_id)
        return {row["ingest_url"]: row for row in rows}

    async def states(self, broadcast_id: UUID) -> dict[str, str]:
        return {url: row["state"] for url, row in (await self.outputs(broadcast_id)).items()}

    async def events(self, broadcast_id: UUID) -> list[dict[str, Any]]:
        return await self.do("SELECT * FROM live_events WHERE broadcast_id = %s ORDER BY id", broadcast_id)

    async def reach(
        self, broadcast_id: UUID, patience: float = PATIENCE, /, **states: str
    ) -> dict[str, dict[str, Any]]:
        """Waits until the outputs are in these states, named by the last letter of their URL's host."""
        wanted = {f"rtmp://{name}/app": state for name, state in states.items()}
        found: dict[str, str] = {}

        async def look() -> bool:
            nonlocal found
            found = await self.states(broadcast_id)
            return all(found[url] == state for url, state in wanted.items())

        try:
            await until(look, patience)
        except AssertionError:
            raise AssertionError(f"{found}, wanted {wanted}: {await self.events(broadcast_id)}") from None
        return await self.outputs(broadcast_id)

    async def healed(self, broadcast_id: UUID, output_id: UUID, attempt: int) -> dict[str, dict[str, Any]]:
        """Waits until this attempt of an output is live, and all are."""

        async def look() -> bool:
            rows = (await self.outputs(broadcast_id)).values()
            return all(row["state"] == "live" for row in rows) and any(
                (row["id"], row["attempt"]) == (output_id, attempt) for row in rows
            )

        await until(look)
        return await self.outputs(broadcast_id)

    async def ended(self, broadcast_id: UUID, patience: float = PATIENCE) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            row = await self.broadcast(broadcast_id)
            return row if row["ended_at"] else None

        found = await until(look, patience)
        assert found is not None
        return found

    # The relay

    def script(self, **entries: list[list[str]]) -> None:
        """By the host of the URL."""
        path = self.folder / "script.new"
        path.write_text(json.dumps({f"rtmp://{name}/app": lines for name, lines in entries.items()}))
        path.rename(self.folder / "script.json")

    def tell_relay(self, broadcast_id: UUID, **order: Any) -> None:
        """Something for the relay to do or to say; returns when it has."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10)
            control.connect(str(self.folder / f"{broadcast_id}.ctl"))
            control.sendall(json.dumps(order, default=str).encode() + b"\n")
            assert control.recv(16) == b"ok\n"

    def heard(self, broadcast_id: UUID, what: str = "") -> list[dict[str, Any]]:
        """The lines that the relays of a broadcast were sent."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / f"{broadcast_id}.heard").read_text().splitlines()
            return [line for line in map(json.loads, lines) if what in ("", line["what"])]
        return []

    def pid(self, broadcast_id: UUID) -> int:
        """The process of the relay that reported last."""
        return self.heard(broadcast_id)[-1]["pid"]

    def starts(self, broadcast_id: UUID) -> list[tuple[str, int]]:
        """The attempts that relays were ordered to begin."""
        assert self.heard(broadcast_id, "two_at_once") == []
        return [(line["url"].split("/")[2], line["attempt"]) for line in self.heard(broadcast_id, "start")]

    # Controllers

    @contextlib.asynccontextmanager
    async def controller(self, name: str = "c1") -> AsyncGenerator[Controller]:
        """One in this process."""
        async with Database(DatabaseSettings(url=SecretStr(self.url), connect_timeout=2)) as database:
            timing = Timing().faster(self.pace)
            egress = RelayEgress(self.folder, PROJECTS, bytes.decode, controller=name, command=RELAY, timing=timing)
            controller = Controller(hurried(self.live, self.pace), database, [egress], name, timing)
            task = asyncio.create_task(controller.run())
            try:
                yield controller
            finally:
                controller.stop()
                await task
                await egress.close()

    @contextlib.contextmanager
    def controller_process(self, **more: str) -> Generator[Forked]:
        """One in a process of its own."""
        environment = os.environ | {
            "BUTAI_DATABASE_URL": self.url,
            "BUTAI_RELAY_FOLDER": str(self.folder),
            "BUTAI_CAPACITY": str(self.live.capacity),
            "LIVEKIT_URL": LIVEKIT.url,
            "LIVEKIT_API_KEY": LIVEKIT.api_key,
            "LIVEKIT_API_SECRET": LIVEKIT.api_secret.get_secret_value(),
            **{f"BUTAI_{name.upper()}_RETRY": QUICK.model_dump_json() for name in ("youtube", "twitch", "custom")},
            **more,
        }
        arguments = ("tests.fakes.controller_process", f"--speed={self.pace}")
        with forked(*arguments, env=environment, log=self.folder / "controllers.txt") as child:
            yield child

    def end_relays(self) -> None:
        """Those that are left: named by what they told us, and held against what they are."""
        for path in self.folder.glob("*.heard"):
            broadcast_id = path.stem
            for pid in {line["pid"] for line in self.heard(UUID(broadcast_id))}:
                with contextlib.suppress(OSError):
                    if broadcast_id.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def shows(url: str, kind: type[Shows] | None = None, **live: Any) -> Generator[Shows]:
    """With a relay folder of its own, short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="control-", dir="/tmp"))
    made = (kind or Shows)(url, folder, **live)
    try:
        yield made
    finally:
        made.end_relays()
        shutil.rmtree(folder)
