"""One controller with 1,000 broadcasts of two LiveKit egresses each: how late the status is, what it costs, what it asks.

LiveKit with its egress fleet is a stand-in in a process of its own (`tests/fakes/livekit_egress`), held to recordings of a
real one; Postgres, the controller and the API that takes the webhooks are real processes. Fifty webhooks a second come from
viewers who come and go; each minute one in a hundred egresses loses its platform's connection. Once with the webhooks of
the egresses, once without any.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import aiohttp
import psycopg
from controller import Watcher, until
from harness import HERE, Benchmark, Failed, Figures, Limit, arguments, cpu_of, main, memory_bytes, versions
from livekit import api
from pydantic import SecretStr

from butai import database
from butai.config import LiveSettings
from butai.embedded.postgres import EmbeddedPostgres
from butai.live.stream_keys import Sealer

sys.path.append(str(Path(__file__).parent.parent))

from tests.processes import free_port, python

BROADCASTS, OUTPUTS_EACH = 1000, 2
WEBHOOKS_A_SECOND = 50
FAULTS_A_MINUTE = 0.01
KEY, SECRET = "devkey", "s" * 32
SEAL = base64.b64encode(b"bench" * 6 + b"!!").decode()

_STATEMENTS = [
    ("a change at LiveKit to the status that shows it, p50", "status_p50_ms", "ms", None),
    (
        "a change at LiveKit to the status that shows it, p95",
        "status_p95_ms",
        "ms",
        {"webhooks": 1000, "polling": 3000},
    ),
    ("a change at LiveKit to the status that shows it, slowest", "status_max_ms", "ms", None),
    ("CPU of the controller", "controller_cores", "cores", {"webhooks": 1, "polling": 1}),
    ("CPU of Postgres", "postgres_cores", "cores", None),
    ("CPU of the API", "api_cores", "cores", None),
    ("memory of the controller", "controller_mib", "MiB", None),
    ("requests to LiveKit a second", "requests", "/s", None),
    ("of them looks at everything and at rooms", "settled_requests", "/s", None),
    ("all live, from their rows", "all_live_s", "s", None),
]
STATEMENTS = [
    Limit(f"{what}, {mode}", mode, name, unit, at_most=(limits or {}).get(mode))
    for mode in ("webhooks", "polling")
    for what, name, unit, limits in _STATEMENTS
]


def measure(rounds: int, seconds: float) -> bool:
    title = f"LiveKit Egress: one controller, {BROADCASTS} broadcasts, {OUTPUTS_EACH} egresses each"
    bench = Benchmark("egress", title, STATEMENTS)
    bench.versions = versions("butai", "livekit-api", "psycopg", "aiohttp")
    bench.run({mode: lambda _, mode=mode: asyncio.run(load(mode, seconds)) for mode in ("webhooks", "polling")}, rounds)
    return bench.report()


class StandIn:
    """Its process."""

    def __init__(self, child: subprocess.Popen[bytes], url: str) -> None:
        self.child, self.url = child, url

    async def tell(self, http: aiohttp.ClientSession, command: str, *args: object, **kwargs: object) -> object:
        async with http.post(
            f"{self.url}/control", json={"command": command, "args": args, "kwargs": kwargs}
        ) as answer:
            return (await answer.json())["result"]

    async def counts(self, http: aiohttp.ClientSession) -> dict[str, int]:
        async with http.get(f"{self.url}/control") as answer:
            return (await answer.json())["calls"]


@contextlib.contextmanager
def stand_in(webhook: str | None) -> Generator[StandIn]:
    argv = [sys.executable, "-m", "tests.fakes.livekit_egress", "--key", KEY, "--secret", SECRET]
    child = subprocess.Popen(
        [*argv, *(["--webhook", webhook] if webhook else [])], cwd=HERE.parent, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout
        word, _, url = child.stdout.readline().decode().strip().partition(" ")
        if word != "ready":
            raise Failed("the stand-in does not start")
        yield StandIn(child, url)
    finally:
        child.kill()
        child.wait()


async def load(mode: str, seconds: float) -> Figures:
    folder = Path(tempfile.mkdtemp(prefix="butai-bench-l-", dir="/tmp"))
    # Postgres as root runs as another user, who must reach its folder.
    folder.chmod(0o755)
    port = free_port()
    hook = f"http://127.0.0.1:{port}/api/live/webhook"
    try:
        with (
            EmbeddedPostgres(folder / "postgres") as server,
            stand_in(hook if mode == "webhooks" else None) as standin,
        ):
            database.migrate(server.owner_url, service_url=server.url)
            env = {
                "PATH": os.environ["PATH"],
                "BUTAI_DATABASE_URL": server.url,
                "BUTAI_S3_ENDPOINT": "http://127.0.0.1:9",
                "BUTAI_SECRET_KEY": SEAL,
                "BUTAI_EGRESS": "livekit",
                "BUTAI_PORT": str(port),
                "BUTAI_RELAY_FOLDER": str(folder / "relays"),
                "LIVEKIT_URL": standin.url,
                "LIVEKIT_API_KEY": KEY,
                "LIVEKIT_API_SECRET": SECRET,
                "NEXTAUTH_SECRET": "n" * 32,
                "BUTAI_LOG_LEVEL": "warning",
                "BUTAI_ACCESS_LOG": "false",
            }
            with (
                python("-m", "butai.cli", "api", env=env, log=folder / "api.txt") as served,
                python("-m", "butai.cli", "controller", env=env, log=folder / "controller.txt") as controller,
            ):
                assert server.child
                pids = {"controller": controller.pid, "postgres": server.child.pid, "api": served.pid}
                return await _run(mode, server.url, standin, pids, hook, seconds)
    finally:
        shutil.rmtree(folder)


async def _run(mode: str, url: str, standin: StandIn, pids: dict[str, int], hook: str, seconds: float) -> Figures:
    figures: Figures = {}
    async with Watcher(url) as watcher, aiohttp.ClientSession() as http:
        shows = await begin(watcher, figures)
        # The starts' own looks are over.
        await asyncio.sleep(5)
        used: Figures = {}
        before = await standin.counts(http)
        async with viewers(http, hook, shows):
            with cpu_of(pids, used):
                began = time.monotonic()
                await faults(watcher, standin, http, shows, seconds)
                took = time.monotonic() - began
        after = await standin.counts(http)
        asked = {name: (after.get(name, 0) - before.get(name, 0)) / took for name in after}
        figures |= {
            "foreign_cores": used["foreign_cores"],
            **{f"{name}_cores": used[name] / took for name in pids},
            "controller_mib": memory_bytes(pids["controller"]) / 1024**2,
            "requests": sum(asked.values()),
            "settled_requests": asked.get("ListParticipants", 0) + 0.5,
        }
        print("   ", {name: round(value, 2) for name, value in asked.items() if value})
    if len(watcher.statuses) < 5 or watcher.said:
        raise Failed(f"{len(watcher.said)} changes never showed, {len(watcher.statuses)} did")
    return figures | {
        "status_p50_ms": statistics.median(watcher.statuses) * 1000,
        "status_p95_ms": statistics.quantiles(watcher.statuses, n=20, method="inclusive")[-1] * 1000,
        "status_max_ms": max(watcher.statuses) * 1000,
        "changes": float(len(watcher.statuses)),
    }


Shows = dict[uuid.UUID, list[str]]
"""The full addresses of each broadcast's outputs."""


