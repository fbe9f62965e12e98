"""What other callers feel of an attack from loopback: p99 of `/healthz`, of a list and of a broadcast's status, to idle.

One `butai api` and one `butai worker` with the limits that they have by default, an embedded store and Postgres. For each
attack the same three requests are sent by one signed-in caller, each over a connection of its own: first to an idle
service, then while the attack runs. The attacker is a process of its own with an address of its own (127.0.0.2) and an
account of its own. Attacks are bounded: by the counts below, and by the seconds of a run. Each uses the machine too, so the
ratios are upper bounds of what the service itself lets through.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from urllib.parse import quote, urlsplit

import aiohttp
import av
import numpy as np
import psycopg
import servers
from harness import HERE, Benchmark, Failed, Figures, Limit, Ratio, argument_parser, cpu_of, main, versions

from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.seaweed import EmbeddedSeaweed

sys.path.insert(0, str(HERE.parent))
from tests.files import glb

ATTACKER = "127.0.0.2"
ASSETS = 500
"""Rows of the library that the list is a page of."""
PAUSE = 0.02
"""Seconds between two requests of the caller who is measured."""
JSON_BYTES = 820 * 1024
SILENT, SLOW, THUMBNAILS, SOUNDS, UPLOADS, NAMES, KEYS, STREAMS = 1000, 300, 8, 10, 20, 10, 8, 50
SOUND_SECONDS = 7000
"""Of each silent sound: a little less than the two hours that are the most."""

PATHS = {
    "healthz": "/healthz",
    "list": "/api/s3/resources?type=vrm&pageSize=20",
    "status": "/api/live/status?room_id=measured",
}


@dataclass
class Attacker:
    """The attacker's side of one run. `begun` is to be called when the attack is under way."""

    origin: str
    http: aiohttp.ClientSession
    begun: Callable[[], None]

    async def post(self, path: str, body: object) -> dict[str, str]:
        async with self.http.post(self.origin + path, json=body) as answer:
            if answer.status not in (200, 201):
                raise Failed(f"{path}: {answer.status} {await answer.text()}")
            return await answer.json()

    async def upload(self, key: str, body: bytes) -> None:
        form = aiohttp.FormData({"fileName": key, "fileType": "application/octet-stream"})
        form.add_field("file", io.BytesIO(body), filename="upload.bin")
        async with self.http.post(f"{self.origin}/api/s3/upload", data=form) as answer:
            if answer.status != 200:
                raise Failed(f"{key}: {answer.status} {await answer.text()}")

    async def repeat(self, times: int, act: Callable[[int], Awaitable[object]]) -> None:
        """Has `times` of them act again and again, whatever is answered, until the run ends."""

        async def one(number: int) -> None:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    await act(number)

        self.begun()
        await asyncio.gather(*(one(number) for number in range(times)))

    async def get(self, path: str, **headers: str) -> None:
        async with self.http.get(self.origin + path, headers=headers) as answer:
            await answer.read()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.origin)
        return await asyncio.open_connection(parts.hostname, parts.port, local_addr=(ATTACKER, 0))


# The attacks


async def silent_sockets(attacker: Attacker) -> None:
    """Connections that send nothing; those that are closed are replaced."""

    async def hold(_: int) -> None:
        reader, writer = await attacker.connect()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    await attacker.repeat(SILENT, hold)


async def slow_bodies(attacker: Attacker) -> None:
    """Uploads that send a byte ten times a second."""
    cookie = servers.cookie("attacker")["Cookie"]
    head = (
        f"POST /api/s3/upload HTTP/1.1\r\nHost: {urlsplit(attacker.origin).netloc}\r\nCookie: {cookie}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n--x\r\n"
    )

    async def drip(_: int) -> None:
        reader, writer = await attacker.connect()
        with contextlib.suppress(ConnectionError):
            writer.write(head.encode())
            while not reader.at_eof():
                writer.write(b"C")
                await writer.drain()
                await asyncio.sleep(0.1)
        writer.close()

    await attacker.repeat(SLOW, drip)


