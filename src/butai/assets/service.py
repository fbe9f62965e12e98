"""The actions of owners and operators on an asset: edit, publish, trash, restore. Each function is one transaction.

The purge is in `purge`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit
from butai.assets import moderation, transitions
from butai.assets.access import editable
from butai.assets.models import Asset
from butai.assets.states import AssetTrigger
from butai.audit import Origin
from butai.database import Database
from butai.errors import TakenDown
from butai.identity import Caller
from butai.identity.suspensions import check_not_suspended


@dataclass(frozen=True, slots=True)
class Edit:
    """The fields to change; None leaves a field as it is."""

    display_name: str | None = None
    visibility: Literal["public", "private"] | None = None
    description: str | None = None
    tags: list[str] | None = None


async def edit(database: Database, caller: Caller, origin: Origin, asset_id: UUID, wanted: Edit) -> None:
    """Changes names and visibility. Public to private holds from the commit on: every read checks the row.

    Raises `AssetNotFound`, `Forbidden`; to public `TakenDown`, and `UserSuspended` for a suspended owner's.
    """
    async with database.transaction() as session:
        if wanted.visibility == "public":
            await moderation.lock_owner(session, asset_id)
        asset = await editable(session, caller, asset_id)
        publishes = wanted.visibility == "public" and asset.visibility != "public"
        if publishes:
            if asset.taken_down_at is not None:
                raise TakenDown
            await check_not_suspended(session, asset.owner_user_id)
        changes: dict[str, object] = {}
        for field in ("display_name", "visibility", "description", "tags"):
            value = getattr(wanted, field)
            if value is not None and value != getattr(asset, field):
                changes[field] = value
                setattr(asset, field, value)
        if wanted.visibility == "private":
            # Also for a file that an operator has hidden: its owner no longer wants it to be public.
            asset.public_again = False
        if wanted.display_name is not None:
            asset.named = True
        if wanted.visibility == "public" and caller.is_operator and asset.owner_user_id == caller.user_id:
            # Also of one that is public already, as operators' files from before there were names of the studio's own are.
            asset.of_studio = True
        if not changes:
            return
        if publishes:
            await moderation.check_public(session, asset)
        if asset.visibility == "public":
            asset.ever_public = True
        await transitions.move(
            session, asset, AssetTrigger.EDITED, actor=origin.actor, detail={"changed": sorted(changes)}
        )
        audit.record(session, origin, "asset.edit", f"asset:{asset.id}", detail=changes)


async def trash(database: Database, caller: Caller, origin: Origin, asset_id: UUID) -> None:
    """Removes an asset from every list and read; `restore` brings it back until the purge. Idempotent.

    Raises `AssetNotFound`, `Forbidden`.
    """
    async with database.transaction() as session:
        asset = await editable(session, caller, asset_id)
        if asset.deleted_at is not None:
            return
        asset.deleted_at = datetime.now(UTC)
        await transitions.move(session, asset, AssetTrigger.TRASHED, actor=origin.actor)
        audit.record(session, origin, "asset.trash", f"asset:{asset.id}")
        await _update_assets_of(session, asset, caller)


async def restore(database: Database, caller: Caller, origin: Origin, asset_id: UUID) -> None:
    """Restores an asset from the trash. Idempotent. Raises `AssetNotFound`, `Forbidden`."""
    async with database.transaction() as session:
        asset = await editable(session, caller, asset_id)
        if asset.deleted_at is None:
            return
        asset.deleted_at = None
        await transitions.move(session, asset, AssetTrigger.RESTORED, actor=origin.actor)
        audit.record(session, origin, "asset.restore", f"asset:{asset.id}")
        await _update_assets_of(session, asset, caller)


async def _update_assets_of(session: AsyncSession, asset: Asset, caller: Caller) -> None:
    if asset.sidecar is not None:
        await session.flush()
        await transitions.refresh_main(session, asset, caller.user_id)
