"""LiveKit's webhooks: what it costs the API to verify, seal, commit and tell one, and whether SIGKILL loses any.

Real bodies (recorded from LiveKit, each with an id and a room of its own) are signed beforehand and sent by wrk to `butai api`
with all its middleware; each counts when it is committed, which is before its 200. In the same round `GET /healthz` of the
same process shows what a request that does nothing costs: the rest is the webhook's own. Postgres waits for its disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import servers
from harness import HERE, Benchmark, Failed, Figures, Limit, Ratio, arguments, cpu_of, main, tool_version, versions, wrk

from butai.embedded.postgres import EmbeddedPostgres

sys.path.insert(0, str(HERE.parent))
from tests.webhooks import KEY, SECRET, encoded, new_id, sign

ROOMS = 200
CONNECTIONS = 64
"""LiveKit waits for each answer before it sends the next event of a room: so many rooms are busy at once."""
MOST_A_SECOND = 6000
"""What is signed beforehand for each second of a run; more than is taken, so that none is sent twice."""
KILL_AFTER = 3000

STATEMENTS = [
    Limit("stored for each second of the API's CPU", "webhook", "stored_per_cpu_s", "/s", at_least=2000),
    Ratio("CPU of the API for one, to GET /healthz", "webhook", "healthz", "api_us"),
    Limit("CPU of the API for one", "webhook", "api_us", "µs"),
    Limit("CPU of Postgres for one", "webhook", "postgres_us", "µs"),
    Limit("stored a second, with what the machine had left", "webhook", "rps", "/s"),
    Limit("from its sending to its 200, median", "webhook", "p50_ms", "ms"),
    Limit("from its sending to its 200, p99", "webhook", "p99_ms", "ms"),
    Limit("webhooks in one transaction, on average", "webhook", "each_commit", ""),
    Limit("answered 200 before SIGKILL", "killed", "answered", ""),
    Limit("of those, not in the table after it", "killed", "lost", "", at_most=0, worst=True),
]

_POST = """
local formed = {}
local n = 0
for line in io.lines(os.getenv("WRK_REQUESTS")) do
  local token, body = line:match("^(%S+) (.*)$")
  n = n + 1
  formed[n] = {token, body}
