"""Broadcasts with two outputs each, added one after the other until admission says no: does any on air lose a picture?

All is real: hosts in a LiveKit room, `butai controller` with its relays, nginx as both platforms, Postgres. They run on the
same cores as the relays. So each round first measures one broadcast: what its relay takes, and what its host, LiveKit and
the platforms take; the cores for relays are their share of the machine, less `HEADROOM`. `--preset` chooses a smaller
picture for machines that carry fewer than four.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import media
import psycopg
from harness import Benchmark, Failed, Figures, Limit, Ratio, cpu_of, main, need, tool_version, versions
from psycopg.rows import dict_row
from pydantic import SecretStr

from butai import database
from butai.config import LiveSettings
from butai.embedded.livekit import EmbeddedLiveKit, LiveKit, livekit_binary
from butai.embedded.postgres import EmbeddedPostgres
from butai.live.egress.presets import PRESETS
from butai.live.reconcile.machine import available_cores
from butai.live.stream_keys import Sealer
from tests.platforms import Platform

HEADROOM = 0.15
"""Share of the machine that is left free: what starts, and what is not measured."""
OUTPUTS_EACH = 2
SETTLE = 5.0
"""Seconds between two starts, and from live to the first measurement."""
MOST = 24
HOST = ("--width", "320", "--height", "180", "--kbps", "300")
"""A host's picture is smaller than the broadcast's: its encoder, which is not Butai's, takes less of the same cores."""

STATEMENTS = [
    Limit("broadcasts on air when admission says no", "full", "broadcasts", "", at_least=1),
    Limit("others, with a smaller picture than they were begun with", "full", "lowered", ""),
    Ratio("the cores that they take, to the cores for relays", "full", "limit", "cores", at_most=1.1),
    Limit("pictures skipped by their encoders", "full", "skipped", "", at_most=0, worst=True),
    Limit("pictures dropped for their platforms", "full", "dropped", "", at_most=0, worst=True),
    Limit("pictures a second at a platform, least", "full", "fps", ""),
    Limit("the most by which a picture was encoded late", "full", "late_ms", "ms", at_most=250, worst=True),
    Limit("start to the answer no_capacity", "full", "refused_s", "s", at_most=10),
    Limit("the whole machine, busy cores", "full", "busy", "cores"),
]


