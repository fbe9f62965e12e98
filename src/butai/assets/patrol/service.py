"""An operator's actions on the patrol."""

from __future__ import annotations

from butai import audit, jobs
from butai.assets.patrol.task_names import PATROL_NOW
from butai.audit import Origin
from butai.database import Database


async def request_run(database: Database, origin: Origin, *, dry_run: bool) -> None:
    """Enqueues a run over every file. The run does nothing if another one is in progress once a worker is free."""
    async with database.transaction() as session:
        await jobs.enqueue(session, PATROL_NOW, {"dry_run": dry_run, "requested_by": origin.actor})
        audit.record(session, origin, "patrol.run", None, detail={"dry_run": dry_run})
