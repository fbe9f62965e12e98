"""A search of the library's own list among a million assets with facts, against the plain list of the studio contract.

One `butai api` with all its middleware, 16 connections, pages of 50, a session cookie at each request. The plain list is
asked for pages at random depths; each kind of search for first pages with values drawn at random, so that nothing but the
planner's counts is remembered from one to the next. Facets are asked for by one connection.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from urllib.parse import quote, urlencode

import list_page
import seed
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

SEARCHES = 1000
"""Different requests of each kind."""

MOODS = (
    "Midnight",
    "Gentle",
    "Neon",
    "Autumn",
    "Clockwork",
    "Silent",
    "Crystal",
    "Sunny",
    "夜の",
    "桜色の",
    "静かな",
    "電脳",
)
NOUNS = ("Aoi", "Hikari", "Sakura", "Fox (v2)", "Idol", "Maid & Butler", "Dragon", "Student 100%", "あおい", "猫又")

Query = list[tuple[str, object]]
VRM: Query = [("type", "vrm")]


def _range(rng: random.Random) -> Query:
    low = rng.randrange(4000, 150_000)
    return [*VRM, ("min_triangles", low), ("max_triangles", low + 20)]


KINDS: dict[str, Callable[[random.Random], Query]] = {
    "common: one licence": lambda rng: [
        *VRM,
        ("licence.commercial", rng.choice(("personal_non_profit", "personal_profit", "corporation"))),
    ],
    "rare: one tag": lambda rng: [*VRM, ("tag", f"series {rng.randrange(20011)}")],
    "none: a tag that no asset has": lambda rng: [*VRM, ("tag", f"nobody {rng.randrange(10**6)}")],
    "two rare: tag, expression": lambda rng: [
        *VRM,
        ("tag", f"series {rng.randrange(20011)}"),
        ("has_expression", f"custom {rng.randrange(4001)}"),
    ],
    "range: 20 triangles": _range,
    "tags: a common and a rare": lambda rng: [("tag", rng.choice(MOODS)), ("tag", f"series {rng.randrange(20011)}")],
    "expression: one in 16,000": lambda rng: [*VRM, ("has_expression", f"custom {rng.randrange(4001)}")],
    "name and a rare tag": lambda rng: [("q", rng.choice(NOUNS)), ("tag", f"series {rng.randrange(20011)}")],
}
"""What a target is set for."""

HARD: dict[str, Callable[[random.Random], Query]] = {
    "one in 8: an expression": lambda rng: [*VRM, ("has_expression", "tongue")],
    "one in 15: a tag": lambda rng: [*VRM, ("tag", rng.choice(MOODS))],
    "one in 60: a name, a licence": lambda rng: [
        *VRM,
        ("q", rng.choice(NOUNS)),
        ("licence.redistribution", "allowed"),
    ],
    "one in 200: two tags": lambda rng: [("tag", rng.choice(MOODS[:4])), ("tag", rng.choice(NOUNS))],
    "two common that never meet": lambda rng: [*VRM, ("format", "vrm0"), ("has_expression", "surprised")],
}
"""What is neither rare nor common, the worst there is for either way, and what misleads the planner."""

PLAIN, ALL = "plain list", "all eight"
STATEMENTS = [
    Ratio(f"p99, {ALL}, to the plain list", ALL, PLAIN, "p99_ms", at_most=2),
    *(Ratio(f"p99, {name}", name, PLAIN, "p99_ms", at_most=2) for name in KINDS),
    *(Ratio(f"p50, {name}", name, PLAIN, "p50_ms") for name in KINDS),
    *(Ratio(f"p99, {name}", name, PLAIN, "p99_ms") for name in HARD),
    Limit("p50 of facets of everything", "facets", "p50_ms", "ms", at_most=100),
]


def measure(rounds: int, seconds: float) -> bool:
    bench = Benchmark(
        "search",
        "50 items of 1,000,000 by what is inside them, 16 connections",
        STATEMENTS,
        shown=("rps", "p50_ms", "p99_ms", "bytes", "api_us", "postgres_us", "foreign_cores"),
    )
    need("wrk")
    with ExitStack() as opened:
        postgres = opened.enter_context(servers.seeded_postgres())
        plain = [path.replace("pageSize=100", "pageSize=50") for path in list_page.paths(postgres.url)[0]]
        butai = opened.enter_context(servers.api(postgres.url))
        bench.versions = {
            "butai": in_words(versions("butai", "fastapi", "uvicorn", "psycopg")),
            "postgres": list_page.postgres_version(postgres.url),
            "load": tool_version("wrk", "-v"),
        }
        asked = {name: searches(name, kind) for name, kind in (KINDS | HARD).items()}
        for name, paths in asked.items():
            check(butai, paths, some=not name.startswith(("none", "two")))
        asked[ALL] = [path for name in KINDS for path in asked[name]]

        def load(paths: list[str], connections: int, number: int) -> Figures:
            pids = {"api": butai.pid, "postgres": servers.pid_of(postgres)}
            headers = servers.cookie(seed.STRANGER)
            if number == 1:
                wrk(butai.origin, paths, headers=headers, connections=connections, seconds=2)
            return wrk(
                butai.origin, paths, headers=headers, connections=connections, seconds=seconds, seed=number, pids=pids
            )

        bench.run(
            {
                PLAIN: partial(load, plain, 16),
                **{name: partial(load, asked[name], 16) for name in (*KINDS, ALL, *HARD)},
                "facets": partial(load, ["/api/assets/facets", "/api/assets/facets?type=vrm"], 1),
            },
            rounds,
        )
    return bench.report()


def searches(name: str, kind: Callable[[random.Random], Query]) -> list[str]:
    """Requests of a kind, the same ones every time."""
    rng = random.Random(name)
    return [f"/api/assets?{urlencode(kind(rng), quote_via=quote)}&limit=50" for _ in range(SEARCHES)]


def check(server: servers.Server, paths: list[str], *, some: bool) -> None:
    """Raises `Failed` when searches that should find something find nothing."""
    found = [len(json.loads(servers.fetch(server.origin + path))["items"]) for path in paths[:20]]
    if some and not any(found):
        raise Failed(f"nothing is found at {paths[0]}")


if __name__ == "__main__":
    given = arguments(__doc__ or "", rounds=3, seconds=3)
    main(lambda: measure(given.rounds, given.seconds), minutes=20, strict=given.strict)
