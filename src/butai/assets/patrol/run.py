"""The patrol's runs: one at a time, in batches, with a checkpoint after each.

A run whose process dies is resumed by the next one: its row holds its progress, and checked objects are not due again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg.rows import class_row
from sqlalchemy.ext.asyncio import AsyncSession

from butai import jobs
from butai.alerts.service import raise_alert, resolve_alert
from butai.assets.patrol import finding_writer, writer
from butai.assets.patrol.finding_states import FindingKind, FindingTrigger
from butai.assets.patrol.lock import PatrolBusy, patrol_lock, require_lock
from butai.assets.patrol.notifications import count_files, list_keys, raise_stop_alert, send_digest
from butai.assets.patrol.probe import BatchResult, probe_batch
from butai.assets.patrol.progress import RunProgress, begin_or_resume, save
from butai.assets.patrol.states import IllegalRunMove, RunTrigger
from butai.assets.patrol.verdicts import MASS_MINIMUM, IndexedObject, Verdict
from butai.assets.reading.usage import RECHECK
from butai.assets.storage.canary import Canary, StoreUnreliable
from butai.assets.storage.client import Store
from butai.assets.storage.heads import Heads, StoreHeads
from butai.config import PatrolSettings
from butai.database import Connection, Database
from butai.errors import Code

log = structlog.get_logger(__name__)

BATCH = 1000
"""Objects probed between two checkpoints."""

CHANGES = 200
"""Rows changed in one transaction: a third of a second, for which readers of the change feed wait."""

RECHECKS_BELIEVED = timedelta(minutes=10)
"""Time within which rechecks may mark `MASS_MINIMUM` assets. More point at a fault of the store, and are left to a
whole run."""

CHANGING = frozenset({Verdict.LOST, Verdict.RECOVERED, Verdict.MISMATCH, Verdict.STILL_MISSING})
"""Verdicts that change a row or a finding."""

NIL = UUID(int=0)
"""Sorts before every id."""

_DUE = """
    FROM assets a LEFT JOIN asset_checks c ON c.asset_id = a.id AND c.object_key = a.object_key
    WHERE a.status IN ('ready', 'missing') AND a.deleted_at IS NULL AND a.object_key IS NOT NULL
      AND a.id > %(after)s::uuid
      AND (%(everything)s OR c.due_at IS NULL OR c.due_at <= %(now)s)
"""
_COLUMNS = "SELECT a.id, a.object_key, a.status, a.size_bytes AS size, a.etag, c.suspected_at, c.used_at"
_BATCH = f"{_COLUMNS} {_DUE} ORDER BY a.id LIMIT %(limit)s"
_THESE = f"""{_COLUMNS}
    FROM assets a LEFT JOIN asset_checks c ON c.asset_id = a.id AND c.object_key = a.object_key
    WHERE a.status IN ('ready', 'missing') AND a.deleted_at IS NULL AND a.object_key IS NOT NULL
      AND a.id = ANY(%(ids)s)