async def thumbnails(attacker: Attacker) -> None:
    """The picture of an avatar whose JSON has 820 KiB, which parsing would take many milliseconds of."""
    nodes = [{"name": f"node {number}", "translation": [number, 0.5, 0.25]} for number in range(JSON_BYTES // 61)]
    key = f"vrm/heavy {time.time_ns()}.vrm"
    document: dict[str, object] = {
        "asset": {"version": "2.0"},
        "nodes": nodes,
        "extensions": {"VRMC_vrm": {"meta": {}}},
    }
    await attacker.upload(key, glb(document))
    read = quote(f"/api/s3/read-object?key={quote(key, safe='')}", safe="")
    await attacker.repeat(THUMBNAILS, lambda _: attacker.get(f"/api/vrm-thumbnail?url={read}"))


async def silent_sounds(attacker: Attacker) -> None:
    """Ten FLACs of two hours, each of some kilobytes; the worker decodes them."""
    body = await asyncio.to_thread(silent_flac, SOUND_SECONDS)
    attacker.begun()
    for number in range(SOUNDS):
        await attacker.upload(f"bgm/silence {time.time_ns()} {number}.flac", body)
    await asyncio.Event().wait()


async def tiny_pieces(attacker: Attacker) -> None:
    """Resumable uploads that grow by a byte with each request."""
    paths: list[str] = []
    for number in range(UPLOADS):
        name = base64.b64encode(f"scene/tiny {time.time_ns()} {number}.glb".encode()).decode()
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "1000000", "Upload-Metadata": f"filename {name}"}
        async with attacker.http.post(f"{attacker.origin}/api/assets/uploads", headers=headers) as answer:
            if answer.status != 201:
                raise Failed(f"uploads: {answer.status} {await answer.text()}")
            paths.append(answer.headers["Location"])
    offsets = [0] * UPLOADS

    async def grow(number: int) -> None:
        headers = {
            "Tus-Resumable": "1.0.0",
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": str(offsets[number]),
        }
        path = urlsplit(paths[number]).path
        async with attacker.http.patch(attacker.origin + path, headers=headers, data=b"g") as answer:
            await answer.read()
            offsets[number] = int(answer.headers.get("Upload-Offset", offsets[number]))

    await attacker.repeat(UPLOADS, grow)


async def unresolved_names(attacker: Attacker) -> None:
    """Destinations whose names no server knows: made, tested and removed."""

    async def make(number: int) -> None:
        name = f"n{time.time_ns()}-{number}.invalid"
        asked = {"platform": "custom", "ingest_url": f"rtmp://{name}/live", "stream_key": "k"}
        async with attacker.http.post(f"{attacker.origin}/api/live/destinations", json=asked) as answer:
            made = await answer.json()
        if "id" in made:
            path = f"{attacker.origin}/api/live/destinations/{made['id']}"
            async with attacker.http.post(f"{path}/test") as answer:
                await answer.read()
            async with attacker.http.delete(path) as answer:
                await answer.read()

    await attacker.repeat(NAMES, make)


async def wrong_keys(attacker: Attacker) -> None:
    """API keys of the right form that are none, another one each time."""
    dice = random.Random(time.time_ns())

    async def guess(_: int) -> None:
        key = f"butai_{dice.randbytes(8).hex()}_{dice.randbytes(32).hex()}"
        await attacker.get(PATHS["list"], Authorization=f"Bearer {key}", Cookie="")

    await attacker.repeat(KEYS, guess)


async def event_streams(attacker: Attacker) -> None:
    """As many event streams of a broadcast as one user may have, and further ones, which are refused."""
    await attacker.repeat(STREAMS + 10, lambda _: attacker.get("/api/live/events?room_id=attacked"))


ATTACKS = {
    "silent sockets": silent_sockets,
    "slow bodies": slow_bodies,
    "thumbnails": thumbnails,
    "silent sounds": silent_sounds,
    "tiny pieces": tiny_pieces,
    "unresolved names": unresolved_names,
    "wrong keys": wrong_keys,
    "event streams": event_streams,
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


def silent_flac(seconds: int) -> bytes:
    """A silent sound as FLAC, which compresses silence to almost nothing."""
    made = io.BytesIO()
    with av.open(made, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=8000)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        silence = np.zeros((1, 8000 * 10), dtype=np.int16)
        for number in range(seconds // 10):
            frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, number * 80_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return made.getvalue()


def attack(name: str, origin: str, begun: Event, seconds: float) -> None:
    """The attacker's process: ends after so many seconds at the latest, or when it is terminated."""

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=0, local_addr=(ATTACKER, 0))
        async with aiohttp.ClientSession(connector=connector, headers=servers.cookie("attacker")) as http:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await ATTACKS[name](Attacker(origin, http, begun.set))

    asyncio.run(run())


# The measurement


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
