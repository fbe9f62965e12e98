"""The patrol's runs: one at a time, in batches, with a checkpoint after each. Called by `tasks` and by `butai patrol run`.

A run that dies is taken up where it stood by the next one: its row says how far it came, and what was looked at is not
due again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg.rows import class_row
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from butai import jobs
from butai.alerts.service import raise_alert, resolve_alert
from butai.assets.patrol import writer
from butai.assets.patrol.models import Finding, PatrolRun
from butai.assets.patrol.notifications import files, named, tell_digest, tell_stop
from butai.assets.patrol.probe import BatchResult, probe_batch
from butai.assets.patrol.verdicts import LEAST_MASS, Row, Ruling
from butai.assets.patrol.writer import Recorded
from butai.assets.reading.usage import RECHECK
from butai.assets.storage.answers import HeadKind
from butai.assets.storage.canary import Canary, StoreUnreliable
from butai.assets.storage.client import BytesPayload, Store
from butai.assets.storage.heads import Heads, StoreHeads
from butai.config import PatrolSettings
from butai.database import UNREACHABLE, Connection, Database
from butai.errors import Code, DatabaseUnavailable, Unavailable

log = structlog.get_logger(__name__)

BATCH = 1000
"""Rows looked at between two checkpoints."""

CHANGES = 200
"""Rows changed in one transaction: a third of a second, for which readers of the change feed wait."""

PATROL_LOCK = 0x6275_7461_6903
"""Held by the process that patrols, for as long as its connection lives."""

RECHECKS_BELIEVED = timedelta(minutes=10)
"""Single looks may mark `LEAST_MASS` assets within it. Beyond, it is the store that is ill, and the patrol's to judge."""

CHANGING = frozenset({Ruling.LOST, Ruling.RECOVERED, Ruling.MISMATCH, Ruling.STILL_MISSING})

NIL = UUID(int=0)
"""Before every id."""

ROUND = ("scheduled", "asked")
"""Kinds of run that go through the library."""


class PatrolBusy(Exception):
    """Another process is on patrol."""


