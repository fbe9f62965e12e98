"""Compares a listing of the bucket, provided by an operator, with the index: objects without a row, rows without an
object.

A listing is out of date as soon as it is made, so it only shows where to check: every object on which listing and index
disagree is probed, by the patrol's rules (canaries, a second HEAD, no mass loss). Writes findings and changes no asset.
Objects whose size or ETag differs are left to the patrol, which probes each of them anyway.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg.rows import class_row
from sqlalchemy import func, select, text

from butai.assets import keys
from butai.assets.imports.listings import Listing
from butai.assets.patrol.finding_states import FindingKind, FindingState, FindingTrigger
from butai.assets.patrol.finding_writer import open_finding, resolve_findings
from butai.assets.patrol.models import Finding
from butai.assets.patrol.probe import probe_batch
from butai.assets.patrol.progress import record_comparison
from butai.assets.patrol.verdicts import ADVERSE, IndexedObject
from butai.assets.storage.answers import HeadKind
from butai.assets.storage.canary import Canary
from butai.assets.storage.client import Store
from butai.assets.storage.heads import Heads, StoreHeads
from butai.audit import actors
from butai.config import PatrolSettings
from butai.database import UNREACHABLE, Database
from butai.errors import ButaiError, DatabaseUnavailable

log = structlog.get_logger(__name__)

BATCH = 1000
ACTOR = actors.service("reconcile")

OURS = ("butai/patrol/", "butai/import/", "butai/ready")
"""Keys of the service's own objects in the bucket, after its prefix, that are not assets."""


@dataclass(frozen=True, slots=True)
class ReconcileOptions:
    """`strip_prefix` and `add_prefix` as in `ImportOptions`. `write`: findings are written, not only counted."""

    strip_prefix: str = ""
    add_prefix: str = ""
    write: bool = False


@dataclass(slots=True)
class Comparison:
    """Counts of a comparison: lines `listed`, objects `unknown` to the index, rows whose object is `absent`, objects
    without a clear answer, and findings that an operator had `ignored`. The first `SHOWN` keys of each kind are
    kept."""

    listed: int = 0
    unknown: int = 0
    absent: int = 0
    undecided: int = 0
    ignored: int = 0
    unknown_keys: list[str] = field(default_factory=list)
    absent_keys: list[str] = field(default_factory=list)


SHOWN = 20


