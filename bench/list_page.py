"""A list page of 100 items out of a million: Butai against Fastify + pg and Next.js + Prisma.

All on one Postgres, each as one process with a pool of ten, 16 connections, cursors at random depths of the 667,000
public avatars. Butai is `butai api` with all its middleware, its access log on, and checks a session cookie at each
request (the contract has no anonymous lists); the peers check nothing and list public assets only.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from urllib.parse import unquote

import psycopg
import seed
import servers
from harness import Benchmark, Failed, Figures, Ratio, arguments, in_words, main, need, tool_version, versions, wrk

from butai.assets.listing import PagePosition, encode_cursor, parse_sort

LIST = "/api/s3/resources?type=vrm&pageSize=100"
CURSORS = 2000
DEPTH = 500_000

STATEMENTS = [
    Ratio("requests/s, to fastify-pg", "butai", "fastify-pg", "rps", at_least=1.7),
    Ratio("requests/s, to next-prisma", "butai", "next-prisma", "rps", at_least=5),
    Ratio("p99, to next-prisma", "butai", "next-prisma", "p99_ms", at_most=0.25),
    Ratio("p99, to fastify-pg", "butai", "fastify-pg", "p99_ms"),
    Ratio("CPU of the API process for each request, to fastify-pg's", "butai", "fastify-pg", "api_us", at_most=0.45),
    Ratio("CPU of Postgres for each request, to fastify-pg's", "butai", "fastify-pg", "postgres_us"),
    Ratio("CPU of both for each request, to fastify-pg's", "butai", "fastify-pg", "all_us"),
    Ratio("requests/s of fastify-pg, to next-prisma", "fastify-pg", "next-prisma", "rps"),
    Ratio(
        "p50 at depth 500,000, to the first page", "butai, depth 500,000", "butai, first page", "p50_ms", at_most=1.2
    ),
    Ratio("requests/s at depth 500,000, to the first page", "butai, depth 500,000", "butai, first page", "rps"),
    Ratio(
        "CPU of Postgres at depth 500,000, to the first page",
        "butai, depth 500,000",
        "butai, first page",
        "postgres_us",
    ),
    Ratio("requests/s for an owner of 10,000 private, to one of none", "butai, owner", "butai", "rps"),
    Ratio("requests/s with all middleware, to the bare route", "butai", "bare route", "rps", at_least=0.85),
    Ratio("CPU with all middleware, to the bare route", "butai", "bare route", "api_us"),
]


def measure(rounds: int, seconds: float) -> bool:
    bench = Benchmark(
        "list_page",
        "100 items of 1,000,000, random keyset pages, 16 connections",
        STATEMENTS,
        shown=("rps", "p50_ms", "p99_ms", "bytes", "api_us", "postgres_us", "foreign_cores"),
    )
    need("wrk", "node", "npm")
    with ExitStack() as opened:
        postgres = opened.enter_context(servers.seeded_postgres())
        butai_paths, peer_paths, deep_path = paths(postgres.url)
        butai = opened.enter_context(servers.api(postgres.url))
        bare = opened.enter_context(servers.bare(postgres.url))
        fastify = opened.enter_context(servers.fastify(postgres.url, peer_paths[0]))
        next_prisma = opened.enter_context(servers.next_prisma(postgres.url, peer_paths[0]))
        bench.versions = {
            "butai": in_words(versions("butai", "fastapi", "uvicorn", "psycopg")),
            "fastify-pg": in_words(servers.peer_versions("fastify-pg", "fastify", "pg")),
            "next-prisma": in_words(servers.peer_versions("next-prisma", "next", "prisma", "pg")),
            "postgres": postgres_version(postgres.url),
            "load": tool_version("wrk", "-v"),
        }
        stranger, owner = servers.cookie(seed.STRANGER), servers.cookie(seed.OWNER)
        check_same(
            [
                (butai, stranger, butai_paths),
                (bare, {}, butai_paths),
                (fastify, {}, peer_paths),
                (next_prisma, {}, peer_paths),
            ]
        )
        first_path = f"{LIST}&total=none"

        def load(server: servers.Server, paths: list[str], headers: dict[str, str], number: int) -> Figures:
            pids = {"api": server.pid, "postgres": servers.pid_of(postgres)}
            if number == 1:  # just-in-time compilers, caches, connections
                wrk(server.origin, paths, headers=headers, seconds=2)
            figures = wrk(server.origin, paths, headers=headers, seconds=seconds, seed=number, pids=pids)
            figures["all_us"] = figures["api_us"] + figures["postgres_us"]
            return figures

        bench.run(
            {
                "bare route": partial(load, bare, butai_paths, {}),
                "butai": partial(load, butai, butai_paths, stranger),
                "fastify-pg": partial(load, fastify, peer_paths, {}),
                "next-prisma": partial(load, next_prisma, peer_paths, {}),
                "butai, owner": partial(load, butai, butai_paths, owner),
                "butai, first page": partial(load, butai, [first_path], stranger),
                "butai, depth 500,000": partial(load, butai, [deep_path], stranger),
            },
            rounds,
        )
    return bench.report()


def paths(url: str) -> tuple[list[str], list[str], str]:
    """The same pages as Butai's cursors and as the peers'; and Butai's page behind 500,000 items."""
    order = parse_sort(None)
    where = "type = 'vrm' AND status = 'ready' AND deleted_at IS NULL AND sidecar IS NULL AND visibility = 'public'"

    def butai(value: str, asset_id: str) -> str:
        return f"{LIST}&cursor={encode_cursor(order, PagePosition(value, asset_id, 667_000, 2))}"

    with psycopg.connect(url) as connection:
        rows = connection.execute(
            f"""SELECT created_at::text, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), id::text
                FROM assets WHERE {where} AND created_at > '2024-02-01' ORDER BY md5(id::text) LIMIT {CURSORS}""".encode()
        ).fetchall()
        deep = connection.execute(
            f"""SELECT created_at::text, id::text FROM assets WHERE {where}
                ORDER BY created_at DESC, id DESC OFFSET {DEPTH - 1} LIMIT 1""".encode()
        ).fetchone()
    assert len(rows) == CURSORS
    assert deep is not None
    return (
        [butai(text, asset_id) for text, _, asset_id in rows],
        [f"{LIST}&cursor={iso},{asset_id}" for _, iso, asset_id in rows],
        butai(*deep),
    )


