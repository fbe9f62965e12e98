"""Records which files are in use, and which could not be read: the patrol checks these first.

A read must not wait for a write: ids are kept in memory and written once a minute. A crash loses only the times of the
last uses.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self
from uuid import UUID

import structlog
from cachetools import TTLCache
from sqlalchemy import text

from butai import jobs
from butai.database import Database
from butai.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

RECHECK = "assets.recheck"
"""The task that checks a few assets at once. Arguments: `asset_ids`."""

WRITE_SECONDS = 60.0
"""Seconds between two writes."""

MOST = 50_000
"""Ids kept between two writes; further ones are dropped, since a file in use will be read again."""

RECHECK_SECONDS = 60.0
"""Seconds in which further failures of the same file enqueue nothing: its check is enqueued already."""

_USED = text(
    """
    INSERT INTO asset_checks (asset_id, object_key, used_at)
    SELECT id, object_key, now() FROM assets WHERE id = ANY(CAST(:ids AS uuid[])) AND object_key IS NOT NULL ORDER BY id
    ON CONFLICT (asset_id) DO UPDATE SET used_at = excluded.used_at,
        -- A cold file that is in use again is due with the next run.
        due_at = CASE WHEN asset_checks.used_at > now() - interval '1 day' THEN asset_checks.due_at
                      ELSE least(asset_checks.due_at, now()) END
    """
)


class ReadUsage:
    """The usage seen by one API process. An async context manager; leaving it writes the rest."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._used: set[UUID] = set()
        self._failed: set[UUID] = set()
        self._rechecked: TTLCache[UUID, None] = TTLCache(MOST, RECHECK_SECONDS)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with suppress(DatabaseUnavailable):
            await self.write()

    def used(self, asset_id: UUID) -> None:
        """Records that a file was read."""
        if len(self._used) < MOST:
            self._used.add(asset_id)

    def failed(self, asset_id: UUID) -> None:
        """Records that the store did not have a ready file; its check is enqueued at once."""
        if asset_id in self._rechecked or len(self._failed) >= MOST:
            return
        self._rechecked[asset_id] = None
        self._failed.add(asset_id)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITE_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.write()
            except DatabaseUnavailable:
                log.warning("reads.not_written")
                await asyncio.sleep(1)

    async def write(self) -> None:
        """Writes the ids kept so far. Raises `DatabaseUnavailable`; the ids are kept for the next write then."""
        if not self._used and not self._failed:
            return
        used, failed = self._used, self._failed
        self._used, self._failed = set(), set()
        try:
            async with self._database.transaction() as session:
                if used:
                    await session.execute(_USED, {"ids": list(used)})
                if failed:
                    await jobs.enqueue(session, RECHECK, {"asset_ids": [str(one) for one in sorted(failed)]})
        except DatabaseUnavailable:
            self._used |= used
            self._failed |= failed
            if failed:
                self._wake.set()
            raise
