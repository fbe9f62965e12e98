"""Refuses a start for which there will be no room: one controller runs, and it is full.

With several controllers a start is taken, and waits: another machine may come free, or start.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from butai.errors import NoCapacity
from butai.live.reconcile.capacity import UNKNOWN_COST, cost_key, fits, least_cost

SILENT_AFTER = 15
"""Seconds without a heartbeat, of which there is one each 5, after which a controller does not count."""

_TURN = text("SELECT pg_advisory_xact_lock(hashtextextended('butai start', 0))")
_CONTROLLERS = text(
    "SELECT capacity, costs, admits FROM controllers WHERE seen_at > now() - make_interval(secs => :silent) LIMIT 2"
)
_USED = text(f"""
    SELECT coalesce(sum(coalesce((c.costs ->> (b.egress || ' ' || b.preset))::float8, {UNKNOWN_COST})), 0)
    FROM broadcasts AS b, controllers AS c
    WHERE b.ended_at IS NULL AND b.wanted = 'on_air' AND c.seen_at > now() - make_interval(secs => :silent)
""")


async def check_capacity(session: AsyncSession, egress: str, preset: str) -> None:
    """Raises `NoCapacity` when the only controller has no room for one more broadcast.

    Without any controller the start is taken: it begins when one runs. Starts take turns here until their transactions
    end, so that each counts those before it.
    """
    await session.execute(_TURN)
    controllers = (await session.execute(_CONTROLLERS, {"silent": SILENT_AFTER})).all()
    if len(controllers) != 1:
        return
    [(capacity, costs, admits)] = controllers
    if capacity is None:
        # A controller of a version before this one.
        return
    used = (await session.execute(_USED, {"silent": SILENT_AFTER})).scalar_one()
    cost, least = costs.get(cost_key(egress, preset), UNKNOWN_COST), least_cost(costs, egress)
    # Without a broadcast on air, what the controller said of lost pictures is over.
    loses = admits == "none" and used >= least
    if loses or not fits(capacity, used, cost, least):
        raise NoCapacity