end
local at = 0
function request()
  at = at + 1
  if at > n then at = 1 end
  local headers = {["Authorization"] = formed[at][1], ["Content-Type"] = "application/webhook+json"}
  return wrk.format("POST", "/api/live/webhook", headers, formed[at][2])
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("FIGURES %d %d %d %d %d %d\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def measure(rounds: int, seconds: float) -> bool:
    bench = Benchmark("webhooks", f"{ROOMS} rooms on air, {CONNECTIONS} connections, one API process", STATEMENTS)
    bench.versions = {"wrk": tool_version("wrk", "-v"), **versions("butai", "fastapi", "uvicorn", "psycopg", "msgspec")}
    with contextlib.ExitStack() as opened:
        scratch = opened.enter_context(tempfile.TemporaryDirectory(prefix="butai-bench-webhooks-"))
        postgres = opened.enter_context(EmbeddedPostgres(Path(scratch, "postgres")))
        url = opened.enter_context(servers.database(postgres, "webhooks"))
        seed(url)
        pid = servers.pid_of(postgres)
        server = opened.enter_context(api(url))
        bench.run(
            {
                "webhook": lambda _: load(server, url, pid, seconds),
                "healthz": lambda number: bare(server, number, seconds),
                "killed": lambda _: killed(url),
            },
            rounds,
        )
    return bench.report()


@contextlib.contextmanager
def api(url: str, name: str = "webhooks-api") -> Generator[servers.Server]:
    keys: dict[str, Any] = {"LIVEKIT_URL": "ws://127.0.0.1:9", "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET}
    with servers.api(url, name=name, BUTAI_SECRET_KEY="ab" * 32, **keys) as server:
        yield server


def seed(url: str) -> None:
    """Rooms, each on air."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO rooms (room_id, owner_user_id, host_identity) "
            "SELECT 'room-' || n, 'alice', 'host' FROM generate_series(0, %s) n",
            [ROOMS - 1],
        )
        connection.execute(
            "INSERT INTO broadcasts (id, room_id, host_identity, wanted, preset, source_grace, on_source_lost, egress) "
            "SELECT gen_random_uuid(), room_id, 'host', 'on_air', '720p30', 60, 'end', 'relay' FROM rooms"
        )


def bodies(count: int) -> list[tuple[str, bytes]]:
    """`count` webhooks with their signatures, made of the recorded ones."""
    recorded = [
        json.loads(one["body"])
        for path in sorted((HERE.parent / "tests" / "recordings").glob("*.jsonl"))
        for one in map(json.loads, path.read_text().splitlines())
        if one["kind"] == "webhook"
    ]
    made: list[tuple[str, bytes]] = []
    for number in range(count):
        said = recorded[number % len(recorded)]
        room = f"room-{number % ROOMS}"
        said |= {"id": new_id(), "createdAt": str(int(time.time()))}
        for about, name in (("room", "name"), ("egressInfo", "roomName")):
            if about in said:
                said[about][name] = room
        body = encoded(said)
        made.append((sign(body), body))
    return made


def bare(server: servers.Server, number: int, seconds: float) -> Figures:
    """A request that does nothing."""
    pids = {"api": server.pid}
    return wrk(server.origin, ["/healthz"], connections=CONNECTIONS, seconds=seconds, seed=number, pids=pids)


def load(server: servers.Server, url: str, postgres_pid: int, seconds: float) -> Figures:
    """wrk's POSTs for so many seconds."""
    whole = max(1, round(seconds))
    prepared = bodies(MOST_A_SECOND * whole)
    figures: Figures = {}
    used: Figures = {}
    before = count(url)
    with tempfile.TemporaryDirectory() as scratch:
        script, requests = Path(scratch, "load.lua"), Path(scratch, "requests")
        script.write_text(_POST)
        requests.write_bytes(b"\n".join(token.encode() + b" " + body for token, body in prepared))
        argv = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{whole}s", "--timeout", "30s", "-s", str(script), server.origin]
        with cpu_of({"api": server.pid, "postgres": postgres_pid}, used):
            ended = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                timeout=seconds + 60,
                env={"PATH": os.environ["PATH"], "WRK_REQUESTS": str(requests)},
                check=False,
            )
    match = re.search(r"^FIGURES (.*)$", ended.stdout, re.MULTILINE)
    if ended.returncode or not match:
        raise Failed(f"wrk: {ended.stderr or ended.stdout}")
    answered, micros, errors, p50, p99, most = map(int, match[1].split())
    after = count(url)
    stored = after[0] - before[0]
    if errors or stored < answered or answered > len(prepared):
        raise Failed(f"{answered} answers with {errors} errors, {stored} stored of {len(prepared)} (see {server.log})")
    figures["rps"] = answered / micros * 1e6
    figures["p50_ms"], figures["p99_ms"], figures["max_ms"] = p50 / 1e3, p99 / 1e3, most / 1e3
    figures["foreign_cores"] = used["foreign_cores"]
    figures["api_us"], figures["postgres_us"] = used["api"] / stored * 1e6, used["postgres"] / stored * 1e6
    figures["stored_per_cpu_s"] = stored / used["api"]
    figures["each_commit"] = stored / (after[1] - before[1])
    figures["told"] = (after[2] - before[2]) / stored
    if figures["told"] < 1:
        raise Failed("some stand in no timeline")
    return figures


def count(url: str) -> tuple[int, int, int]:
    """Webhooks, the transactions that wrote them, events in timelines."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*), count(DISTINCT xmin::text), (SELECT count(*) FROM live_events) FROM livekit_webhooks"
        ).fetchone()
    assert row is not None
    return row


def killed(url: str) -> Figures:
    """An API process of its own, killed in the midst of it."""
    with api(url, "webhooks-killed") as server:
        answered = asyncio.run(send_until_killed(server))
    with psycopg.connect(url) as connection:
        kept = {one for (one,) in connection.execute("SELECT id FROM livekit_webhooks")}
    return {"answered": len(answered), "lost": len(set(answered) - kept)}


async def send_until_killed(server: servers.Server) -> list[str]:
    """The ids of those that were answered 200."""
    answered: list[str] = []
    waiting = iter(bodies(KILL_AFTER * 4))

    async def sender(client: aiohttp.ClientSession) -> None:
        for token, body in waiting:
            async with client.post(
                f"{server.origin}/api/live/webhook", data=body, headers={"Authorization": token}
            ) as answer:
                if answer.status != 200:
                    raise Failed(f"{answer.status}: {await answer.text()}")
            answered.append(json.loads(body)["id"])
            if len(answered) == KILL_AFTER:
                os.kill(server.pid, signal.SIGKILL)
        raise Failed("it was not killed in the midst of it")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as client:
        ends = await asyncio.gather(*(sender(client) for _ in range(CONNECTIONS)), return_exceptions=True)
    for end in ends:
        if not isinstance(end, aiohttp.ClientError):
            raise end if isinstance(end, Failed) else Failed(repr(end))
    return answered


if __name__ == "__main__":
    given = arguments(__doc__ or "", rounds=2, seconds=4.0)
    main(lambda: measure(given.rounds, given.seconds), minutes=10, strict=given.strict)
