"""Who may change an asset: its owner, and operators."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets import transitions
from butai.assets.models import Asset
from butai.errors import AssetNotFound, Forbidden
from butai.identity import Caller


async def editable(session: AsyncSession, caller: Caller, asset_id: UUID) -> Asset:
    """Returns the row, locked, for its owner or an operator. Raises `Forbidden` for a public asset of another user, and
    `AssetNotFound` for any other: its existence is not disclosed."""
    asset = await transitions.lock(session, asset_id)
    if asset is None:
        raise AssetNotFound
    if caller.is_operator or (asset.owner_user_id is not None and asset.owner_user_id == caller.user_id):
        return asset
    if asset.visibility == "public" and asset.deleted_at is None:
        raise Forbidden
    raise AssetNotFound
