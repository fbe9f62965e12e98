"""The patrol over 100,000 objects: how fast it asks, against obstore in a plain loop and boto3 in threads, what it
costs.

All ask the same store for the same objects, one after the other in each round. The patrol does its whole work
meanwhile: rows read in batches, answers weighed, looks written. Then it goes at its default pace while the API serves
lists, and the lists' p99 is held against that of the same API alone. boto3 lives in an environment of its own (it wants
another dateutil than procrastinate).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import psutil
import psycopg
import servers
from harness import Benchmark, Failed, Figures, Limit, Ratio, arguments, cpu_of, main, need, tool_version, versions, wrk

from butai.assets.storage.heads import CONCURRENCY, _fast_store  # pyright: ignore[reportPrivateUsage]
from butai.config import StoreSettings
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.seaweed import EmbeddedSeaweed

OBJECTS = 100_000
SAMPLE = 20_000
BOTO_SAMPLE = 2_000

STATEMENTS = [
    Ratio("objects looked for a second, to obstore in a plain loop", "patrol", "obstore", "heads_per_s", at_least=0.85),
    Ratio("… to boto3 in 16 threads", "patrol", "boto3", "heads_per_s", at_least=10),
    Limit("seconds for all of them", "patrol", "seconds", "s", at_most=30),
    Limit("memory it adds", "patrol", "added_mib", "MiB", at_most=20),
    Limit("CPU of the patrol's process", "patrol", "cpu_s", "s"),
    Ratio("p99 of lists while it goes at its default pace, to idle", "busy_lists", "idle_lists", "p99_ms", at_most=1.5),
    Ratio("… while it goes as fast as it can", "full_lists", "idle_lists", "p99_ms"),
]

_PATROL = """
import asyncio, json, os, sys, time, psutil
from butai import log
from butai.config import Settings
from butai.database import Database
from butai.assets.storage.client import Store
from butai.assets.patrol.run import Patrol
async def main():
    settings = Settings()
    log.configure(settings.log, settings.secrets())
    me = psutil.Process()
    async with Database(settings.database) as database, Store(settings.store) as store:
        patrol = Patrol(database, store, settings.patrol)
        await patrol.recheck([])
        await database.ready()
        before = me.memory_info().rss
        most = before
        def measure(run):
            nonlocal most
            most = max(most, me.memory_info().rss)
        print("began", flush=True)
        began = time.monotonic()
        run = await patrol.run("asked", everything=True, on_progress=measure)
        seconds = time.monotonic() - began
    times = me.cpu_times()
    print(json.dumps(dict(seconds=seconds, checked=run.checked, found=run.found, state=run.state,
                          added_mib=(most - before) / 2**20, cpu_s=times.user + times.system)))
asyncio.run(main())
"""

_BOTO = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
import boto3
from botocore.config import Config
where = json.loads(sys.argv[1])
client = boto3.client("s3", endpoint_url=where["endpoint"], aws_access_key_id=where["key"],
    aws_secret_access_key=where["secret"], region_name=where["region"], config=Config(max_pool_connections=16))
keys = sys.stdin.read().split()
with ThreadPoolExecutor(16) as pool:
    began = time.monotonic()
    for _ in pool.map(lambda key: client.head_object(Bucket=where["bucket"], Key=key), keys): pass
print(len(keys) / (time.monotonic() - began))
"""


def measure(rounds: int, seconds: float) -> bool:
    need("wrk")
    bench = Benchmark(
        "patrol", f"{OBJECTS:,} objects in the embedded store, {CONCURRENCY} requests at a time", STATEMENTS
    )
    bench.versions = versions("butai", "obstore", "aiohttp") | {"wrk": tool_version("wrk", "-v")}
    boto = _boto3()
    folder = servers.WORK / "patrol"
    shutil.rmtree(folder, ignore_errors=True)
    with (
        EmbeddedPostgres(folder / "postgres") as postgres,
        servers.store() as stored,
        servers.database(postgres, "patrol") as url,
    ):
        keys = fill(url, stored)
        env = environment(url, stored)
        with servers.api(url, stored, name="patrol-api") as api:
            lists: dict[str, Any] = {"seconds": seconds, "headers": servers.cookie("alice"), "connections": 1}
            paths = ["/api/s3/resources?type=vrm&pageSize=50"]
            bench.run(
                {
                    "obstore": lambda _: asyncio.run(plain(stored, keys)),
                    "patrol": lambda _: patrol(env),
                    "boto3": lambda _: {"heads_per_s": threads(boto, stored, keys)},
                    "idle_lists": lambda number: wrk(api.origin, paths, seed=number, **lists),
                    "busy_lists": lambda number: beside(env, {}, lambda: wrk(api.origin, paths, seed=number, **lists)),
                    "full_lists": lambda number: beside(
                        env, {"BUTAI_PATROL_RATE": "0"}, lambda: wrk(api.origin, paths, seed=number, **lists)
                    ),
                },
                rounds,
            )
    shutil.rmtree(folder, ignore_errors=True)
    return bench.report()