"""


class Patrol:
    """Runs over the library, and rechecks of single assets. `heads` answers for the store (by default the store
    itself), `clock` gives the time by which objects are due and suspects are old enough."""

    def __init__(
        self,
        database: Database,
        store: Store,
        settings: PatrolSettings,
        *,
        heads: Heads | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._heads = heads or StoreHeads(store, settings.rate)
        self._canary = Canary(self._heads, store.prefix)
        self._clock = clock
        self._recheck = timedelta(minutes=settings.recheck_minutes)

    # A run

    async def run(
        self,
        kind: str,
        *,
        dry_run: bool = False,
        everything: bool = False,
        requested_by: str | None = None,
        on_progress: Callable[[RunProgress], None] = lambda _run: None,
    ) -> RunProgress:
        """Checks all objects that are due, or everything; calls `on_progress` after each batch and at the end.

        A dry run counts and changes nothing else. Raises `PatrolBusy`, and `Unavailable` when the database is lost: the
        next run then resumes this one.
        """
        async with patrol_lock(self._database) as connection:
            async with self._database.transaction() as session:
                run = await begin_or_resume(session, kind, requested_by, dry_run=dry_run)
            log.info("patrol.began", run=run.id, kind=run.kind, dry_run=dry_run, resumed=run.checked > 0)
            try:
                await self._check_due(run, connection, on_progress, everything=everything)
            except StoreUnreliable as stopped:
                await self._stop(run, stopped)
            except IllegalRunMove as error:
                # The lock was lost with its connection for a moment, and another process has ended the run since.
                raise PatrolBusy from error
            else:
                await self._finish(run)
            on_progress(run)
        log.info(
            "patrol.ended", run=run.id, state=run.state, **{k: v for k, v in run.columns.items() if k != "checkpoint"}
        )
        return run

    async def _check_due(
        self,
        run: RunProgress,
        connection: psycopg.AsyncConnection[Any],
        on_progress: Callable[[RunProgress], None],
        *,
        everything: bool,
    ) -> None:
        run.hides_absence = await self._canary.prepare(self._store)
        now = self._clock()
        wanted = {"everything": everything, "now": now, "limit": BATCH}
        run.due = run.checked + await self._count(wanted | {"after": run.checkpoint or NIL})
        async with self._database.transaction() as session:
            mismatches = await finding_writer.open_mismatches(session)
            await save(session, run)
        async with aclosing(self._batches(run, wanted)) as batches:
            async for batch, now in batches:
                await require_lock(connection)
                run.add(batch.counts)
                run.checkpoint = batch.objects[-1].row.id
                if run.dry_run:
                    async with self._database.transaction() as session:
                        await save(session, run)
                else:
                    await self._record(batch, run, mismatches, now)
                on_progress(run)

    async def _batches(
        self, run: RunProgress, wanted: dict[str, Any]
    ) -> AsyncGenerator[tuple[BatchResult, datetime], None]:
        """Batches, each with the time of its probe. The next one is probed while the last one is written, so that
        neither the store nor the database waits for the other."""

        async def probe(rows: list[IndexedObject]) -> tuple[BatchResult, datetime]:
            now = self._clock()
            batch = await probe_batch(
                rows,
                self._heads,
                self._canary,
                hides_absence=bool(run.hides_absence),
                now=now,
                recheck=self._recheck,
            )
            return batch, now

        rows = await self._rows(_BATCH, wanted | {"after": run.checkpoint or NIL})
        probing = asyncio.create_task(probe(rows)) if rows else None
        try:
            while probing is not None:
                done = await probing
                rows = await self._rows(_BATCH, wanted | {"after": rows[-1].id})
                probing = asyncio.create_task(probe(rows)) if rows else None
                yield done
        finally:
            if probing is not None:
                probing.cancel()
                await asyncio.gather(probing, return_exceptions=True)

    async def _count(self, wanted: dict[str, Any]) -> int:
        async def ask(connection: Connection) -> int:
            row = await (await connection.execute(f"SELECT count(*) {_DUE}", wanted)).fetchone()
            return row[0] if row else 0

        return await self._database.query(ask)

    async def _rows(self, statement: str, wanted: dict[str, Any]) -> list[IndexedObject]:
        async def ask(connection: Connection) -> list[IndexedObject]:
            cursor = connection.cursor(row_factory=class_row(IndexedObject))
            return await (await cursor.execute(statement, wanted)).fetchall()  # pyright: ignore[reportArgumentType]

        return await self._database.query(ask)

    async def _record(self, batch: BatchResult, run: RunProgress, mismatches: set[str], now: datetime) -> None:
        await self._change(batch, run.id)
        agreeing = [
            each.row.object_key
            for each in batch.objects
            if each.verdict is Verdict.FOUND and each.row.object_key in mismatches
        ]
        async with self._database.transaction() as session:
            await writer.record_checks(session, batch.objects, self._settings, now)
            await finding_writer.resolve_findings(session, (FindingKind.MISMATCH,), agreeing, FindingTrigger.AGREES)
            await save(session, run)
            await self._schedule_recheck(session, batch)

    async def _change(self, batch: BatchResult, run_id: int | None) -> list[str]:
        """Writes the changes; returns the public keys of the assets that were marked missing."""
        changing = [each for each in batch.objects if each.verdict in CHANGING]
        lost: list[str] = []
        for start in range(0, len(changing), CHANGES):
            async with self._database.transaction() as session:
                lost += await writer.apply_verdicts(session, changing[start : start + CHANGES], run_id)
        return lost

    async def _schedule_recheck(self, session: AsyncSession, batch: BatchResult) -> None:
        """Schedules the second probe at once, where only a second suspicion means lost."""
        suspects = [each.row for each in batch.objects if each.verdict is Verdict.SUSPECT]
        if suspects:
            at = max((row.suspected_at or self._clock()) + self._recheck for row in suspects)
            await jobs.enqueue(session, RECHECK, {"asset_ids": [str(row.id) for row in suspects]}, at=at)

    async def _stop(self, run: RunProgress, stopped: StoreUnreliable) -> None:
        log.error("patrol.stopped", run=run.id, code=stopped.code, detail=stopped.detail)
        run.stop_code, run.detail = stopped.code, stopped.detail
        async with self._database.transaction() as session:
            await save(session, run, RunTrigger.STOPPED)
            if not run.dry_run:
                await raise_stop_alert(session, stopped)

    async def _finish(self, run: RunProgress) -> None:
        async with self._database.transaction() as session:
            await save(session, run, RunTrigger.FINISHED)
            if not run.dry_run:
                await finding_writer.resolve_replaced(session)
                for code in (Code.PATROL_UNRELIABLE, Code.PATROL_MASS_MISSING, Code.PATROL_STALE):
                    await resolve_alert(session, code, f"Run {run.id} checked {run.checked} files and finished.")
                await send_digest(session, run.id)
                if not await finding_writer.any_missing(session):
                    await resolve_alert(session, Code.ASSETS_MISSING, "No file is missing.")

    # Single assets

    async def recheck(self, asset_ids: Sequence[UUID]) -> None:
        """Probes these assets' objects now, after a read of one failed or one was suspect, and applies the verdicts.
        Raises an alert when a file is lost, and stops with an alert as a run does."""
        rows = await self._rows(_THESE, {"ids": list(asset_ids)})
        if not rows:
            return
        now = self._clock()
        try:
            hides_absence = await self._canary.prepare(self._store)
            batch = await probe_batch(
                rows,
                self._heads,
                self._canary,
                hides_absence=hides_absence,
                now=now,
                recheck=self._recheck,
                closely=True,
            )
            await self._require_few_losses(batch)
        except StoreUnreliable as stopped:
            log.error("patrol.recheck_stopped", code=stopped.code, detail=stopped.detail)
            async with self._database.transaction() as session:
                await raise_stop_alert(session, stopped)
            return
        lost = await self._change(batch, None)
        async with self._database.transaction() as session:
            await writer.record_checks(session, batch.objects, self._settings, now)
            await self._schedule_recheck(session, batch)
            if lost:
                await raise_alert(
                    session,
                    key=Code.ASSETS_MISSING,
                    code=Code.ASSETS_MISSING,
                    severity="warning",
                    title=f"{count_files(len(lost))} lost by the store",
                    body=list_keys("Missing", lost),
                )
        log.info("patrol.rechecked", counts=dict(batch.counts))

    async def _require_few_losses(self, batch: BatchResult) -> None:
        """Raises `StoreUnreliable` when rechecks would mark a mass of assets, a few at a time."""
        if not batch.counts[Verdict.LOST]:
            return
        async with self._database.transaction() as session:
            recent = await finding_writer.count_missing_within(session, RECHECKS_BELIEVED)
        if recent + batch.counts[Verdict.LOST] > MASS_MINIMUM:
            raise StoreUnreliable(
                f"{recent} files were found missing in ten minutes, one by one: the next is left to a whole run",
                code=Code.PATROL_MASS_MISSING,
            )