async def begin(watcher: Watcher, figures: Figures) -> Shows:
    sealer = Sealer(LiveSettings(secret_key=SecretStr(SEAL)))
    shows: Shows = {uuid.uuid4(): [] for _ in range(BROADCASTS)}
    began = time.monotonic()
    async with await psycopg.AsyncConnection.connect(watcher.url, autocommit=True) as connection:
        for broadcast_id, addresses in shows.items():
            async with connection.transaction():
                room = f"room-{broadcast_id}"
                await connection.execute(
                    "INSERT INTO rooms (room_id, owner_user_id, host_identity) VALUES (%s, 'u', 'host')", (room,)
                )
                await connection.execute(
                    "INSERT INTO broadcasts (id, room_id, host_identity, wanted, preset, source_grace, on_source_lost, egress) "
                    "VALUES (%s, %s, 'host', 'on_air', '720p30', 60, 'end', 'livekit')",
                    (broadcast_id, room),
                )
                for number in range(OUTPUTS_EACH):
                    key = f"key-{uuid.uuid4().hex}"
                    addresses.append(f"rtmp://platform-{number}/app/{key}")
                    await connection.execute(
                        "INSERT INTO outputs (id, broadcast_id, platform, ingest_url, sealed_key, key_fingerprint, state) "
                        "VALUES (%s, %s, 'custom', %s, %s, 'f', 'pending')",
                        (uuid.uuid4(), broadcast_id, f"rtmp://platform-{number}/app", sealer.seal(key, uuid.uuid4())),
                    )
    await until(watcher, "SELECT count(*) FROM outputs WHERE state = 'live'", BROADCASTS * OUTPUTS_EACH, 240)
    figures["all_live_s"] = time.monotonic() - began
    return shows


