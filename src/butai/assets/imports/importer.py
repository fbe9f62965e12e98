"""Imports the objects of an existing bucket: each gets its row in the index. No byte is copied or moved.

Takes a listing in batches: keys that the library does not accept are skipped, each remaining object is verified by a
HEAD, and one short transaction for each batch writes the verified ones. Idempotent: a run that died is started again,
and unchanged objects are skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
import uuid_utils.compat as uuid
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit
from butai.assets import keys, names, transitions
from butai.assets.imports.listing_formats import ListedObject
from butai.assets.imports.outcomes import ImportOptions, ImportStopped, ImportVerdict, Outcome, Tally
from butai.assets.imports.verifier import FoundObject, Verifier
from butai.assets.keys import AssetKey
from butai.assets.ledger import adopt
from butai.assets.models import Asset, AssetObject
from butai.assets.object_states import ObjectState
from butai.assets.states import AssetStatus, AssetTrigger
from butai.assets.storage.client import ObjectFacts, Store
from butai.audit import Origin, actors
from butai.database import Database
from butai.errors import ButaiError, Code, DatabaseUnavailable

log = structlog.get_logger(__name__)

BATCH = 200
"""Objects of one transaction. While it runs, readers of the change feed wait: 200 rows take about a third of a second,
and they wait five seconds at most."""

WRITE_TRIES = 5
"""Tries of one batch's transaction, over about 8 s: longer than Postgres takes to restart."""

ACTOR = actors.service("import")

_NO_BYTES = frozenset({Code.EMPTY, Code.ARCHIVED, Code.CODED})
"""Reasons of the store's own, by a HEAD, for which an object is left out."""


@dataclass(slots=True, eq=False)
class _Candidate:
    """A listed object with a valid key. `known`: the row of its key, read before the HEAD; `removed`: Butai deleted
    the object earlier; `found`: the answer of the HEAD."""

    entry: ListedObject
    object_key: str
    key: AssetKey
    known: Asset | None = None
    removed: bool = False
    found: FoundObject | None = None

    @property
    def facts(self) -> ObjectFacts:
        assert self.found is not None
        return self.found.facts

    def unchanged(self, row: Asset) -> bool:
        return row.status == AssetStatus.READY and (row.size_bytes, row.etag) == (self.facts.size, self.facts.etag)


