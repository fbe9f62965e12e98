"""Refuses a start for which there will be no room: one controller runs, and it is full.

With several controllers a start is taken, and waits: another machine may come free, or start.
"""

from __future__ import annotations

import json

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from butai.errors import NoCapacity
from butai.live.reconcile.capacity import Machine
from butai.live.reconcile.controllers import RUNNING, used_cores

_CONTROLLERS = text(f"SELECT c.capacity, c.costs, c.admits FROM controllers AS c WHERE {RUNNING} LIMIT 2")
_TURN = text("SELECT pg_advisory_xact_lock(hashtextextended('butai start', 0))")
_USED = text(f"""
    SELECT {used_cores("CAST(:costs AS jsonb)")} FROM broadcasts AS b WHERE b.ended_at IS NULL AND b.wanted = 'on_air'
""")


async def check_capacity(session: AsyncSession, egress: str, preset: str) -> None:
    """Raises `NoCapacity` when the only controller has no room for one more broadcast.

    Without any controller the start is taken: it begins when one runs. Starts that only one controller can take wait here
    for the end of each other's transactions, so that each counts those before it: call it right before the broadcast is
    written.
    """
    controllers = (await session.execute(_CONTROLLERS)).all()
    # A controller of a version before this one has no capacity.
    if len(controllers) != 1 or controllers[0].capacity is None:
        return
    machine = Machine(*controllers[0])
    await session.execute(_TURN)
    used = (await session.execute(_USED, {"costs": json.dumps(machine.costs)})).scalar_one()
    if machine.preset_for(egress, preset, used) is None:
        raise NoCapacity
