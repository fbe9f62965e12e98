"""What other callers feel of an attack from loopback: p99 of `/healthz`, of a list and of a broadcast's status, to idle.

One `butai api` and one `butai worker` with the limits that they have by default, an embedded store and Postgres. For each
attack the same three requests are sent by one signed-in caller, each over a connection of its own: first to an idle
service, then while the attack runs. The attacker is a process of its own with an address of its own (127.0.0.2) and an
account of its own. Attacks are bounded: by the counts in `attacks.py`, and by the seconds of a run. Each uses the machine
too, so the ratios are upper bounds of what the service itself lets through.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path

import aiohttp
import psycopg
import servers
from attacks import ATTACKS, LIST, attack
from harness import Benchmark, Failed, Figures, Limit, Ratio, argument_parser, cpu_of, main, versions

from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.seaweed import EmbeddedSeaweed

ASSETS = 500
"""Rows of the library that the list is a page of."""
PAUSE = 0.02
"""Seconds between two requests of the caller who is measured."""
PATHS = {
    "healthz": "/healthz",
    "list": LIST,
    "status": "/api/live/status?room_id=measured",
}


def statements(attacks: Sequence[str]) -> list[Ratio | Limit]:
    return [
        statement
        for attack in attacks
        for statement in (
            *(
                Ratio(f"{attack}: p99 of {name}", attack, f"idle, {attack}", f"{name}_p99_ms", at_most=2.0)
                for name in PATHS
            ),
            Limit(f"{attack}: requests that were refused or failed", attack, "refused", at_most=0, worst=True),
        )
    ]


@contextlib.contextmanager
def attacked(name: str, origin: str, seconds: float) -> Generator[None]:
    """Runs the attack while the block does, and says when it did not."""
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    process = context.Process(target=attack, args=(name, origin, begun, seconds + 60), daemon=True)
    process.start()
    try:
        if not begun.wait(60):
            raise Failed(f"{name}: the attack did not begin")
        # Those who have just come are taken in first.
        time.sleep(0.5)
        yield
        if process.exitcode is not None:
            raise Failed(f"{name}: the attack ended by itself ({process.exitcode})")
    finally:
        process.terminate()
        process.join(10)


async def probe(origin: str, seconds: float) -> Figures:
    """The three requests, each again and again. Figures: `NAME_p50_ms`, `NAME_p99_ms`, `requests`, `refused`."""
    times: dict[str, list[float]] = {name: [] for name in PATHS}
    figures: Figures = {"refused": 0, "requests": 0}
    until = time.monotonic() + seconds

    async def ask(http: aiohttp.ClientSession, name: str, path: str) -> None:
        while time.monotonic() < until:
            began = time.perf_counter()
            try:
                async with http.get(origin + path) as answer:
                    await answer.read()
                    good = answer.status == 200
            except (aiohttp.ClientError, TimeoutError):
                good = False
            times[name].append((time.perf_counter() - began) * 1e3)
            figures["requests"] += 1
            figures["refused"] += not good
            await asyncio.sleep(PAUSE)

    connector = aiohttp.TCPConnector(force_close=True)
    patience = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, headers=servers.cookie("alice"), timeout=patience) as http:
        await asyncio.gather(*(ask(http, name, path) for name, path in PATHS.items()))
    for name, taken in times.items():
        if len(taken) < 2:
            raise Failed(f"{name} was answered {len(taken)} times")
        figures[f"{name}_p50_ms"] = statistics.median(taken)
        figures[f"{name}_p99_ms"] = statistics.quantiles(taken, n=100, method="inclusive")[98]
    return figures


def run(name: str | None, server: servers.Server, url: str, stored: EmbeddedSeaweed, seconds: float, _: int) -> Figures:
    """One run, with a worker of its own: jobs that an attack has left do not reach into the next run."""
    used: Figures = {}
    with servers.worker(url, stored, **LIMITS):
        wait_for_worker(url)
        against = contextlib.nullcontext() if name is None else attacked(name, server.origin, seconds)
        with against, cpu_of({"api": server.pid}, used):
            figures = asyncio.run(probe(server.origin, seconds))
        forget_jobs(url)
    return figures | {"foreign_cores": used["foreign_cores"], "api_cores": used["api"] / seconds}


def wait_for_worker(url: str) -> None:
    """Returns when a worker has loaded its code and looks for jobs. Raises `Failed` after a minute."""
    deadline = time.monotonic() + 60
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute("SELECT 1 FROM procrastinate_workers LIMIT 1").fetchone() is None:
            if time.monotonic() > deadline:
                raise Failed("the worker does not start")
            time.sleep(0.1)
    # Its first look at each queue.
    time.sleep(1.0)


def forget_jobs(url: str) -> None:
    """Deletes jobs that wait, and the attacker's destinations."""
    with psycopg.connect(url) as connection:
        connection.execute("DELETE FROM procrastinate_jobs WHERE status = 'todo'")
        connection.execute("DELETE FROM destinations WHERE owner_user_id = 'attacker'")