@dataclass(slots=True)
class Run:
    """A run as it goes. Counts are assets."""

    id: int
    kind: str
    dry_run: bool
    state: str = "running"
    stop_code: str | None = None
    detail: str | None = None
    due: int = 0
    checked: int = 0
    found: int = 0
    suspected: int = 0
    lost: int = 0
    recovered: int = 0
    mismatched: int = 0
    undecided: int = 0
    checkpoint: UUID | None = None
    hides_absence: bool | None = None

    def count(self, counts: Counter[Ruling]) -> None:
        """Adds a batch."""
        self.checked += counts.total()
        self.found += counts[Ruling.FOUND]
        self.suspected += counts[Ruling.SUSPECT]
        self.lost += counts[Ruling.LOST] + counts[Ruling.STILL_MISSING]
        self.recovered += counts[Ruling.RECOVERED]
        self.mismatched += counts[Ruling.MISMATCH]
        self.undecided += counts[Ruling.UNDECIDED]

    @property
    def columns(self) -> dict[str, Any]:
        """What of it stands in its row and changes."""
        return {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("id", "kind", "dry_run")
        }


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
    """What a patrol needs of its process. `heads`: where answers come from, the store itself unless a test says so."""

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

    # A round

    async def run(
        self,
        kind: str,
        *,
        dry_run: bool = False,
        everything: bool = False,
        requested_by: str | None = None,
        tell: Callable[[Run], None] = lambda _run: None,
    ) -> Run:
        """Goes through all that is due, or through everything. `tell` hears of each batch.

        A dry run counts and changes nothing else. Raises `PatrolBusy`, and `Unavailable` when the database goes away: the
        run is taken up by the next one then.
        """
        async with self._alone() as connection:
            run = await self._begin(kind, dry_run, requested_by)
            log.info("patrol.began", run=run.id, kind=run.kind, dry_run=dry_run, resumed=run.checked > 0)
            try:
                await self._round(run, everything, connection, tell)
            except StoreUnreliable as stopped:
                await self._stop(run, stopped)
            else:
                await self._finish(run)
            tell(run)
        log.info("patrol.ended", run=run.id, **{k: v for k, v in run.columns.items() if k != "checkpoint"})
        return run

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        try:
            connection = await psycopg.AsyncConnection.connect(self._database.url, autocommit=True, connect_timeout=5)
        except UNREACHABLE as error:
            raise DatabaseUnavailable from error
        async with connection:
            row = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", (PATROL_LOCK,))).fetchone()
            if row is None or not row[0]:
                raise PatrolBusy
            try:
                yield connection
            finally:
                # The end of a connection is a matter of its server, later: whoever comes next should not find it busy.
                with suppress(psycopg.Error):
                    await connection.execute("SELECT pg_advisory_unlock(%s)", (PATROL_LOCK,))

    async def _begin(self, kind: str, dry_run: bool, requested_by: str | None) -> Run:
        async with self._database.transaction() as session:
            unfinished = (
                await session.scalars(
                    select(PatrolRun)
                    .where(PatrolRun.state == "running", PatrolRun.kind.in_(ROUND))
                    .order_by(PatrolRun.id)
                )
            ).all()
            taken_up: PatrolRun | None = None
            for row in unfinished:
                if row.dry_run or taken_up is not None:
                    row.state, row.stop_code, row.ended_at = "stopped", Code.INTERRUPTED, func.now()
                elif not dry_run:
                    taken_up = row
            if taken_up is None:
                taken_up = PatrolRun(kind=kind, dry_run=dry_run, state="running", requested_by=requested_by)
                session.add(taken_up)
                await session.flush()
                return Run(taken_up.id, kind, dry_run)
            return Run(
                taken_up.id,
                taken_up.kind,
                False,
                due=taken_up.due,
                **{name: getattr(taken_up, name) for name in _COUNTS},
                checkpoint=taken_up.checkpoint,
            )

    async def _round(
        self, run: Run, everything: bool, connection: psycopg.AsyncConnection[Any], tell: Callable[[Run], None]
    ) -> None:
        run.hides_absence = await self._prepare_canary()
        now = self._clock()
        asked = {"everything": everything, "now": now, "limit": BATCH}
        run.due = run.checked + await self._count(asked | {"after": run.checkpoint or NIL})
        async with self._database.transaction() as session:
            mismatches = await writer.open_mismatches(session)
            await _save(session, run)
        async with aclosing(self._batches(run, asked)) as batches:
            async for looked, now in batches:
                await _still_alone(connection)
                run.count(looked.counts)
                run.checkpoint = looked.rows[-1][0].id
                if run.dry_run:
                    async with self._database.transaction() as session:
                        await _save(session, run)
                else:
                    await self._record(looked, run, mismatches, now)
                tell(run)

    async def _batches(self, run: Run, asked: dict[str, Any]) -> AsyncGenerator[tuple[BatchResult, datetime], None]:
        """Batches with what the store says, and when it was asked. It is asked for the next one while the one before is
        written down, so that neither waits for the other."""

        async def ask(rows: list[Row]) -> tuple[BatchResult, datetime]:
            now = self._clock()
            looked = await probe_batch(
                rows,
                self._heads,
                self._canary,
                hides_absence=bool(run.hides_absence),
                now=now,
                recheck=self._recheck,
            )
            return looked, now

        rows = await self._rows(_BATCH, asked | {"after": run.checkpoint or NIL})
        asking = asyncio.create_task(ask(rows)) if rows else None
        try:
            while asking is not None:
                ready = await asking
                rows = await self._rows(_BATCH, asked | {"after": rows[-1].id})
                asking = asyncio.create_task(ask(rows)) if rows else None
                yield ready
        finally:
            if asking is not None:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

    async def _prepare_canary(self) -> bool:
        """Puts the canary where it should be, the first time, and asks for both. Raises `StoreUnreliable`."""
        own = await self._heads.head(self._canary.key)
        if own.kind is not HeadKind.PRESENT:
            try:
                await self._store.put(self._canary.key, BytesPayload(b"canary"), "text/plain")
            except Unavailable as error:
                raise StoreUnreliable(f"our own object {self._canary.key} cannot be written: {error.detail}") from error
        return await self._canary.probe()

    async def _count(self, asked: dict[str, Any]) -> int:
        async def ask(connection: Connection) -> int:
            row = await (await connection.execute(f"SELECT count(*) {_DUE}", asked)).fetchone()
            return row[0] if row else 0

        return await self._database.read(ask)

    async def _rows(self, statement: str, asked: dict[str, Any]) -> list[Row]:
        async def ask(connection: Connection) -> list[Row]:
            cursor = connection.cursor(row_factory=class_row(Row))
            return await (await cursor.execute(statement, asked)).fetchall()  # pyright: ignore[reportArgumentType]

        return await self._database.read(ask)

    async def _record(self, looked: BatchResult, run: Run, mismatches: set[str], now: datetime) -> None:
        await self._change(looked, run.id)
        agreeing = [
            row.object_key for row, ruling, _ in looked.rows if ruling is Ruling.FOUND and row.object_key in mismatches
        ]
        async with self._database.transaction() as session:
            await writer.note_looks(session, ((row, ruling) for row, ruling, _ in looked.rows), self._settings, now)
            await writer.agrees_again(session, agreeing)
            await _save(session, run)
            await self._recheck_suspects(session, looked)

    async def _change(self, looked: BatchResult, run_id: int | None) -> Recorded:
        recorded = Recorded()
        changing = [one for one in looked.rows if one[1] in CHANGING]
        for start in range(0, len(changing), CHANGES):
            async with self._database.transaction() as session:
                part = await writer.change_rows(session, changing[start : start + CHANGES], run_id)
            recorded.lost += part.lost
        return recorded

    async def _recheck_suspects(self, session: AsyncSession, looked: BatchResult) -> None:
        """Where a file is gone only if it is suspect twice, the second look does not wait for the next round."""
        suspects = [row for row, ruling, _ in looked.rows if ruling is Ruling.SUSPECT]
        if suspects:
            at = max((row.suspected_at or self._clock()) + self._recheck for row in suspects)
            await jobs.enqueue(session, RECHECK, {"asset_ids": [str(row.id) for row in suspects]}, at=at)

    async def _stop(self, run: Run, stopped: StoreUnreliable) -> None:
        log.error("patrol.stopped", run=run.id, code=stopped.code, detail=stopped.detail)
        run.state, run.stop_code, run.detail = "stopped", stopped.code, stopped.detail
        async with self._database.transaction() as session:
            await _save(session, run)
            if not run.dry_run:
                await tell_stop(session, stopped)

    async def _finish(self, run: Run) -> None:
        run.state = "finished"
        async with self._database.transaction() as session:
            await _save(session, run)
            if not run.dry_run:
                await _tidy(session)
                for code in (Code.PATROL_UNRELIABLE, Code.PATROL_MASS_MISSING, Code.PATROL_STALE):
                    await resolve_alert(session, code, f"Run {run.id} looked for {run.checked} files to its end.")
                await tell_digest(session, run.id)
                missing = await session.scalar(select(func.count()).where(*_OPEN, Finding.kind == "missing"))
                if not missing:
                    await resolve_alert(session, Code.ASSETS_MISSING, "No file is missing.")

    # A few assets

    async def recheck(self, asset_ids: Sequence[UUID]) -> None:
        """Looks for these at once: a read of one failed, or it was suspect. Changes what the rules allow."""
        rows = await self._rows(_THESE, {"ids": list(asset_ids)})
        if not rows:
            return
        now = self._clock()
        try:
            hides_absence = await self._prepare_canary()
            looked = await probe_batch(
                rows, self._heads, self._canary, hides_absence=hides_absence, now=now, recheck=self._recheck
            )
            await self._believable(looked)
        except StoreUnreliable as stopped:
            log.error("patrol.recheck_stopped", code=stopped.code, detail=stopped.detail)
            async with self._database.transaction() as session:
                await tell_stop(session, stopped)
            return
        recorded = await self._change(looked, None)
        async with self._database.transaction() as session:
            await writer.note_looks(session, ((row, ruling) for row, ruling, _ in looked.rows), self._settings, now)
            await self._recheck_suspects(session, looked)
            if recorded.lost:
                await raise_alert(
                    session,
                    key=Code.ASSETS_MISSING,
                    code=Code.ASSETS_MISSING,
                    severity="warning",
                    title=f"{files(len(recorded.lost))} lost by the store",
                    body=named("Missing", recorded.lost),
                )
        log.info("patrol.rechecked", counts=dict(looked.counts))

    async def _believable(self, looked: BatchResult) -> None:
        if not looked.counts[Ruling.LOST]:
            return
        async with self._database.transaction() as session:
            lately = await session.scalar(
                select(func.count())
                .select_from(Finding)
                .where(Finding.kind == "missing", Finding.found_at > func.now() - RECHECKS_BELIEVED)
            )
        if (lately or 0) + looked.counts[Ruling.LOST] > LEAST_MASS:
            raise StoreUnreliable(
                f"{lately} files were found missing in ten minutes, one by one: the next is left to a whole run",
                code=Code.PATROL_MASS_MISSING,
            )