@dataclass
class World:
    """A folder, a database, LiveKit, a platform, and a key to seal stream keys with."""

    folder: Path
    url: str
    livekit: LiveKit
    platform: Platform
    preset: str
    key: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(32)).decode())

    async def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """One statement; its rows."""
        async with await psycopg.AsyncConnection[dict[str, Any]].connect(
            self.url, autocommit=True, row_factory=dict_row
        ) as connection:
            cursor = await connection.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []

    async def begin(self, room: str) -> uuid.UUID:
        """A broadcast as the service writes it."""
        broadcast_id = uuid.uuid4()
        sealer = Sealer(LiveSettings(secret_key=SecretStr(self.key)))
        await self.rows(
            "INSERT INTO rooms (room_id, owner_user_id, host_identity) VALUES (%s, 'u', %s)", room, media.HOST
        )
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            await connection.execute(
                "INSERT INTO broadcasts (id, room_id, host_identity, wanted, preset, source_grace, on_source_lost, egress) "
                "VALUES (%s, %s, %s, 'on_air', %s, 60, 'end', 'relay')",
                (broadcast_id, room, media.HOST, self.preset),
            )
            for _ in range(OUTPUTS_EACH):
                output_id = uuid.uuid4()
                await connection.execute(
                    "INSERT INTO outputs (id, broadcast_id, platform, ingest_url, sealed_key, key_fingerprint, state) "
                    "VALUES (%s, %s, 'custom', %s, %s, 'f', 'pending')",
                    (output_id, broadcast_id, self.platform.url, sealer.seal(str(output_id), output_id)),
                )
        return broadcast_id

    @contextlib.asynccontextmanager
    async def controller(self, cores: float) -> AsyncGenerator[asyncio.subprocess.Process]:
        """`butai controller` with `cores` for relays. Its relays end with the block."""
        relays = Path(tempfile.mkdtemp(prefix="butai-bench-cap-", dir="/tmp"))
        env = {
            "PATH": os.environ["PATH"],
            "BUTAI_DATABASE_URL": self.url,
            "BUTAI_RELAY_FOLDER": str(relays),
            "BUTAI_SECRET_KEY": self.key,
            "BUTAI_ALLOW_PRIVATE_INGEST": "true",
            "BUTAI_CAPACITY": f"{cores:.3f}",
            "LIVEKIT_URL": self.livekit.url,
            "LIVEKIT_API_KEY": self.livekit.api_key,
            "LIVEKIT_API_SECRET": self.livekit.api_secret,
        }
        with (self.folder / "controller.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "butai.cli", "controller", env=env, stdout=log, stderr=log
            )
        try:
            yield process
            await self.rows("UPDATE outputs SET wanted = 'off'")
            await self.rows("UPDATE broadcasts SET wanted = 'off_air', stop_asked_at = now() WHERE ended_at IS NULL")
            await self._until("SELECT 1 FROM broadcasts WHERE ended_at IS NULL", 0)
        finally:
            process.terminate()
            await process.wait()
            shutil.rmtree(relays, ignore_errors=True)

    async def _until(self, statement: str, count: int) -> None:
        deadline = time.monotonic() + 60
        while len(await self.rows(statement)) != count:
            if time.monotonic() > deadline:
                raise Failed(f"not within a minute: {count} of {statement}")
            await asyncio.sleep(0.1)

    async def answer(self, broadcast_id: uuid.UUID) -> str:
        """Waits until all outputs of a broadcast are live, or have no capacity; says which, or that it is `lowered`: on
        air with a smaller picture than it was begun with."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            rows = await self.rows(
                "SELECT o.state, o.error_code, b.chosen_preset FROM outputs o JOIN broadcasts b ON b.id = o.broadcast_id "
                "WHERE b.id = %s",
                broadcast_id,
            )
            if all(row["state"] == "live" for row in rows):
                return "lowered" if rows[0]["chosen_preset"] else "live"
            if any(row["error_code"] == "no_capacity" for row in rows):
                return "no_capacity"
            await asyncio.sleep(0.1)
        raise Failed(f"{broadcast_id} is neither live nor refused: see {self.folder}/controller.log")


class Pictures:
    """What relays report of their pictures, from the first report of each output on."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._first: dict[uuid.UUID, dict[str, Any]] = {}
        self._last: dict[uuid.UUID, dict[str, Any]] = {}
        self.late_ms, self.fps, self.cores = 0.0, float("inf"), 0.0

    async def watch(self, seconds: float) -> None:
        """Reads the reports of all outputs that are live, twice a second."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            rows = await self._world.rows(
                "SELECT m.output_id, o.broadcast_id, m.data FROM output_metrics m JOIN outputs o ON o.id = m.output_id "
                "WHERE o.state = 'live' AND m.at > now() - interval '3 seconds'"
            )
            for row in rows:
                if row["output_id"] in self._first:
                    self.late_ms = max(self.late_ms, row["data"]["late_ms"])
                    if row["data"]["uptime_s"] > SETTLE:
                        self.fps = min(self.fps, row["data"]["fps"])
                self._first.setdefault(row["output_id"], row["data"])
                self._last[row["output_id"]] = row["data"]
            self.cores = sum({row["broadcast_id"]: row["data"]["encode_load"] for row in rows}.values())
            await asyncio.sleep(0.5)

    def lost(self, name: str) -> float:
        """Pictures lost since the first report, of all outputs."""
        return float(sum(last[name] - self._first[output][name] for output, last in self._last.items()))


async def fill(world: World, seconds: float) -> tuple[Figures, Figures]:
    """One round: the figures of the full machine, and its limit."""
    cores = available_cores()
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(media.host(world.livekit, "first", *HOST))
        await opened.enter_async_context(world.controller(cores))
        if await world.answer(await world.begin("first")) != "live":
            raise Failed("not even one broadcast is admitted")
        pictures, used = Pictures(world), Figures()
        await pictures.watch(SETTLE)
        with cpu_of({"all": os.getpid()}, used):
            began = time.monotonic()
            await pictures.watch(SETTLE)
            took = time.monotonic() - began
        used_by_all, one = used["all"] / took, pictures.cores
    limit = cores * (1 - HEADROOM) * one / used_by_all
    print(
        f"one broadcast: relay {one:.2f} cores, all of it {used_by_all:.2f}; {limit:.2f} cores for relays", flush=True
    )
    figures: Figures = {"broadcasts": 0.0, "lowered": 0.0}
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(world.controller(limit))
        pictures = Pictures(world)
        for number in range(MOST):
            room = f"room-{number}"
            await opened.enter_async_context(media.host(world.livekit, room, *HOST))
            began = time.monotonic()
            # Those on air are watched while the next one starts, which is when they lose pictures.
            watching = asyncio.create_task(pictures.watch(3600))
            try:
                answer = await world.answer(await world.begin(room))
                figures["refused_s"] = time.monotonic() - began
                await asyncio.sleep(SETTLE)
            finally:
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching
            if answer == "no_capacity":
                break
            figures["broadcasts" if answer == "live" else "lowered"] += 1
        else:
            raise Failed(f"{MOST} broadcasts were admitted")
        used = Figures()
        with cpu_of({"all": os.getpid()}, used):
            began = time.monotonic()
            await pictures.watch(seconds)
            took = time.monotonic() - began
        figures |= {
            "cores": pictures.cores,
            "skipped": pictures.lost("skipped_frames") / OUTPUTS_EACH,
            "dropped": pictures.lost("dropped_frames"),
            "late_ms": pictures.late_ms,
            "fps": pictures.fps,
            "busy": used["all"] / took,
            "foreign_cores": used["foreign_cores"],
        }
    return figures, {"cores": limit}


def measure(rounds: int, seconds: float, preset: str) -> bool:
    need("nginx")
    what = f"{preset}, {OUTPUTS_EACH} outputs each, until no_capacity, on {available_cores():g} cores"
    bench = Benchmark("capacity", what, STATEMENTS)
    bench.versions = versions("butai", "livekit", "av") | {
        "livekit-server": tool_version(str(livekit_binary()), "--version"),
        "nginx": tool_version("nginx", "-v"),
    }
    limit: Figures = {}

    def full(_: int) -> Figures:
        limit.clear()
        folder = Path(tempfile.mkdtemp(prefix="butai-bench-cap-", dir="/tmp"))
        # Postgres as root runs as another user, who must reach its folder.
        folder.chmod(0o755)
        try:
            with (
                EmbeddedPostgres(folder / "postgres") as postgres,
                EmbeddedLiveKit(folder / "livekit") as server,
                Platform("bench") as platform,
            ):
                database.migrate(postgres.owner_url, service_url=postgres.url)
                world = World(folder, postgres.url, server.livekit, platform, preset)
                figures, found = asyncio.run(fill(world, seconds))
        finally:
            shutil.rmtree(folder)
        limit.update(found)
        return figures

    bench.run({"full": full, "limit": lambda _: dict(limit)}, rounds)
    return bench.report()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="720p30")
    given = parser.parse_args()
    main(lambda: measure(given.rounds, given.seconds, given.preset), minutes=20, strict=given.strict)
