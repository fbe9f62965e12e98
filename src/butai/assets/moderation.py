"""What operators hide: all public files of a suspended user, and single files that are taken down.

A hidden file is private, so that every list, read and feed leaves it out; `public_again` remembers what it was. A file that
was taken down is not read by its owner either. Its bytes, known by their SHA-256, are not public under another key of
the same owner, as long as it is down. Where a SHA-256 is not known yet, files of the same size count as the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from butai import jobs
from butai.assets import transitions
from butai.assets.models import Asset
from butai.assets.states import AssetStatus, AssetTrigger
from butai.assets.transitions import CHANGES_LOCK
from butai.errors import TakenDown

HASH_OBJECT = "assets.hash_object"
"""The task that reads an object once and writes its SHA-256. Arguments: `asset_id`, `object_key`."""

LOCK_SEED = 7237
"""Seed of the hash for an owner's advisory lock: shared by what makes files public or hides them, exclusive for what takes one
down or puts it back. It comes before the lock of any row of an asset, and before that of the change feed."""

# Rows whose bytes may not be public: those of a file that is down, or what may turn out to be those.
_HELD_BACK = """(a.sidecar IS NULL AND EXISTS (SELECT 1 FROM assets AS down WHERE down.owner_user_id = a.owner_user_id
                        AND down.taken_down_at IS NOT NULL AND down.id <> a.id AND down.size_bytes = a.size_bytes
                        AND coalesce(down.sha256 = a.sha256, true)))"""
_HAS_BYTES_OF_ONE = """EXISTS (SELECT 1 FROM assets AS down WHERE down.owner_user_id = a.owner_user_id
                       AND down.taken_down_at IS NOT NULL AND down.id <> a.id AND down.sha256 = a.sha256)"""

_CHANGE = """
    WITH changed AS (
        UPDATE assets AS changing
        SET visibility = '{visibility}', public_again = {again}, ever_public = ever_public OR '{visibility}' = 'public',
            change_seq = nextval('asset_changes')
        WHERE id IN (SELECT id FROM assets AS a WHERE owner_user_id = :user AND {condition}
                     ORDER BY id LIMIT :limit FOR NO KEY UPDATE)
        RETURNING id, status, attempts
    )
    INSERT INTO asset_events (asset_id, event, from_status, to_status, actor, attempt)
    SELECT id, :event, status, status, :actor, attempts FROM changed
