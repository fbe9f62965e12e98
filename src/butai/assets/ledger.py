"""The object ledger (`asset_objects`): each object key, recorded before its first byte and kept until after its
removal.

All writes of the table are here; each function works in its caller's transaction. States change by `move` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ARRAY, Text, any_, delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai import jobs
from butai.assets.models import AssetObject
from butai.assets.object_states import OBJECT_TABLE, ObjectState, ObjectTrigger

REMOVE_OBJECTS = "assets.remove_objects"
"""The task that removes condemned objects; its body is in `tasks`, a layer above. Arguments: `object_keys`."""

REMOVE_MOVED = "assets.remove_moved"
"""The task that removes an orphan whose copy is in the trash. Arguments: those of `tasks.remove_moved`."""

READERS_GRACE = timedelta(minutes=10)
"""Time for which replaced bytes stay, for readers that have begun on them."""

CLAIM = timedelta(seconds=60)
"""Time for which one sweep has an expired object to itself; another sweep takes it over afterwards."""

LOOK_AGAIN = timedelta(seconds=30)
"""Time between two checks for a signed upload while its URL is valid: it may arrive at any moment."""

FIRST_LOOK = timedelta(seconds=15)
"""Time until the first check for a signed upload: a small file has arrived by then."""

LAST_LOOK = timedelta(days=1)
"""Time after `writable_until` of the last removal: a store lets a slow transfer end long after its URL has expired."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """An object for the sweep. `expired`: its writer counts as dead, or its signed URL has expired."""

    line: AssetObject
    expired: bool


async def lock(session: AsyncSession, object_key: str) -> AssetObject | None:
    """Returns the line, locked until the transaction ends; None when there is none."""
    return await session.scalar(
        select(AssetObject)
        .where(AssetObject.object_key == object_key)
        .with_for_update()
        .execution_options(populate_existing=True)
    )


def move(line: AssetObject, trigger: ObjectTrigger) -> bool:
    """Moves a new line, or a locked one, by the table. Raises `IllegalObjectMove`, having changed nothing.

    Returns False where the trigger is late or repeated and changes nothing. Condemning again counts as a change: the
    removal that was under way may have been too early.
    """
    before = None if line.state is None else ObjectState(line.state)
    after = OBJECT_TABLE.after(before, trigger)
    if after is None:
        raise ValueError("a line is deleted by `release`")
    if after is before and after is not ObjectState.CONDEMNED:
        return False
    line.state = after
    if after is not ObjectState.WRITING:
        line.settled_at, line.lease_until = func.now(), None
    if after in (ObjectState.CURRENT, ObjectState.REMOVED):
        # A condemned one keeps the id of its multipart upload: the removal has to abort it.
        line.upload_id = None
    return True


async def open_object(
    session: AsyncSession,
    object_key: str,
    origin: str,
    lease: timedelta,
    *,
    asset_id: UUID | None = None,
    attempt: int = 0,
    size: int | None = None,
    sha256: str | None = None,
    writable: timedelta | None = None,
) -> None:
    """Records a new object key, before anything can be stored under it. `size` (bytes) and `sha256` are the declared
    ones; `writable` is the time for which a URL of the store may write the object."""
    now = datetime.now(UTC)
    line = AssetObject(
        object_key=object_key,
        asset_id=asset_id,
        origin=origin,
        attempt=attempt,
        next_look_at=now + FIRST_LOOK if origin == "signed" else None,
        writable_until=None if writable is None else now + writable,
        declared_size=size,
        declared_sha256=sha256,
    )
    move(line, ObjectTrigger.OPENED)
    line.lease_until = now + lease
    session.add(line)
    await session.flush()


async def condemn(
    session: AsyncSession,
    object_key: str,
    trigger: ObjectTrigger,
    *,
    after: timedelta = timedelta(),
    held: int | None = None,
) -> ObjectState | None:
    """Moves an object to `condemned`, and enqueues its removal in the same transaction.

    Returns the state before; None when the ledger does not know the key. `after`: how long it may still be read. What a
    URL can still write is removed again after `writable_until` (`mark_removed`). `held`: bytes that stay in the quota of
    the asset's owner meanwhile; for what a URL can still write, its declared size. Raises `IllegalObjectMove`.
    """
    line = await lock(session, object_key)
    if line is None:
        return None
    before = ObjectState(line.state)
    if move(line, trigger):
        line.held_bytes = line.declared_size if line.writable_until is not None else held
        at = datetime.now(UTC) + after if after else None
        await jobs.enqueue(session, REMOVE_OBJECTS, {"object_keys": [object_key]}, at=at)
    return before


async def condemn_all(session: AsyncSession, asset_id: UUID) -> None:
    """Condemns all objects of a purged asset, including those of uploads under way."""
    found = await session.scalars(
        select(AssetObject.object_key).where(
            AssetObject.asset_id == asset_id, AssetObject.state.in_((ObjectState.CURRENT, ObjectState.WRITING))
        )
    )
    for object_key in found.all():
        await condemn(session, object_key, ObjectTrigger.PURGED, after=READERS_GRACE)


async def mark_removed(session: AsyncSession, object_key: str, condemned_at: datetime | None) -> bool:
    """Records that the store has removed an object. False when it must be removed again, by a job that is enqueued:
    it was condemned again since `condemned_at`, since its writer may have written after the removal; or a URL may write
    it until `writable_until`. Such an object is removed once more when that is over, and again `LAST_LOOK` later."""
    line = await lock(session, object_key)
    if line is None or line.settled_at != condemned_at:
        return False
    now = datetime.now(UTC)
    if line.state == ObjectState.CONDEMNED and line.writable_until is not None:
        for again in (line.writable_until, line.writable_until + LAST_LOOK):
            if now < again:
                await jobs.enqueue(session, REMOVE_OBJECTS, {"object_keys": [object_key]}, at=again)
                return False
    return move(line, ObjectTrigger.REMOVED)


async def forget_removed(session: AsyncSession, asset_id: UUID, last: int) -> None:
    """Deletes the lines of objects that an asset's attempts up to the number `last` left behind, and that are removed."""
    await session.execute(
        delete(AssetObject).where(
            AssetObject.asset_id == asset_id, AssetObject.state == ObjectState.REMOVED, AssetObject.attempt <= last
        )
    )


