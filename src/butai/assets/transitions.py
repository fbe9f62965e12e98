"""The only way to change an asset: locked row, table check, event row, all in the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets import names
from butai.assets.kinds import Sidecar
from butai.assets.models import Asset, AssetEvent, AssetObject
from butai.assets.states import ASSET_TABLE, AssetStatus, AssetTrigger

CHANGES_LOCK = 0x6275_7461_6901
"""The advisory lock of the change feed: each writer holds it shared until its commit, and the feed's reader takes it
exclusively for a moment. Meanwhile each assigned number is committed or rolled back, and none can appear below it."""

# The lock comes first: a number must not exist without it.
_NEXT_CHANGE = text(
    "SELECT nextval('asset_changes'), now() FROM (SELECT pg_advisory_xact_lock_shared(:lock) OFFSET 0) AS locked"
)


@dataclass(frozen=True, slots=True)
class Change:
    """A place in the change feed, and the transaction's time."""

    seq: int
    at: datetime


async def next_change(session: AsyncSession) -> Change:
    """Takes the next place in the change feed."""
    seq, at = (await session.execute(_NEXT_CHANGE, {"lock": CHANGES_LOCK})).one()
    return Change(seq, at)


async def lock(session: AsyncSession, asset_id: UUID) -> Asset | None:
    """Returns the row, locked until the transaction ends; None when it is purged.

    The lock (`FOR NO KEY UPDATE`) excludes other changes, but no inserts that refer to the row: the patrol writes a
    thousand of these at a time, in another order than that in which a sidecar and its asset are locked here.
    """
    return await session.scalar(select(Asset).where(Asset.id == asset_id).with_for_update(key_share=True))


async def move(
    session: AsyncSession,
    asset: Asset,
    event: AssetTrigger,
    *,
    actor: str | None,
    attempt: int | None = None,
    error_code: str | None = None,
    error_detail: str | None = None,
    detail: dict[str, Any] | None = None,
    new: bool = False,
) -> None:
    """Moves a locked row by the table and adds the event. Raises `IllegalAssetTransition`, having changed nothing.

    With `new` the row was added in this transaction. `attempt` is the attempt that the event is about: one that fails
    while a newer one runs gets its event, and changes no state.
    """
    before = None if new else AssetStatus(asset.status)
    after = ASSET_TABLE.after(before, event)
    stale = attempt is not None and attempt < asset.attempts and event is AssetTrigger.UPLOAD_FAILED
    if stale:
        after = before or after
    change = await next_change(session)
    asset.status = after
    # New facts go into the feed but do not count as a change of the asset: a whole library may be inspected at once.
    asset.updated_at = asset.updated_at if event is AssetTrigger.INSPECTED else change.at
    asset.change_seq = change.seq
    if after is AssetStatus.FAILED and not stale:
        asset.error_code, asset.error_detail = error_code, error_detail
    elif after is not AssetStatus.FAILED:
        asset.error_code = asset.error_detail = None
    asset.missing_since = (asset.missing_since or change.at) if after is AssetStatus.MISSING else None
    session.add(
        AssetEvent(
            asset_id=asset.id,
            event=event,
            from_status=before,
            to_status=after,
            actor=actor,
            attempt=asset.attempts if attempt is None else attempt,
            error_code=error_code,
            detail=({"reason": error_detail} if error_detail else {}) | (detail or {}),
        )
    )


async def trashed_after(session: AsyncSession, asset: Asset) -> int:
    """Returns the number of the newest attempt that had begun when a locked asset was last put into the trash; 0 when it
    never was."""
    newest = (
        select(AssetEvent.attempt)
        .where(AssetEvent.asset_id == asset.id, AssetEvent.event == AssetTrigger.TRASHED)
        .order_by(AssetEvent.id.desc())
        .limit(1)
    )
    return await session.scalar(newest) or 0


async def forget_failures(session: AsyncSession, asset: Asset, last: int) -> None:
    """Deletes the events of a locked asset's failed attempts up to the number `last`."""
    events = (AssetTrigger.RETRIED, AssetTrigger.UPLOAD_FAILED)
    await session.execute(
        delete(AssetEvent).where(
            AssetEvent.asset_id == asset.id, AssetEvent.event.in_(events), AssetEvent.attempt <= last
        )
    )