async def faults(watcher: Watcher, standin: StandIn, http: aiohttp.ClientSession, shows: Shows, seconds: float) -> None:
    """Connections break and are mended by LiveKit, evenly spread: the interruption is what is waited for."""
    rng = random.Random(1)
    every = 60 / (BROADCASTS * OUTPUTS_EACH * FAULTS_A_MINUTE)
    began = time.monotonic()
    for number, broadcast_id in enumerate(rng.sample(list(shows), max(int(seconds / every), 1))):
        await asyncio.sleep(max(began + number * every - time.monotonic(), 0))
        watcher.said[broadcast_id] = (time.monotonic(), True)
        if await standin.tell(http, "drop", rng.choice(shows[broadcast_id])) != 1:
            raise Failed("no stream was dropped")
    deadline = time.monotonic() + 10
    while watcher.said and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    await asyncio.sleep(max(began + seconds - time.monotonic(), 0))


@contextlib.asynccontextmanager
async def viewers(http: aiohttp.ClientSession, hook: str, shows: Shows) -> AsyncGenerator[None]:
    """Webhooks of viewers who come and go in all rooms, as LiveKit signs them."""
    rooms = [f"room-{broadcast_id}" for broadcast_id in shows]

    async def send(number: int) -> None:
        event = "participant_joined" if number % 2 else "participant_left"
        body = json.dumps(
            {
                "event": event,
                "id": f"EV_bench{number}",
                "createdAt": str(int(time.time())),
                "room": {"name": rooms[number % len(rooms)], "sid": "RM_bench"},
                "participant": {"identity": f"viewer-{number // 2}", "sid": "PA_bench"},
            }
        ).encode()
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        token = api.AccessToken(KEY, SECRET).with_sha256(digest).to_jwt()
        headers = {"Authorization": token, "Content-Type": "application/webhook+json"}
        async with http.post(hook, data=body, headers=headers) as answer:
            if answer.status != 200:
                raise Failed(f"a webhook was answered {answer.status}")

    async def send_all() -> None:
        began, sending = time.monotonic(), set[asyncio.Task[None]]()
        number = 0
        while True:
            await asyncio.sleep(max(began + number / WEBHOOKS_A_SECOND - time.monotonic(), 0))
            task = asyncio.create_task(send(number))
            sending.add(task)
            task.add_done_callback(sending.discard)
            number += 1

    task = asyncio.create_task(send_all())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


if __name__ == "__main__":
    given = arguments(__doc__ or "", rounds=1, seconds=90.0)
    main(lambda: measure(given.rounds, given.seconds), minutes=20, strict=given.strict)