class ListingReconciler:
    """Compares one listing. `on_progress` is called after each batch."""

    def __init__(
        self,
        database: Database,
        store: Store,
        settings: PatrolSettings,
        options: ReconcileOptions,
        *,
        heads: Heads | None = None,
        on_progress: Callable[[Comparison], None] = lambda _found: None,
    ) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._options = options
        self._heads = heads or StoreHeads(store, settings.rate)
        self._canary = Canary(self._heads, store.prefix)
        self._on_progress = on_progress
        self.found = Comparison()

    async def run(self, listing: Listing) -> Comparison:
        """Compares the whole listing. Raises `StoreUnreliable`, `Unavailable`, and the listing's errors."""
        hides_absence = await self._canary.prepare(self._store)
        async with self._connected() as connection:
            await connection.execute("CREATE TEMP TABLE listed (key text)")
            async for batch in listing.batches(BATCH):
                names = [self._options.add_prefix + entry.key for entry in batch if not entry.problem]
                names = [name for name in names if _storable(name)]
                self.found.listed += len(batch)
                async with connection.cursor().copy("COPY listed FROM STDIN") as copy:
                    for name in names:
                        await copy.write_row((name,))
                await self._find_unknown(connection, names)
                self._on_progress(self.found)
            await connection.execute("CREATE INDEX ON listed (key)")
            await connection.execute("ANALYZE listed")
            await self._find_absent(connection, hides_absence=hides_absence)
            settled = await self._settled(connection, hides_absence=hides_absence) if self._options.write else []
        if self._options.write:
            await self._write_run(settled, hides_absence=hides_absence)
        return self.found

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
        try:
            async with await psycopg.AsyncConnection.connect(self._database.url, autocommit=True) as connection:
                yield connection
        except UNREACHABLE as error:
            raise DatabaseUnavailable from error

    # Objects with no row

    async def _find_unknown(self, connection: psycopg.AsyncConnection[Any], names: list[str]) -> None:
        prefix = self._store.prefix
        names = [name for name in names if not name.startswith(tuple(prefix + ours for ours in OURS))]
        cursor = await connection.execute(
            """SELECT key FROM unnest(%s::text[]) AS key
               WHERE NOT EXISTS (SELECT 1 FROM asset_objects o WHERE o.object_key = key AND o.state <> 'removed')""",
            (names,),
        )
        candidates = [row[0] for row in await cursor.fetchall()]
        answers = await self._heads.many(candidates)
        for name, answer in zip(candidates, answers, strict=True):
            if answer.kind is HeadKind.UNCLEAR or answer.kind is HeadKind.DENIED:
                self.found.undecided += 1
            if answer.kind is not HeadKind.PRESENT:
                # Deleted since the listing was made.
                continue
            if await self._ignored(FindingKind.OBJECT_WITHOUT_ROW, name):
                self.found.ignored += 1
                continue
            self.found.unknown += 1
            if len(self.found.unknown_keys) < SHOWN:
                self.found.unknown_keys.append(name)
            if self._options.write:
                detail = {"size": answer.size, "etag": answer.etag, **self._as_file(name)}
                async with self._database.transaction() as session:
                    await open_finding(session, FindingKind.OBJECT_WITHOUT_ROW, name, None, None, detail)

    def _as_file(self, name: str) -> dict[str, Any]:
        """The key under which an import would take the object, or why it would not."""
        strip = self._options.strip_prefix
        if not name.startswith(strip):
            return {"adoptable": False}
        try:
            key = keys.parse(name.removeprefix(strip))
        except ButaiError as error:
            return {"adoptable": False, "why_not": error.code}
        return {"adoptable": True, "s3_key": key.text, "strip_prefix": strip}

    async def _ignored(self, kind: FindingKind, object_key: str) -> bool:
        async with self._database.transaction() as session:
            return bool(
                await session.scalar(
                    select(func.count())
                    .select_from(Finding)
                    .where(
                        Finding.kind == kind,
                        Finding.object_key == object_key,
                        Finding.resolution == FindingState.IGNORED,
                    )
                )
            )

    # Rows with no object

    async def _find_absent(self, connection: psycopg.AsyncConnection[Any], *, hides_absence: bool) -> None:
        after = UUID(int=0)
        while True:
            cursor = connection.cursor(row_factory=class_row(IndexedObject))
            await cursor.execute(
                """SELECT a.id, a.object_key, a.status, a.size_bytes AS size, a.etag,
                          -- Long suspect: the listing counts as the first of the two looks that a 403 needs.
                          now() - interval '1 day' AS suspected_at
                   FROM assets a
                   WHERE a.status = 'ready' AND a.deleted_at IS NULL AND a.object_key IS NOT NULL AND a.id > %s
                     AND NOT EXISTS (SELECT 1 FROM listed l WHERE l.key = a.object_key)
                   ORDER BY a.id LIMIT %s""",
                (after, BATCH),
            )
            rows = await cursor.fetchall()
            if not rows:
                return
            after = rows[-1].id
            batch = await probe_batch(
                rows,
                self._heads,
                self._canary,
                hides_absence=hides_absence,
                now=datetime.now(UTC),
                recheck=timedelta(minutes=self._settings.recheck_minutes),
            )
            for each in batch.objects:
                if each.verdict in ADVERSE:
                    await self._note_absent(each.row)
            self._on_progress(self.found)

    async def _note_absent(self, row: IndexedObject) -> None:
        if await self._ignored(FindingKind.ROW_WITHOUT_OBJECT, row.object_key):
            self.found.ignored += 1
            return
        self.found.absent += 1
        if len(self.found.absent_keys) < SHOWN:
            self.found.absent_keys.append(row.object_key)
        if self._options.write:
            async with self._database.transaction() as session:
                name = await session.scalar(text("SELECT wanted_key FROM assets WHERE id = :id"), {"id": row.id})
                detail = {"s3_key": name, "size": row.size, "etag": row.etag}
                await open_finding(session, FindingKind.ROW_WITHOUT_OBJECT, row.object_key, row.id, None, detail)

    async def _settled(self, connection: psycopg.AsyncConnection[Any], *, hides_absence: bool) -> list[str]:
        """Object keys of open findings that no longer hold: the object is gone, or is back."""
        cursor = await connection.execute(
            """SELECT object_key, kind = 'object_without_row' FROM findings f
               WHERE resolved_at IS NULL AND (
                 kind = 'object_without_row' AND NOT EXISTS (SELECT 1 FROM listed l WHERE l.key = f.object_key)
                 OR kind = 'row_without_object' AND EXISTS (SELECT 1 FROM listed l WHERE l.key = f.object_key))
               ORDER BY id"""
        )
        rows = await cursor.fetchall()
        answers = await self._heads.many([row[0] for row in rows])
        if (
            any(answer.kind is HeadKind.DENIED for answer in answers)
            and await self._canary.probe() is not hides_absence
        ):
            return []
        gone = {HeadKind.ABSENT, HeadKind.DENIED} if hides_absence else {HeadKind.ABSENT}
        return [
            key
            for (key, without_row), answer in zip(rows, answers, strict=True)
            if (answer.kind in gone if without_row else answer.kind is HeadKind.PRESENT)
        ]

    async def _write_run(self, settled: list[str], *, hides_absence: bool) -> None:
        found = self.found
        async with self._database.transaction() as session:
            await record_comparison(
                session,
                hides_absence=hides_absence,
                due=found.listed,
                checked=found.listed,
                lost=found.absent,
                undecided=found.undecided,
                detail=f"{found.unknown} objects without a row, {found.absent} rows without an object",
            )
            # Objects found earlier that have a row by now, and rows that are in the trash or have another object.
            indexed = await session.scalars(
                text(
                    """SELECT object_key FROM findings f WHERE resolved_at IS NULL AND (
                         kind = 'object_without_row' AND EXISTS (
                           SELECT 1 FROM asset_objects o WHERE o.object_key = f.object_key AND o.state = 'current')
                         OR kind = 'row_without_object' AND NOT EXISTS (
                           SELECT 1 FROM assets a WHERE a.object_key = f.object_key AND a.deleted_at IS NULL))"""
                )
            )
            kinds = (FindingKind.OBJECT_WITHOUT_ROW, FindingKind.ROW_WITHOUT_OBJECT)
            await resolve_findings(session, kinds, [*indexed, *settled], FindingTrigger.AGREES, ACTOR)
        log.info("reconcile.completed", listed=found.listed, unknown=found.unknown, absent=found.absent)


def _storable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in name