def check_same(asked: list[tuple[servers.Server, dict[str, str], list[str]]]) -> None:
    """Raises `Failed` unless all servers list the same 100 assets, field by field."""
    for number in range(0, CURSORS, CURSORS // 10):
        pages = [json.loads(servers.fetch(server.origin + paths[number], headers)) for server, headers, paths in asked]
        # JavaScript leaves parentheses and some more in URLs as they are.
        listed = [[{name: _plain(value) for name, value in item.items()} for item in page["data"]] for page in pages]
        for (server, _, paths), items in zip(asked, listed, strict=True):
            for place, (item, other) in enumerate(zip(listed[0], items, strict=True)):
                if item != other:
                    raise Failed(f"{asked[0][0].name} and {server.name} differ at item {place}:\n{item}\n{other}")
            if len(items) != 100:
                raise Failed(f"{server.name} lists {len(items)} items at {paths[number]}")


def _plain(value: object) -> object:
    return unquote(value) if isinstance(value, str) and value.startswith("/api/") else value


def postgres_version(url: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT version(), current_setting('shared_buffers')").fetchone()
    assert row is not None
    return f"{row[0].split(' on ')[0]}, shared_buffers {row[1]}"


if __name__ == "__main__":
    given = arguments(__doc__ or "", rounds=5, seconds=3)
    main(lambda: measure(given.rounds, given.seconds), minutes=30, strict=given.strict)