def _boto3() -> Path:
    """A Python that has boto3, in an environment of its own."""
    python = servers.WORK / "boto3" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True, timeout=120)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "boto3"], check=True, timeout=300)
    return python


def settings(stored: EmbeddedSeaweed) -> StoreSettings:
    where = stored.store
    return StoreSettings(
        endpoint=where.endpoint,
        bucket=where.bucket,
        region=where.region,
        access_key_id=where.credentials.access_key_id,  # pyright: ignore[reportArgumentType]
        secret_access_key=where.credentials.secret_access_key,  # pyright: ignore[reportArgumentType]
    )


def environment(url: str, stored: EmbeddedSeaweed) -> dict[str, str]:
    where = stored.store
    return {
        "PATH": os.environ["PATH"],
        "BUTAI_DATABASE_URL": url,
        "BUTAI_S3_ENDPOINT": where.endpoint,
        "BUTAI_S3_BUCKET": where.bucket,
        "BUTAI_S3_REGION": where.region,
        "BUTAI_S3_ACCESS_KEY_ID": where.credentials.access_key_id,
        "BUTAI_S3_SECRET_ACCESS_KEY": where.credentials.secret_access_key,
    }


def fill(url: str, stored: EmbeddedSeaweed) -> list[str]:
    """Real objects, and their rows."""
    print(f"writing {OBJECTS:,} objects …", flush=True)
    store = _fast_store(settings(stored))
    keys = [f"objects/{number % 256:02x}/{number:06d}" for number in range(OBJECTS)]
    etags: dict[str, str] = {}

    async def put() -> None:
        left = iter(keys)

        async def some() -> None:
            for key in left:
                put = await obstore.put_async(store, key, b"0123456789")
                etags[key] = (put["e_tag"] or "").strip('"')

        await asyncio.gather(*(some() for _ in range(CONCURRENCY)))

    asyncio.run(put())
    with psycopg.connect(url) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE made (key text, etag text)")
            with cursor.copy("COPY made FROM STDIN") as copy:
                for key in keys:
                    copy.write_row((key, etags[key]))
        connection.execute(
            """INSERT INTO assets (id, type, s3_key, wanted_key, stem, display_name, mime_type, size_bytes, status,
                                   owner_user_id, visibility, ever_public, object_key, etag, change_seq)
               SELECT gen_random_uuid(), 'vrm', 'vrm/' || key, 'vrm/' || key, 'vrm/' || key, key, 'model/gltf-binary', 10,
                      'ready', 'alice', 'public', true, key, etag, 0 FROM made"""
        )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE assets")
    return keys


async def plain(stored: EmbeddedSeaweed, keys: list[str]) -> Figures:
    """obstore's own HEADs, nothing else."""
    store, left = _fast_store(settings(stored)), iter(keys[:SAMPLE])
    used: Figures = {}

    async def some() -> None:
        for key in left:
            await obstore.head_async(store, key)

    with cpu_of({}, used):
        began = time.monotonic()
        await asyncio.gather(*(some() for _ in range(CONCURRENCY)))
        seconds = time.monotonic() - began
    return {"heads_per_s": SAMPLE / seconds}


def patrol(env: dict[str, str]) -> Figures:
    """A whole round, as fast as it goes, in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", _PATROL],
        env=env | {"BUTAI_PATROL_RATE": "0", "BUTAI_LOG_LEVEL": "error"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if ended.returncode:
        raise Failed(ended.stderr[-2000:])
    told = json.loads(ended.stdout.splitlines()[-1])
    if (told["state"], told["found"]) != ("finished", OBJECTS):
        raise Failed(f"not all were found: {told}")
    return {"heads_per_s": OBJECTS / told["seconds"], **{k: told[k] for k in ("seconds", "added_mib", "cpu_s")}}


def threads(python: Path, stored: EmbeddedSeaweed, keys: list[str]) -> float:
    where = stored.store
    told = {
        "endpoint": where.endpoint,
        "bucket": where.bucket,
        "region": where.region,
        "key": where.credentials.access_key_id,
        "secret": where.credentials.secret_access_key,
    }
    ended = subprocess.run(
        [str(python), "-c", _BOTO, json.dumps(told)],
        input="\n".join(keys[:BOTO_SAMPLE]),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if ended.returncode:
        raise Failed(ended.stderr[-2000:])
    return float(ended.stdout)


def beside(env: dict[str, str], more: dict[str, str], act: Callable[[], Figures]) -> Figures:
    """The result of `act` while a patrol is running."""
    child = subprocess.Popen(
        [sys.executable, "-c", _PATROL],
        env=env | {"BUTAI_LOG_LEVEL": "error"} | more,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        if child.stdout.readline().strip() != "began":
            raise Failed("the patrol did not begin")
        figures = act()
        if child.poll() is not None:
            raise Failed("the patrol had ended before the lists had")
        return figures
    finally:
        if psutil.pid_exists(child.pid):
            child.kill()
        child.wait(10)


if __name__ == "__main__":
    asked = arguments(__doc__ or "", rounds=3)
    main(lambda: measure(asked.rounds, asked.seconds), minutes=20, strict=asked.strict)