_OPEN = (Finding.resolved_at.is_(None),)

_COUNTS = ("checked", "found", "suspected", "lost", "recovered", "mismatched", "undecided")


async def _save(session: AsyncSession, run: Run) -> None:
    ended = {} if run.state == "running" else {"ended_at": func.now()}
    await session.execute(
        update(PatrolRun).where(PatrolRun.id == run.id).values(heartbeat_at=func.now(), **run.columns, **ended)
    )


async def _tidy(session: AsyncSession) -> None:
    """Closes findings of objects that no asset has any more: replaced by a new upload, or gone with their asset."""
    await session.execute(
        update(Finding)
        .where(
            Finding.kind.in_(("missing", "mismatch")),
            Finding.resolved_at.is_(None),
            text(
                "NOT EXISTS (SELECT 1 FROM assets WHERE assets.id = findings.asset_id "
                "AND assets.object_key = findings.object_key AND assets.deleted_at IS NULL)"
            ),
        )
        .values(resolved_at=func.now(), resolution="replaced", resolved_by=writer.ACTOR)
    )


async def _still_alone(connection: psycopg.AsyncConnection[Any]) -> None:
    """Whoever lost the connection has lost the lock with it. Raises `DatabaseUnavailable`."""
    try:
        await connection.execute("SELECT 1")
    except UNREACHABLE as error:
        raise DatabaseUnavailable from error
