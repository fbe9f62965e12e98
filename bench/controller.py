"""One controller with 200 broadcasts of two outputs each: how late its rows are, what it costs, and who takes over.

The relays are stand-ins in one process, which only report (`tests/fakes/reporting_relay.py`); all else is real: the
controller's own process, the sockets, Postgres, NOTIFY. A round starts an empty database, brings all on air, lets
outputs stall and heal at random for `--seconds`, then kills the controller beside a second one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Self

import psycopg
from harness import HERE, Benchmark, Failed, Figures, Limit, arguments, cpu_of, main, memory_bytes, versions
from pydantic import SecretStr

from butai import database
from butai.config import DatabaseSettings
from butai.database import Database
from butai.embedded.postgres import EmbeddedPostgres
from butai.live.broadcasts import queries

BROADCASTS, OUTPUTS_EACH = 200, 2
CHANGES_A_SECOND = 20
PATIENCE = 90.0

STATEMENTS = [
    Limit("a report to its event (NOTIFY), p95", "load", "event_p95_ms", "ms", at_most=1000),
    Limit("a report to the status that shows it, p95", "load", "status_p95_ms", "ms", at_most=1000),
    Limit("a report to the status that shows it, slowest", "load", "status_max_ms", "ms"),
    Limit("CPU of the controller", "load", "controller_cores", "cores", at_most=0.5),
    Limit("CPU of Postgres", "load", "postgres_cores", "cores"),
    Limit("memory of the controller", "load", "controller_mib", "MiB"),
    Limit("200 broadcasts from their rows to live", "load", "all_live_s", "s"),
    Limit("SIGKILL to the last broadcast taken over by the second", "load", "takeover_s", "s", at_most=5),
    Limit("SIGKILL to the first status that shows a report made after it", "load", "takeover_status_s", "s", at_most=5),
    Limit("attempts begun again by the takeover", "load", "new_attempts", "", at_most=0),
]


def measure(rounds: int, seconds: float) -> bool:
    bench = Benchmark("controller", f"one controller, {BROADCASTS} broadcasts, {OUTPUTS_EACH} outputs each", STATEMENTS)
    bench.versions = versions("butai", "psycopg", "sqlalchemy")
    bench.run({"load": lambda _: asyncio.run(load(seconds))}, rounds)
    return bench.report()


class Relays:
    """The stand-ins, in one process that takes commands."""

    def __init__(self, folder: Path) -> None:
        argv = [sys.executable, "-m", "tests.fakes.reporting_relay", "--folder", str(folder), "--many"]
        self.child = subprocess.Popen(argv, cwd=HERE.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def listen(self, broadcast_id: uuid.UUID) -> None:
        assert self.child.stdout
        self._send(f"listen {broadcast_id}")
        if self.child.stdout.readline().split() != [b"listening", str(broadcast_id).encode()]:
            raise Failed("the stand-in relays do not listen")

    def say(self, broadcast_id: uuid.UUID, output_id: uuid.UUID, phase: str) -> None:
        order = {"output": str(output_id), "phase": phase, "code": "destination_stalled" if phase == "stalled" else ""}
        self._send(f"say {broadcast_id} {json.dumps(order)}")

    def _send(self, line: str) -> None:
        assert self.child.stdin
        self.child.stdin.write(line.encode() + b"\n")
        self.child.stdin.flush()


@contextlib.contextmanager
def controller(url: str, folder: Path, name: str) -> Generator[subprocess.Popen[bytes]]:
    env = {
        "PATH": os.environ["PATH"],
        "BUTAI_DATABASE_URL": url,
        "BUTAI_RELAY_FOLDER": str(folder),
        "BUTAI_CAPACITY": str(BROADCASTS),
        "LIVEKIT_URL": "ws://127.0.0.1:9",
        "LIVEKIT_API_KEY": "devkey",
        "LIVEKIT_API_SECRET": "s" * 32,
    }
    with (folder / f"{name}.txt").open("wb") as log:
        argv = [sys.executable, "-m", "tests.fakes.controller_process"]
        child = subprocess.Popen(argv, cwd=HERE.parent, env=env, stdout=log, stderr=log)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


async def load(seconds: float) -> Figures:
    figures: Figures = {}
    folder = Path(tempfile.mkdtemp(prefix="butai-bench-c-", dir="/tmp"))
    # Postgres as root runs as another user, who must reach its folder.
    data = Path(tempfile.mkdtemp(prefix="butai-bench-c-", dir="/tmp"))
    data.chmod(0o755)
    relays = Relays(folder)
    try:
        with EmbeddedPostgres(data / "postgres") as server:
            database.migrate(server.owner_url, service_url=server.url)
            assert server.child
            with controller(server.url, folder, "first") as first:
                shows = {uuid.uuid4(): [uuid.uuid4() for _ in range(OUTPUTS_EACH)] for _ in range(BROADCASTS)}
                async with Watcher(server.url) as watcher:
                    await begin(watcher, relays, shows, figures)
                    pids = {"controller": first.pid, "postgres": server.child.pid}
                    used: Figures = {}
                    with cpu_of(pids, used):
                        began = time.monotonic()
                        await change(watcher, relays, shows, seconds)
                        took = time.monotonic() - began
                    figures["foreign_cores"] = used["foreign_cores"]
                    figures["controller_cores"] = used["controller"] / took
                    figures["postgres_cores"] = used["postgres"] / took
                    figures["controller_mib"] = memory_bytes(first.pid) / 1024**2
                    figures |= watcher.figures()
                    with controller(server.url, folder, "second"):
                        await take_over(watcher, relays, shows, first, figures)
    finally:
        relays.child.kill()
        relays.child.wait()
        shutil.rmtree(folder)
        shutil.rmtree(data)
    return figures


class Watcher:
    """Sees what any client would: notifications, and the status."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(DatabaseSettings(url=SecretStr(url)))
        self.said: dict[uuid.UUID, tuple[float, bool]] = {}
        """When a relay spoke, and whether an output was interrupted then."""
        self.events: list[float] = []
        self.statuses: list[float] = []
        self._changed: set[uuid.UUID] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.database.__aenter__()
        self._listener = await psycopg.AsyncConnection.connect(self.url, autocommit=True)
        await self._listener.execute("LISTEN butai_live")
        self._tasks.append(asyncio.create_task(self._listen()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.close()
        await self.database.__aexit__()

    async def rows(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        async def ask(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> list[tuple[object, ...]]:
            return await (await connection.execute(statement.encode(), values)).fetchall()

        return await self.database.query(ask)

    async def _listen(self) -> None:
        async for notice in self._listener.notifies():
            heard = time.monotonic()
            broadcast_id = uuid.UUID(json.loads(notice.payload)["broadcast_id"])
            if broadcast_id in self.said:
                said, _ = self.said[broadcast_id]
                self.events.append(heard - said)
                self._tasks.append(asyncio.create_task(self._look(broadcast_id)))

    async def _look(self, broadcast_id: uuid.UUID) -> None:
        """The status by the API's own query."""
        said, wanted = self.said[broadcast_id]
        status = await queries.status(self.database, "en", session_id=broadcast_id)
        if status is not None and wanted == ("interrupted" in {one.state for one in status.outputs}):
            self.said.pop(broadcast_id, None)
            self.statuses.append(time.monotonic() - said)

    def figures(self) -> Figures:
        if len(self.statuses) < 20 or self.said:
            raise Failed(f"{len(self.said)} reports never showed, {len(self.statuses)} did")
        percentile = statistics.quantiles
        return {
            "event_p95_ms": percentile(self.events, n=20)[-1] * 1000,
            "status_p50_ms": statistics.median(self.statuses) * 1000,
            "status_p95_ms": percentile(self.statuses, n=20)[-1] * 1000,
            "status_max_ms": max(self.statuses) * 1000,
            "reports": float(len(self.statuses)),
        }


Shows = dict[uuid.UUID, list[uuid.UUID]]


async def until(watcher: Watcher, statement: str, count: int, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while (await watcher.rows(statement))[0][0] != count:
        if time.monotonic() > deadline:
            raise Failed(f"not {count} within {patience:g} s: {statement}")
        await asyncio.sleep(0.05)


async def begin(watcher: Watcher, relays: Relays, shows: Shows, figures: Figures) -> None:
    began = time.monotonic()
    async with await psycopg.AsyncConnection.connect(watcher.url, autocommit=True) as connection:
        for broadcast_id, outputs in shows.items():
            relays.listen(broadcast_id)
            async with connection.transaction():
                room = f"room-{broadcast_id}"
                await connection.execute(
                    "INSERT INTO rooms (room_id, owner_user_id, host_identity) VALUES (%s, 'u', 'h')", (room,)
                )
                await connection.execute(
                    "INSERT INTO broadcasts (id, room_id, host_identity, wanted, preset, source_grace, on_source_lost, egress) "
                    "VALUES (%s, %s, 'h', 'on_air', '720p30', 60, 'end', 'relay')",
                    (broadcast_id, room),
                )
                for output_id in outputs:
                    await connection.execute(
                        "INSERT INTO outputs (id, broadcast_id, platform, ingest_url, sealed_key, key_fingerprint, state) "
                        "VALUES (%s, %s, 'custom', 'rtmp://a/app', 'k', 'f', 'pending')",
                        (output_id, broadcast_id),
                    )
    await until(watcher, "SELECT count(*) FROM outputs WHERE state = 'live'", BROADCASTS * OUTPUTS_EACH)
    figures["all_live_s"] = time.monotonic() - began


async def change(watcher: Watcher, relays: Relays, shows: Shows, seconds: float) -> None:
    """Outputs stall and heal, one broadcast's at a time, evenly spread."""
    rng = random.Random(1)
    stalled: dict[uuid.UUID, uuid.UUID] = {}
    began = time.monotonic()
    for number in range(int(seconds * CHANGES_A_SECOND)):
        await asyncio.sleep(max(began + number / CHANGES_A_SECOND - time.monotonic(), 0))
        broadcast_id = rng.choice([one for one in shows if one not in watcher.said])
        if broadcast_id in stalled:
            output_id, phase = stalled.pop(broadcast_id), "live"
        else:
            output_id, phase = rng.choice(shows[broadcast_id]), "stalled"
            stalled[broadcast_id] = output_id
        watcher.said[broadcast_id] = (time.monotonic(), phase == "stalled")
        relays.say(broadcast_id, output_id, phase)
    deadline = time.monotonic() + 5
    while watcher.said and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    for broadcast_id, output_id in stalled.items():
        relays.say(broadcast_id, output_id, "live")
    await until(watcher, "SELECT count(*) FROM outputs WHERE state = 'live'", BROADCASTS * OUTPUTS_EACH)


async def take_over(
    watcher: Watcher, relays: Relays, shows: Shows, first: subprocess.Popen[bytes], figures: Figures
) -> None:
    await until(watcher, "SELECT count(*) FROM controllers", 2)
    [(before,)] = await watcher.rows("SELECT lease_holder FROM broadcasts LIMIT 1")
    [(attempts,)] = await watcher.rows("SELECT sum(attempt)::int FROM outputs")
    first.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    broadcast_id, outputs = next(iter(shows.items()))
    watcher.statuses.clear()
    watcher.said[broadcast_id] = (killed, True)
    relays.say(broadcast_id, outputs[0], "stalled")
    taken = f"SELECT count(*) FROM broadcasts WHERE lease_holder <> '{before}' AND lease_epoch = 2"
    await until(watcher, taken, BROADCASTS, 30)
    figures["takeover_s"] = time.monotonic() - killed
    await until(watcher, "SELECT count(*) FROM outputs WHERE state = 'reconnecting'", 1, 30)
    while not watcher.statuses:
        await asyncio.sleep(0.02)
    figures["takeover_status_s"] = watcher.statuses[0]
    # One after the other, all of them are heard by the second one.
    for broadcast_id, outputs in shows.items():
        relays.say(broadcast_id, outputs[1], "stalled")
    await until(watcher, "SELECT count(*) FROM outputs WHERE state = 'reconnecting'", BROADCASTS + 1, 30)
    [(after,)] = await watcher.rows("SELECT sum(attempt)::int FROM outputs")
    figures["new_attempts"] = float(str(after)) - float(str(attempts))


if __name__ == "__main__":
    given = arguments(__doc__ or "", rounds=1, seconds=15.0)
    main(lambda: measure(given.rounds, given.seconds), minutes=10, strict=given.strict)