class Importer:
    """One run. `on_verdict` is called with every verdict, in no particular order; `tally` counts as the run goes."""

    def __init__(
        self,
        database: Database,
        store: Store,
        options: ImportOptions,
        on_verdict: Callable[[ImportVerdict], None] = lambda _verdict: None,
        tally: Tally | None = None,
    ) -> None:
        self.tally = tally or Tally()
        self._database = database
        self._store = store
        self._options = options
        self._on_verdict = on_verdict
        self._verifier = Verifier(store, check_content=options.check_content, rate=options.rate)

    async def run(self, batches: AsyncIterator[list[ListedObject]], on_progress: Callable[[Tally], None]) -> Tally:
        """Imports a whole listing, in batches of at most `BATCH`; calls `on_progress` after each.

        Raises `ImportStopped` when the store or the database stays unavailable, and the listing's errors.
        """
        async for batch in batches:
            await self._import(batch)
            on_progress(self.tally)
            if reason := await self._verifier.reason_to_stop():
                raise ImportStopped(reason)
        log.info(
            "import.completed",
            scanned=self.tally.scanned,
            **{outcome.value: self.tally.of(outcome) for outcome in Outcome},
        )
        return self.tally

    async def _import(self, batch: Sequence[ListedObject]) -> None:
        self.tally.scanned += len(batch)
        candidates = [candidate for entry in batch if (candidate := self._candidate(entry))]
        # One order of locks for all runs, so that two at once cannot deadlock.
        candidates.sort(key=lambda candidate: candidate.key.text)
        if not candidates:
            return
        skipped = await self._transaction(lambda session: self._skippable(session, candidates))
        for candidate, reason in skipped:
            self._report(candidate, Outcome.SKIPPED, reason)
            candidates.remove(candidate)
        await asyncio.gather(*(self._verify(candidate) for candidate in candidates))
        changed: list[_Candidate] = []
        for candidate in candidates:
            if candidate.found is None:
                continue
            if candidate.known is not None and candidate.unchanged(candidate.known):
                self._report(candidate, Outcome.SKIPPED, Code.UNCHANGED)
            else:
                changed.append(candidate)
        if not changed:
            return
        verdicts = await self._transaction(lambda session: self._write(session, changed))
        for candidate, outcome, reason in verdicts:
            self._report(candidate, outcome, reason)

    # Decisions by the listing alone

    def _candidate(self, entry: ListedObject) -> _Candidate | None:
        """The listed object as a candidate, or None when its verdict is reported already."""
        if entry.problem:
            self._report(entry, Outcome.FAILED if entry.problem == Code.UNREADABLE else Outcome.SKIPPED, entry.problem)
            return None
        options = self._options
        object_key = options.add_prefix + entry.key
        if object_key.startswith(f"{self._store.prefix}butai/"):
            self._report(entry, Outcome.SKIPPED, Code.OWN_OBJECT)
            return None
        if not object_key.startswith(options.strip_prefix):
            self._report(entry, Outcome.SKIPPED, Code.OUTSIDE_PREFIX)
            return None
        try:
            key = keys.parse(object_key.removeprefix(options.strip_prefix))
        except ButaiError as error:
            self._report(entry, Outcome.SKIPPED, error.code, error.detail)
            return None
        return _Candidate(entry, object_key, key)

    # Decisions by the index

    async def _rows(
        self, session: AsyncSession, candidates: Sequence[_Candidate], *, lock: bool
    ) -> tuple[dict[str, Asset], dict[str, AssetObject]]:
        """The rows that have the candidates' keys, by key, and the ledger's lines for their objects, by object key. Rows of the
        owner, and of the same object; for files without an owner those of a user, too, whose names they would take."""
        owner = self._options.owner
        wanted = Asset.wanted_key.in_([candidate.key.text for candidate in candidates])
        same_object = Asset.object_key.in_([candidate.object_key for candidate in candidates])
        assets = select(Asset).where(wanted, Asset.owner_user_id.is_not_distinct_from(owner) | same_object)
        assets = assets.order_by(Asset.id)
        objects = select(AssetObject).where(AssetObject.object_key.in_([each.object_key for each in candidates]))
        if lock:
            assets, objects = (
                assets.with_for_update(key_share=True),
                objects.order_by(AssetObject.object_key).with_for_update(),
            )
        found = (await session.scalars(assets)).all()
        if owner is None:
            of_users = select(Asset).ext(distinct_on(Asset.wanted_key)).where(wanted, Asset.owner_user_id.is_not(None))
            found = [*(await session.scalars(of_users.order_by(Asset.wanted_key, Asset.created_at))).all(), *found]
        rows = {row.wanted_key: row for row in sorted(found, key=lambda row: row.owner_user_id == owner)}
        return rows, {line.object_key: line for line in await session.scalars(objects)}

    async def _skippable(self, session: AsyncSession, candidates: Sequence[_Candidate]) -> list[tuple[_Candidate, str]]:
        """Candidates that need no HEAD, with the reason."""
        rows, ledger = await self._rows(session, candidates, lock=False)
        skipped: list[tuple[_Candidate, str]] = []
        for candidate in candidates:
            candidate.known = rows.get(candidate.key.text)
            line = ledger.get(candidate.object_key)
            candidate.removed = line is not None and line.state == ObjectState.REMOVED
            if reason := _why_not(candidate, candidate.known, line):
                skipped.append((candidate, reason))
        return skipped

    # Decisions by the store

    async def _verify(self, candidate: _Candidate) -> None:
        """Fills `found`, or reports the verdict."""
        known = candidate.known
        before = (known.size_bytes, known.etag) if known is not None and known.status == AssetStatus.READY else None
        answer = await self._verifier.verify(candidate.object_key, candidate.key, before)
        if isinstance(answer, FoundObject):
            candidate.found = answer
        elif answer.gone and candidate.removed:
            # Butai removed it, after its asset was purged or replaced, since the listing was made.
            self._report(candidate, Outcome.SKIPPED, Code.REMOVED)
        else:
            outcome = Outcome.SKIPPED if answer.reason in _NO_BYTES else Outcome.FAILED
            self._report(candidate, outcome, answer.reason, answer.detail)

    # Writes

    async def _write(
        self, session: AsyncSession, candidates: Sequence[_Candidate]
    ) -> list[tuple[_Candidate, Outcome, str]]:
        """Decides again under the locks, and writes: sidecars first, so that their assets can take over their
        content."""
        rows, ledger = await self._rows(session, candidates, lock=not self._options.dry_run)
        verdicts: list[tuple[_Candidate, Outcome, str]] = []
        settled: dict[str, tuple[_Candidate, Asset | None]] = {}
        for candidate in candidates:
            name, row = candidate.key.text, rows.get(candidate.key.text)
            if name in settled:
                # Listed twice; or two spellings of one name, such as é in one character and in two.
                same = settled[name][0].object_key == candidate.object_key
                verdicts.append((candidate, Outcome.SKIPPED, Code.DUPLICATE if same else Code.KEY_TAKEN))
            elif reason := _why_not(candidate, row, ledger.get(candidate.object_key)):
                verdicts.append((candidate, Outcome.SKIPPED, reason))
            elif row is not None and candidate.unchanged(row):
                verdicts.append((candidate, Outcome.SKIPPED, Code.UNCHANGED))
            else:
                settled[name] = candidate, row
                if row is None:
                    verdicts.append((candidate, Outcome.ADDED, ""))
                else:
                    verdicts.append(
                        (
                            candidate,
                            Outcome.UPDATED,
                            Code.CHANGED if row.status == AssetStatus.READY else Code.RECOVERED,
                        )
                    )
        if self._options.dry_run or not settled:
            return verdicts
        await self._settle_all(session, list(settled.values()), ledger)
        audit.record(
            session,
            Origin(ACTOR),
            "asset.import",
            None,
            detail={
                "added": sum(outcome is Outcome.ADDED for _, outcome, _ in verdicts),
                "updated": sum(outcome is Outcome.UPDATED for _, outcome, _ in verdicts),
                "first_key": next(iter(settled)),
                "last_key": next(reversed(settled)),
                "visibility": self._options.visibility,
                "owner": self._options.owner,
            },
        )
        return verdicts

    async def _settle_all(
        self,
        session: AsyncSession,
        settled: Sequence[tuple[_Candidate, Asset | None]],
        ledger: dict[str, AssetObject],
    ) -> None:
        # Rows are sent together at each flush, instead of one by one before each statement.
        with session.no_autoflush:
            sidecars = [
                await self._settle(session, candidate, row, ledger)
                for candidate, row in settled
                if candidate.key.sidecar is not None
            ]
            await session.flush()
            stems = select(Asset.type, Asset.stem).where(
                Asset.stem.in_({candidate.key.stem for candidate, _ in settled}), Asset.sidecar.is_not(None)
            )
            accompanied = {(kind, stem) for kind, stem in await session.execute(stems)}
            mains: set[tuple[str, str]] = set()
            for candidate, row in settled:
                if candidate.key.sidecar is None:
                    name = str(candidate.key.kind), candidate.key.stem
                    mains.add(name)
                    await self._settle(session, candidate, row, ledger, attach=name in accompanied)
            await session.flush()
            # Assets that were in the index before take over their new sidecars.
            for sidecar in sidecars:
                if (sidecar.type, sidecar.stem) not in mains:
                    await self._beside(session, sidecar)

    async def _beside(self, session: AsyncSession, sidecar: Asset) -> None:
        """Updates the asset that a sidecar belongs to, or to which it belongs from now on."""
        if sidecar.main_id is None:
            mains = select(Asset).where(
                Asset.stem == sidecar.stem,
                Asset.type == sidecar.type,
                Asset.sidecar.is_(None),
                Asset.owner_user_id.is_not_distinct_from(self._options.owner),
            )
            order = (Asset.deleted_at.is_not(None), Asset.visibility == "public", Asset.created_at.desc())
            main = await session.scalar(mains.order_by(*order).limit(1).with_for_update(key_share=True))
            if main is None:
                return
            transitions.give(main, sidecar)
            await session.flush()
        await transitions.refresh_main(session, sidecar, ACTOR)

    async def _settle(
        self,
        session: AsyncSession,
        candidate: _Candidate,
        row: Asset | None,
        ledger: dict[str, AssetObject],
        *,
        attach: bool = False,
    ) -> Asset:
        new = row is None
        asset = self._new(candidate) if row is None else row
        facts = candidate.facts
        asset.object_key = candidate.object_key
        asset.size_bytes, asset.etag, asset.sha256 = facts.size, facts.etag, None
        # The key may hold another file by now: other programs write these objects, too.
        asset.inspected_key = None
        asset.last_checked_at = datetime.now(UTC)
        if candidate.found is not None and candidate.found.meta is not None:
            asset.meta = candidate.found.meta
        if new:
            session.add(asset)
            adopt(session, ledger.get(candidate.object_key), candidate.object_key, asset.id)
        if attach:
            await transitions.attach_sidecars(session, asset)
        await transitions.move(
            session, asset, AssetTrigger.IMPORTED, actor=ACTOR, new=new, detail={"size": facts.size, "etag": facts.etag}
        )
        return asset

    def _new(self, candidate: _Candidate) -> Asset:
        key, options = candidate.key, self._options
        asset = Asset(
            id=uuid.uuid7(),
            type=key.kind,
            sidecar=key.sidecar,
            s3_key=names.mint(key),
            wanted_key=key.text,
            stem=key.stem,
            title=key.name,
            named=False,
            of_studio=False,
            display_name=key.name,
            mime_type=key.format.mime,
            status=AssetStatus.READY,
            owner_user_id=options.owner,
            visibility=options.visibility,
            ever_public=options.visibility == "public",
            attempts=0,
            description="",
            tags=[],
            meta={},
            change_seq=0,
        )
        if candidate.entry.modified is not None:
            # Lists begin with the newest: an imported library keeps its order.
            asset.created_at = min(candidate.entry.modified, datetime.now(UTC))
        return asset

    async def _transaction(self, act: Callable[[AsyncSession], Any]) -> Any:
        """Runs `act` in a transaction; again when another one took a key at the same moment, or Postgres restarts.
        Raises `ImportStopped`."""
        try:
            return await self._database.persist(act, tries=WRITE_TRIES, also=(IntegrityError,))
        except DatabaseUnavailable as error:
            raise ImportStopped("the database does not answer: run this again when it does") from error

    def _report(self, about: _Candidate | ListedObject, outcome: Outcome, reason: str = "", detail: str = "") -> None:
        entry = about.entry if isinstance(about, _Candidate) else about
        self.tally.counts[outcome, reason] += 1
        self._on_verdict(ImportVerdict(entry, outcome, reason, detail))


def _why_not(candidate: _Candidate, row: Asset | None, line: AssetObject | None) -> str:
    """Why this object must not be imported; empty when it may be. `line` is the ledger's."""
    if line is not None and line.state == ObjectState.CONDEMNED:
        # A job is about to delete the object: a row that pointed at it would lose its bytes.
        return Code.BEING_REMOVED
    if row is None:
        known = (ObjectState.CURRENT, ObjectState.WRITING)
        return Code.ALREADY_IN_USE if line is not None and line.state in known else ""
    if row.object_key != candidate.object_key:
        return Code.KEY_TAKEN
    if row.deleted_at is not None:
        return Code.TRASHED
    return Code.ALREADY_IN_USE if row.status == AssetStatus.UPLOADING else ""