LIMITS = dict.fromkeys(servers.UNREACHED, "") | {
    "BUTAI_SECRET_KEY": "ab" * 32,
    "BUTAI_OPEN_UPLOADS": "100000",
    "LIVEKIT_URL": "ws://127.0.0.1:9",
    "LIVEKIT_API_KEY": "devkey",
    "LIVEKIT_API_SECRET": "s" * 32,
}
"""The limits are those that a service has by default, but for open uploads: each run leaves some."""


def fill(url: str) -> None:
    """A library, and two rooms on air: the one that is measured, and the attacker's."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO assets (id, type, s3_key, wanted_key, stem, display_name, mime_type, size_bytes, status, "
            "owner_user_id, visibility, ever_public, object_key, change_seq) SELECT gen_random_uuid(), 'vrm', "
            "'vrm/seed ' || n || '.vrm', 'vrm/seed ' || n || '.vrm', 'vrm/seed ' || n, 'Seed ' || n, 'model/gltf-binary', "
            "1000, 'ready', 'alice', 'public', true, 'object/' || n, n FROM generate_series(1, %s) n",
            [ASSETS],
        )
        for room, owner in (("measured", "alice"), ("attacked", "attacker")):
            connection.execute(
                "INSERT INTO rooms (room_id, owner_user_id, host_identity) VALUES (%s, %s, 'host')", [room, owner]
            )
            connection.execute(
                "INSERT INTO broadcasts (id, room_id, host_identity, wanted, preset, source_grace, on_source_lost, egress) "
                "VALUES (gen_random_uuid(), %s, 'host', 'on_air', '720p30', 60, 'end', 'relay')",
                [room],
            )


def measure(rounds: int, seconds: float, attacks: Sequence[str]) -> bool:
    bench = Benchmark("starved", "others' p99 while an attack runs from loopback, to idle", statements(attacks))
    bench.versions = versions("butai", "fastapi", "uvicorn", "aiohttp")
    with contextlib.ExitStack() as opened:
        scratch = opened.enter_context(tempfile.TemporaryDirectory(prefix="butai-bench-starved-"))
        postgres = opened.enter_context(EmbeddedPostgres(Path(scratch, "postgres")))
        url = opened.enter_context(servers.database(postgres, "starved"))
        stored = opened.enter_context(servers.store())
        fill(url)
        server = opened.enter_context(servers.api(url, stored, name="starved-api", **LIMITS))
        for path in PATHS.values():
            servers.fetch(server.origin + path, servers.cookie("alice"))
        variants: dict[str, Callable[[int], Figures]] = {}
        for name in attacks:
            for variant, what in ((f"idle, {name}", None), (name, name)):
                variants[variant] = partial(run, what, server, url, stored, seconds)
        bench.run(variants, rounds)
    return bench.report()


if __name__ == "__main__":
    parser = argument_parser(__doc__ or "", rounds=3, seconds=10.0)
    parser.add_argument("--attack", action="append", choices=ATTACKS, help="one of them, again for another; else all")
    given = parser.parse_args()
    chosen = given.attack or list(ATTACKS)
    main(lambda: measure(given.rounds, given.seconds, chosen), minutes=40, strict=given.strict)
