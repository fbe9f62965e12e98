"""What operators hide: all public files of a suspended user, and single files that are taken down.

A hidden file is private, so that every list, read and feed leaves it out; `public_again` remembers what it was. A file that
was taken down is not read by its owner either. Its bytes, known by their SHA-256, are not made public under another key of
the same owner, as long as it is down.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets import transitions
from butai.assets.models import Asset
from butai.assets.states import AssetTrigger
from butai.assets.transitions import CHANGES_LOCK
from butai.errors import TakenDown

LOCK_SEED = 7237
"""Seed of the hash for an owner's advisory lock: shared by what makes a file public, exclusive for what takes one down."""

# Rows whose bytes may not be public: those of a file that is down, or not known yet while the owner has such a file.
_HELD_BACK = """EXISTS (SELECT 1 FROM assets AS down WHERE down.owner_user_id = a.owner_user_id
                        AND down.taken_down_at IS NOT NULL AND down.id <> a.id
                        AND (a.sha256 IS NULL OR down.sha256 = a.sha256))"""

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
_IS_HELD_BACK = text(f"SELECT {_HELD_BACK}, a.sha256 IS NULL FROM assets AS a WHERE id = :id")


async def hide_of(session: AsyncSession, user_id: str, limit: int, actor: str | None) -> int:
    """Hides up to `limit` public files of a user. Returns their number."""
    return await _change(session, _HIDE, AssetTrigger.HIDDEN, user_id, limit, actor)


async def show_of(session: AsyncSession, user_id: str, limit: int, actor: str | None) -> int:
    """Makes up to `limit` files of a user public again that were hidden with the user. Returns their number."""
    return await _change(session, _SHOW, AssetTrigger.SHOWN, user_id, limit, actor)


async def _change(
    session: AsyncSession, statement: object, event: AssetTrigger, user_id: str, limit: int, actor: str | None
) -> int:
    await session.execute(text("SELECT pg_advisory_xact_lock_shared(:lock)"), {"lock": CHANGES_LOCK})
    done = await session.execute(
        statement,  # pyright: ignore[reportArgumentType, reportCallIssue]
        {"user": user_id, "limit": limit, "event": event, "actor": actor},
    )
    return done.rowcount


async def check_public(session: AsyncSession, asset: Asset) -> None:
    """Lets a locked row be public, or makes it private until its SHA-256 is known. Raises `TakenDown` for a file that is
    down, and for bytes of one."""
    if asset.taken_down_at is not None:
        raise TakenDown
    if asset.visibility != "public" or asset.sidecar is not None or asset.owner_user_id is None:
        return
    await session.execute(
        select(func.pg_advisory_xact_lock_shared(func.hashtextextended(asset.owner_user_id, LOCK_SEED)))
    )
    await session.flush()
    held_back, unknown = (await session.execute(_IS_HELD_BACK, {"id": asset.id})).one()
    if held_back and not unknown:
        raise TakenDown("An operator has taken these bytes down under another key")
    if held_back:
        asset.visibility, asset.public_again = "private", True


async def take_down(session: AsyncSession, asset: Asset, reason: str, actor: str | None) -> None:
    """Takes down a locked row, or changes the reason of one that is down."""
    if asset.owner_user_id is not None:
        await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(asset.owner_user_id, LOCK_SEED))))
    asset.public_again = asset.public_again or asset.visibility == "public"
    asset.visibility = "private"
    asset.taken_down_at = asset.taken_down_at or await session.scalar(select(func.now()))
    asset.taken_down_reason = reason
    await transitions.move(session, asset, AssetTrigger.WITHDRAWN, actor=actor, detail={"reason": reason})


async def put_back(session: AsyncSession, asset: Asset, actor: str | None) -> None:
    """Ends the taking down of a locked row. Where it has an owner, `show_of` makes it public again."""
    asset.taken_down_at = asset.taken_down_reason = None
    if asset.owner_user_id is None and asset.public_again:
        asset.visibility, asset.public_again = "public", False
    await transitions.move(session, asset, AssetTrigger.PUT_BACK, actor=actor)


async def copies(session: AsyncSession, asset: Asset, *, down: bool) -> Sequence[UUID]:
    """The same owner's other files with the same bytes: those that are down, or else those that are public."""
    if asset.sha256 is None:
        return []
    same = (Asset.owner_user_id == asset.owner_user_id, Asset.sha256 == asset.sha256, Asset.id != asset.id)
    state = Asset.taken_down_at.is_not(None) if down else Asset.visibility == "public"
    return (await session.scalars(select(Asset.id).where(*same, state))).all()
