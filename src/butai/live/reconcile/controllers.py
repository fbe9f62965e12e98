"""The table of controllers in SQL: which of them run, and the cores that broadcasts take there."""

from __future__ import annotations

from typing import Any, LiteralString

from butai.database import Connection
from butai.live.reconcile.capacity import UNKNOWN_COST

RUNNING: LiteralString = "c.seen_at BETWEEN now() - interval '15 seconds' AND now() + interval '5 seconds'"
"""Controllers `c` that run: there is a heartbeat each 5 s. One from later is from before Postgres's clock was set back."""


def used_cores(costs: str) -> str:
    """An expression: the sum of what the selected broadcasts `b` take, by the JSON object `costs` (`capacity.cost_key`)."""
    return f"coalesce(sum(coalesce(({costs} ->> (b.egress || ' ' || b.preset))::float8, {UNKNOWN_COST})), 0)"


_FIGURES = f"""
    SELECT c.id, c.capacity,
           (SELECT {used_cores("c.costs")} FROM broadcasts AS b WHERE b.ended_at IS NULL AND b.lease_holder = c.id)
    FROM controllers AS c WHERE {RUNNING} AND c.capacity IS NOT NULL
""".encode()


async def read_controllers(connection: Connection) -> list[Any]:
    """The controllers that run: name, cores for engines, and the cores that its broadcasts take."""
    return await (await connection.execute(_FIGURES)).fetchall()