async def claim(session: AsyncSession, object_key: str) -> bool:
    """Condemns an orphan, so that no import adopts it meanwhile. False when an asset has the object, or had it and is
    losing it."""
    made = await session.execute(
        insert(AssetObject)
        .values(
            object_key=object_key,
            origin="trash",
            state=OBJECT_TABLE.after(None, ObjectTrigger.CLAIMED),
            attempt=0,
            settled_at=func.now(),
        )
        .on_conflict_do_nothing()
        .returning(AssetObject.object_key)
    )
    if made.scalar_one_or_none() is not None:
        return True
    line = await lock(session, object_key)
    claimable = line is not None and (
        line.state == ObjectState.REMOVED or (line.state == ObjectState.CONDEMNED and line.origin == "trash")
    )
    if line is None or not claimable:
        return False
    move(line, ObjectTrigger.CLAIMED)
    line.origin = "trash"
    return True


async def release(session: AsyncSession, object_key: str) -> None:
    """Deletes the line of an orphan that stays in the bucket after all: the next listing finds it like any other."""
    line = await lock(session, object_key)
    if line is None or line.origin != "trash":
        return
    if OBJECT_TABLE.after(ObjectState(line.state), ObjectTrigger.RELEASED) is None:
        await session.delete(line)


def adopt(session: AsyncSession, line: AssetObject | None, object_key: str, asset_id: UUID) -> None:
    """Records that an imported asset points at an object of the bucket. `line` is the key's, locked; None when it is
    new."""
    if line is None:
        line = AssetObject(object_key=object_key)
        session.add(line)
    move(line, ObjectTrigger.ADOPTED)
    line.asset_id, line.origin, line.attempt = asset_id, "import", 0


async def assign(session: AsyncSession, object_key: str, asset_id: UUID, attempt: int) -> None:
    """Sets the asset of an object whose asset was unknown when its first bytes came."""
    await session.execute(
        update(AssetObject).where(AssetObject.object_key == object_key).values(asset_id=asset_id, attempt=attempt)
    )


async def renew_lease(session: AsyncSession, object_key: str, until: datetime) -> None:
    """Extends the lease of the object's writer. Without effect on an object that was given up."""
    await session.execute(
        update(AssetObject)
        .where(AssetObject.object_key == object_key, AssetObject.state == ObjectState.WRITING)
        .values(lease_until=until)
    )