async def attach_sidecars(session: AsyncSession, asset: Asset) -> None:
    """Copies thumbnail, names, description and tags from the asset's ready sidecars to its row. Sidecars of its name that were
    there before any such file are its own from now on."""
    waiting = await session.scalars(
        select(Asset)
        .where(
            Asset.stem == asset.stem,
            Asset.owner_user_id.is_not_distinct_from(asset.owner_user_id),
            Asset.type == asset.type,
            Asset.sidecar.is_not(None),
            Asset.main_id.is_(None),
        )
        .order_by(Asset.id)
        .with_for_update(key_share=True)
    )
    # The row itself before those that refer to it.
    await session.flush()
    for sidecar in waiting.all():
        give(asset, sidecar)
    await session.flush()
    # Uploaded ones last, which go before derived ones.
    rows = await session.scalars(
        select(Asset)
        .outerjoin(AssetObject, AssetObject.object_key == Asset.object_key)
        .where(Asset.main_id == asset.id, Asset.status == AssetStatus.READY, Asset.deleted_at.is_(None))
        .order_by(func.coalesce(AssetObject.origin != "derived", text("true")), Asset.created_at)
    )
    asset.thumbnail_key = asset.own_thumbnail_key = None
    meta: dict[str, Any] = {}
    for row in rows:
        if row.sidecar == Sidecar.THUMB:
            asset.thumbnail_key, asset.own_thumbnail_key = row.s3_key, row.wanted_key
        else:
            meta = row.meta
    own_tags = [tag for tag in asset.tags if tag not in meta_tags(asset.meta)]
    if not asset.description or asset.description == asset.meta.get("description"):
        asset.description = _text(meta.get("description"))
    asset.tags = list(dict.fromkeys([*own_tags, *meta_tags(meta)]))
    if not asset.named:
        asset.display_name = _name(meta.get("name")) or asset.title or asset.display_name
    asset.meta = meta


def give(main: Asset, sidecar: Asset) -> None:
    """Makes a sidecar that belongs to no file, or to none any more, that of `main`. Both are locked."""
    sidecar.main_id = main.id
    # Every suffix begins with its only underscore; what is before it may be a public key.
    sidecar.s3_key = f"{names.stem_of(main.s3_key)}_{sidecar.wanted_key.rpartition('_')[2]}"
    sidecar.stem = main.stem


async def refresh_main(session: AsyncSession, sidecar: Asset, actor: str | None) -> None:
    """Updates the asset that a changed sidecar belongs to."""
    if sidecar.main_id is None:
        return
    asset = await lock(session, sidecar.main_id)
    if asset is None:
        return
    await attach_sidecars(session, asset)
    await move(session, asset, AssetTrigger.EDITED, actor=actor, detail={"sidecar": sidecar.s3_key})


_ITEM_FIELDS = frozenset(
    {"id", "name", "url", "s3Key", "size", "type", "category", "mimeType", "visibility", "createdAt", "updatedAt"}
    | {"hasThumbnail", "thumbnail", "description", "duration"}
)
"""Fields of a list item that a `_meta.json` cannot set."""

NAME_LIMIT = 255
"""Most letters of a display name."""

TAG_LIMIT = 64
"""Most tags that a `_meta.json` adds, and most characters of one: tags are for filters, not for long texts."""


_PREFIXES = {"gender": "gender:", "identity": "identity:", "suggestedVoice": "voice:", "voice": "voice:"}
"""Prefixes of the tags of some fields, as studios read them."""


def meta_tags(meta: dict[str, Any]) -> list[str]:
    """Returns the short strings among a `_meta.json`'s values, in their order, which studios filter by."""
    found: dict[str, None] = {}
    for name, value in meta.items():
        if name in _ITEM_FIELDS:
            continue
        prefix = _PREFIXES.get(name, "")
        for tag in value if isinstance(value, list) else (value.values() if isinstance(value, dict) else [value]):
            if isinstance(tag, str) and 0 < len(tag) <= TAG_LIMIT:
                found[tag if tag.startswith(prefix) else prefix + tag] = None
    return list(found)[:TAG_LIMIT]


def _text(value: object) -> str:
    return value[:2000] if isinstance(value, str) else ""


def _name(value: object) -> str:
    """A display name, empty for what cannot be one."""
    text = value.strip() if isinstance(value, str) else ""
    return text if len(text) <= NAME_LIMIT and text.isprintable() else ""