"""
_HIDE = text(_CHANGE.format(visibility="private", again="true", condition="visibility = 'public'"))
_SHOW = text(
    _CHANGE.format(
        visibility="public",
        again="false",
        condition=f"public_again AND taken_down_at IS NULL AND NOT {_HELD_BACK}",
    )
)
_HIDE_HELD_BACK = text(
    _CHANGE.format(visibility="private", again="true", condition=f"visibility = 'public' AND {_HELD_BACK}")
)
_IS_HELD_BACK = text(f"SELECT {_HELD_BACK}, {_HAS_BYTES_OF_ONE} FROM assets AS a WHERE id = :id")


async def lock_owner(session: AsyncSession, asset_id: UUID, *, exclusive: bool = False) -> None:
    """Takes the advisory lock of a file's owner, until the transaction ends: before the file is locked, for `check_public`,
    and exclusively for `take_down` and `put_back`."""
    owner = await session.scalar(select(Asset.owner_user_id).where(Asset.id == asset_id))
    if owner is not None:
        await _lock(session, owner, exclusive=exclusive)


async def _lock(session: AsyncSession, owner: str, *, exclusive: bool = False) -> None:
    take = func.pg_advisory_xact_lock if exclusive else func.pg_advisory_xact_lock_shared
    await session.execute(select(take(func.hashtextextended(owner, LOCK_SEED))))


async def hide_of(session: AsyncSession, user_id: str, limit: int, actor: str | None) -> int:
    """Hides up to `limit` public files of a user. Returns their number."""
    return await _change(session, _HIDE, AssetTrigger.HIDDEN, user_id, limit, actor)


async def show_of(session: AsyncSession, user_id: str, limit: int, actor: str | None) -> int:
    """Makes up to `limit` files of a user public again that were hidden with the user. Returns their number."""
    return await _change(session, _SHOW, AssetTrigger.SHOWN, user_id, limit, actor)


async def _change(
    session: AsyncSession, statement: object, event: AssetTrigger, user_id: str, limit: int | None, actor: str | None
) -> int:
    await _lock(session, user_id)
    await session.execute(text("SELECT pg_advisory_xact_lock_shared(:lock)"), {"lock": CHANGES_LOCK})
    done = await session.execute(
        statement,  # pyright: ignore[reportArgumentType, reportCallIssue]
        {"user": user_id, "limit": limit, "event": event, "actor": actor},
    )
    return done.rowcount


async def check_public(session: AsyncSession, asset: Asset) -> None:
    """Lets a row be public that was locked after `lock_owner`, or makes it private until its SHA-256 is known. Raises
    `TakenDown` for a file that is down, and for bytes of one."""
    if asset.taken_down_at is not None:
        raise TakenDown
    if asset.visibility != "public" or asset.sidecar is not None or asset.owner_user_id is None:
        return
    await session.flush()
    held_back, has_bytes_of_one = (await session.execute(_IS_HELD_BACK, {"id": asset.id})).one()
    if has_bytes_of_one:
        raise TakenDown("An operator has taken these bytes down under another key")
    if held_back:
        asset.visibility, asset.public_again = "private", True
        await ask_for_hash(session, asset)


async def take_down(session: AsyncSession, asset: Asset, reason: str, actor: str | None) -> None:
    """Takes down a locked row, or changes the reason of one that is down. What is public and has the same bytes, or may have
    them, is hidden."""
    asset.public_again = asset.public_again or asset.visibility == "public"
    asset.visibility = "private"
    asset.taken_down_at = asset.taken_down_at or await session.scalar(select(func.now()))
    asset.taken_down_reason = reason
    await transitions.move(session, asset, AssetTrigger.WITHDRAWN, actor=actor, detail={"reason": reason})
    await ask_for_hash(session, asset)
    if asset.owner_user_id is None:
        return
    await session.flush()
    await _change(session, _HIDE_HELD_BACK, AssetTrigger.HIDDEN, asset.owner_user_id, None, actor)
    waiting = select(Asset).where(
        Asset.owner_user_id == asset.owner_user_id,
        Asset.size_bytes == asset.size_bytes,
        Asset.public_again,
        Asset.sidecar.is_(None),
        Asset.id != asset.id,
    )
    for each in (await session.scalars(waiting)).all():
        await ask_for_hash(session, each)


async def ask_for_hash(session: AsyncSession, asset: Asset) -> None:
    """Enqueues the reading of a file that is there without a SHA-256: one that was imported, or sent to the store by a signed
    URL a moment ago."""
    if asset.sha256 is None and asset.status == AssetStatus.READY:
        args = {"asset_id": str(asset.id), "object_key": asset.object_key}
        await jobs.enqueue(session, HASH_OBJECT, args, turn=f"{HASH_OBJECT}:{asset.owner_user_id}")


async def put_back(session: AsyncSession, asset: Asset, actor: str | None) -> None:
    """Ends the taking down of a locked row. Where it has an owner, `show_of` makes it public again."""
    asset.taken_down_at = asset.taken_down_reason = None
    if asset.owner_user_id is None and asset.public_again:
        asset.visibility, asset.public_again = "public", False
    await transitions.move(session, asset, AssetTrigger.PUT_BACK, actor=actor)


async def copies(session: AsyncSession, asset: Asset, *, down: bool) -> Sequence[UUID]:
    """The same owner's other files with the same bytes: those that are down, or else those that are public or were, when an
    operator hid them."""
    if asset.sha256 is None:
        return []
    same = (
        Asset.owner_user_id == asset.owner_user_id,
        Asset.sha256 == asset.sha256,
        Asset.id != asset.id,
        Asset.sidecar.is_(None),
    )
    was_public = or_(Asset.visibility == "public", Asset.public_again)
    state = Asset.taken_down_at.is_not(None) if down else Asset.taken_down_at.is_(None) & was_public
    return (await session.scalars(select(Asset.id).where(*same, state))).all()