async def take_abandoned(session: AsyncSession, now: datetime, limit: int) -> list[Abandoned]:
    """Returns objects whose lease has expired, and signed uploads that are due for a check; no other sweep gets the
    same ones for `CLAIM`, or `LOOK_AGAIN`."""
    lines = await session.scalars(
        select(AssetObject)
        .where(
            AssetObject.state == ObjectState.WRITING,
            (AssetObject.lease_until < now) | ((AssetObject.origin == "signed") & (AssetObject.next_look_at < now)),
        )
        .order_by(AssetObject.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    found = [Abandoned(line, line.lease_until is not None and line.lease_until < now) for line in lines]
    for each in found:
        each.line.next_look_at = now + LOOK_AGAIN
        if each.expired:
            each.line.lease_until = now + CLAIM
    return found


async def claim_arrival(session: AsyncSession, object_key: str, until: datetime) -> bool:
    """Claims a signed upload's object for its completion. False while another request or sweep has it, and when it is
    no longer being written."""
    claimed = await session.execute(
        update(AssetObject)
        .where(
            AssetObject.object_key == object_key,
            AssetObject.state == ObjectState.WRITING,
            AssetObject.claimed_until.is_(None) | (AssetObject.claimed_until < func.now()),
        )
        .values(claimed_until=until)
        .returning(AssetObject.object_key)
    )
    return claimed.scalar_one_or_none() is not None


async def begin_put(session: AsyncSession, asset_id: UUID, attempt: int, until: datetime) -> AssetObject | None:
    """Claims an attempt's object for the one request that may send its bytes to this service, with a lease until
    `until`. None when a request had it before, or when it is no longer being written."""
    return await session.scalar(
        update(AssetObject)
        .where(
            AssetObject.asset_id == asset_id,
            AssetObject.attempt == attempt,
            AssetObject.origin == "upload",
            AssetObject.state == ObjectState.WRITING,
            AssetObject.claimed_until.is_(None),
        )
        .values(claimed_until=until, lease_until=until)
        .returning(AssetObject)
    )


async def unclaim_arrival(session: AsyncSession, object_key: str, until: datetime) -> None:
    """Ends a claim that was made with this `until`; no-op when it is another's by now."""
    await session.execute(
        update(AssetObject)
        .where(AssetObject.object_key == object_key, AssetObject.claimed_until == until)
        .values(claimed_until=None)
    )


async def declare_size(session: AsyncSession, object_key: str, size: int) -> bool:
    """Replaces the declared size by the real one, in bytes. False when the object is no longer being written."""
    declared = await session.execute(
        update(AssetObject)
        .where(AssetObject.object_key == object_key, AssetObject.state == ObjectState.WRITING)
        .values(declared_size=size)
        .returning(AssetObject.object_key)
    )
    return declared.scalar_one_or_none() is not None


async def keep_upload_id(session: AsyncSession, object_key: str, upload_id: str) -> None:
    """Stores the id of the store's multipart upload, without which its parts could not be removed; also for an object
    that was given up meanwhile, whose parts must be removed, too."""
    await session.execute(update(AssetObject).where(AssetObject.object_key == object_key).values(upload_id=upload_id))


async def keep_first_upload_id(session: AsyncSession, object_key: str, upload_id: str) -> str | None:
    """Like `keep_upload_id`, where two requests may each begin a multipart upload: returns the id that was stored
    first; None, storing none, when the object is no longer being written."""
    return await session.scalar(
        update(AssetObject)
        .where(AssetObject.object_key == object_key, AssetObject.state == ObjectState.WRITING)
        .values(upload_id=func.coalesce(AssetObject.upload_id, upload_id))
        .returning(AssetObject.upload_id)
    )


async def condemn_for_erasure(session: AsyncSession, asset_id: UUID) -> list[str]:
    """Condemns all objects of an asset, without time for readers. Returns the keys of those that are not being written:
    the jobs of the others remove them, under random keys, when their writers are done."""
    found = await session.scalars(select(AssetObject).where(AssetObject.asset_id == asset_id).with_for_update())
    settled: list[str] = []
    for line in found.all():
        if line.state != ObjectState.WRITING and line.writable_until is None:
            settled.append(line.object_key)
        if line.state in (ObjectState.CURRENT, ObjectState.WRITING):
            await condemn(session, line.object_key, ObjectTrigger.PURGED)
    return settled


async def uploads_of(session: AsyncSession, object_keys: Sequence[str]) -> list[tuple[str, str | None]]:
    """Those of these objects that may be stored, each with the store's id of its multipart upload."""
    query = select(AssetObject.object_key, AssetObject.upload_id).where(
        AssetObject.object_key == any_(literal(object_keys, ARRAY(Text))), AssetObject.state != ObjectState.REMOVED
    )
    return [(key, upload_id) for key, upload_id in await session.execute(query)]


async def forget_erased(session: AsyncSession, object_keys: Sequence[str]) -> None:
    """Deletes the lines of an erased user's objects, which the store has removed: an imported object's key is its name."""
    await session.execute(delete(AssetObject).where(AssetObject.object_key == any_(literal(object_keys, ARRAY(Text)))))
