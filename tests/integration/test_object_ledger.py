"""The ledger against a real Postgres: random steps of uploads, sweeps, removals and purges keep what was acknowledged."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select

from butai.assets import keys, ledger, purge, service
from butai.assets.keys import AssetKey
from butai.assets.library import Library, assemble
from butai.assets.models import Asset, AssetObject
from butai.assets.object_states import IllegalObjectMove, ObjectState, ObjectTrigger
from butai.assets.storage.client import Store
from butai.assets.tus import transitions as resumable
from butai.assets.tus.models import ResumableUpload
from butai.assets.tus.states import ResumableState, ResumableTrigger
from butai.assets.uploads.attempts import StoredObject, UploadAttempt, fail, finish
from butai.assets.uploads.opening import Source, open_upload
from butai.audit import Origin
from butai.config import Settings
from butai.database import Database
from butai.errors import AssetNotFound, FileTooLarge, UploadInterrupted, UploadTaken
from butai.identity import Caller

ORIGIN = Origin("alice")
EXAMPLES = hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def library(settings: Settings, database: Database) -> Library:
    return assemble(database, Store(settings.store), settings.assets, settings.http)


@dataclass
class Walk:
    """One key of one user. `stored`: objects whose bytes a store would have; `acknowledged`: what a client was told."""

    library: Library
    key: AssetKey = field(default_factory=lambda: keys.parse(f"vrm/{uuid.uuid4().hex}.vrm"))
    attempts: list[UploadAttempt] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)
    acknowledged: str | None = None

    async def open(self, number: int) -> None:
        source = Source("upload", timedelta(minutes=1), size=10)
        async with self.library.database.transaction() as session:
            attempt, _ = await open_upload(session, self.library.uploads, "alice", ORIGIN, self.key, source)
        self.attempts.append(attempt)
        self.stored.add(attempt.object_key)

    async def finish(self, number: int) -> None:
        if not self.attempts:
            return
        attempt = self.attempts[number % len(self.attempts)]
        try:
            async with self.library.database.transaction() as session:
                asset = await finish(session, attempt, StoredObject(10, None, "etag", b""), actor="alice")
                newest = asset.object_key
        except UploadInterrupted:
            return
        assert newest is not None
        self.acknowledged = newest

    async def fail(self, number: int) -> None:
        if self.attempts:
            attempt = self.attempts[number % len(self.attempts)]
            async with self.library.database.transaction() as session:
                await fail(session, attempt, UploadInterrupted(), actor="alice")

    async def sweep_and_take_over(self, number: int) -> None:
        async with self.library.database.transaction() as session:
            found = await ledger.take_abandoned(session, datetime.now(UTC) + timedelta(minutes=2), 1000)
        mine = {attempt.object_key for attempt in self.attempts}
        for line in [each.line for each in found if each.line.object_key in mine][: number + 1]:
            async with self.library.database.transaction() as session:
                await fail(
                    session,
                    UploadAttempt(line.object_key, line.asset_id, line.attempt),
                    UploadInterrupted(),
                    actor=None,
                )

    async def remove(self, number: int) -> None:
        """The removal job, its store a set."""
        if not self.attempts:
            return
        object_key = self.attempts[number % len(self.attempts)].object_key
        async with self.library.database.transaction() as session:
            line = await session.get(AssetObject, object_key)
        if line is not None and line.state == ObjectState.CONDEMNED:
            self.stored.discard(object_key)
            async with self.library.database.transaction() as session:
                assert await ledger.mark_removed(session, object_key, line.settled_at)

    async def purge(self, _: int) -> None:
        async with self.library.database.transaction() as session:
            asset = await session.scalar(select(Asset).where(Asset.wanted_key == self.key.text))
        if asset is None:
            return
        caller = Caller("alice", "session")
        try:
            await service.trash(self.library.database, caller, ORIGIN, asset.id)
        except AssetNotFound:
            return
        async with self.library.database.transaction() as session:
            assert await purge.purge(session, asset.id, datetime.now(UTC) + timedelta(seconds=1))
        self.acknowledged = None

    async def check(self) -> None:
        async with self.library.database.transaction() as session:
            asset = await session.scalar(select(Asset).where(Asset.wanted_key == self.key.text))
            mine = [attempt.object_key for attempt in self.attempts]
            lines = (await session.scalars(select(AssetObject).where(AssetObject.object_key.in_(mine)))).all()
        current = [line.object_key for line in lines if line.state == ObjectState.CURRENT]
        assert current == ([asset.object_key] if asset is not None and asset.object_key else [])
        assert self.acknowledged == (current[0] if current else None)
        if self.acknowledged is not None:
            assert asset is not None
            assert asset.status == "ready"
            assert self.acknowledged in self.stored
        # Bytes under a line that says they are removed would stay in the bucket for ever.
        assert self.stored & {line.object_key for line in lines if line.state == ObjectState.REMOVED} == set()


STEPS = st.lists(
    st.tuples(
        st.sampled_from([Walk.open, Walk.finish, Walk.fail, Walk.sweep_and_take_over, Walk.remove, Walk.purge]),
        st.integers(0, 9),
    ),
    max_size=15,
)


@EXAMPLES
@given(steps=STEPS)
async def test_random_steps_keep_what_was_acknowledged(library: Library, steps: list[Any]) -> None:
    walk = Walk(library)
    await walk.open(0)
    for step, number in steps:
        await step(walk, number)
        await walk.check()


async def test_a_removal_does_not_hide_what_was_written_behind_it(library: Library) -> None:
    walk = Walk(library)
    await walk.open(0)
    await walk.fail(0)
    object_key = walk.attempts[0].object_key
    async with library.database.transaction() as session:
        seen = await session.get(AssetObject, object_key)
    assert seen is not None
    # While the store is removing it, its writer, which was taken for dead, writes and fails.
    await walk.fail(0)
    async with library.database.transaction() as session:
        assert not await ledger.mark_removed(session, object_key, seen.settled_at)
        line = await ledger.lock(session, object_key)
        assert line is not None
        assert line.state == ObjectState.CONDEMNED
        assert await ledger.mark_removed(session, object_key, line.settled_at)


async def test_of_two_attempts_that_fail_the_older_may_be_the_last(library: Library) -> None:
    """It moves nothing, and its object goes all the same: an error here would stop every sweep."""
    walk = Walk(library)
    await walk.open(0)
    await walk.open(0)
    async with library.database.transaction() as session:
        await fail(session, walk.attempts[1], FileTooLarge(), actor="alice")
    await walk.fail(0)
    async with library.database.transaction() as session:
        asset = await session.scalar(select(Asset).where(Asset.wanted_key == walk.key.text))
        states = (await session.scalars(select(AssetObject.state))).all()
    assert asset is not None
    assert (asset.status, asset.error_code) == ("failed", FileTooLarge().code)
    assert set(states) == {ObjectState.CONDEMNED}


async def test_an_illegal_move_raises_and_changes_nothing(library: Library) -> None:
    walk = Walk(library)
    await walk.open(0)
    object_key = walk.attempts[0].object_key
    with pytest.raises(IllegalObjectMove):
        async with library.database.transaction() as session:
            await ledger.condemn(session, object_key, ObjectTrigger.REPLACED)
    async with library.database.transaction() as session:
        line = await session.get(AssetObject, object_key)
    assert line is not None
    assert (line.state, line.settled_at) == (ObjectState.WRITING, None)


async def test_an_orphan_is_claimed_once_and_a_used_object_never(library: Library) -> None:
    walk = Walk(library)
    await walk.open(0)
    await walk.finish(0)
    async with library.database.transaction() as session:
        assert not await ledger.claim(session, walk.attempts[0].object_key)
        assert await ledger.claim(session, "orphan")
        assert await ledger.claim(session, "orphan"), "by a process that died before"
        await ledger.release(session, "orphan")
        await ledger.release(session, walk.attempts[0].object_key)
    async with library.database.transaction() as session:
        assert await session.get(AssetObject, "orphan") is None
        assert await session.get(AssetObject, walk.attempts[0].object_key) is not None


TUS_STEPS = st.lists(
    st.tuples(st.sampled_from([None, *list(ResumableTrigger)[1:]]), st.integers(0, 2)),
    max_size=12,
)


@EXAMPLES
@given(steps=TUS_STEPS)
async def test_a_resumable_upload_ends_once(library: Library, steps: list[tuple[ResumableTrigger | None, int]]) -> None:
    key, lease = keys.parse(f"vrm/{uuid.uuid4().hex}.vrm"), timedelta(minutes=1)
    async with library.database.transaction() as session:
        source = Source("resumable", lease, size=10)
        attempt, _ = await open_upload(session, library.uploads, "alice", ORIGIN, key, source)
        row = resumable.create(
            session,
            user_id="alice",
            asset_id=attempt.asset_id,
            object_key=attempt.object_key,
            wanted_key=key.text,
            upload_length=10,
            declared_sha256=None,
            metadata_header="",
            expires_at=datetime.now(UTC) + lease,
        )
    writer, ended = 0, None
    for trigger, behind in steps:
        async with library.database.transaction() as session:
            before = await resumable.lock(session, row.id)
            assert before is not None
            if trigger is None:
                resumable.take_over(before)
                writer += 1
                continue
            try:
                await resumable.move(session, row.id, writer - behind, trigger)
            except UploadTaken:
                continue
        assert behind == 0, "only the newest request may move it"
        assert ended is None, "what is over stays over"
        async with library.database.transaction() as session:
            state = await session.scalar(select(ResumableUpload.state).where(ResumableUpload.id == row.id))
        ended = state if state in (ResumableState.DONE, ResumableState.REFUSED) else None
