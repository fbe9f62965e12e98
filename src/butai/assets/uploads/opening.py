"""The beginning of an upload in the index: the asset's row, the object's line in the ledger, its share of the quota.

An upload is an *attempt* on an asset. It writes a new object that no reader knows; when that is complete, one
transaction points the row at it (`attempts.finish`). So a reader never gets half a file, and a crash at any moment
leaves either the old state or a line in the ledger by which the leftover is removed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import uuid_utils.compat as uuid
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit
from butai.assets import keys, ledger, names, transitions
from butai.assets.keys import AssetKey
from butai.assets.models import Asset
from butai.assets.states import AssetStatus, AssetTrigger
from butai.assets.storage.client import Store
from butai.assets.uploads import quotas
from butai.assets.uploads.attempts import UploadAttempt
from butai.assets.uploads.part_buffers import PartMemory
from butai.assets.uploads.targets import UploadTarget, find_own, find_target
from butai.audit import Origin
from butai.audit.erasure import is_retired
from butai.config import AssetSettings
from butai.database import Database
from butai.errors import TakenDown
from butai.identity.suspensions import check_not_suspended

KEPT_ATTEMPTS = 20
"""Failed attempts of a file, or up to twice as many, whose events and removed objects stay in the index: a client may try
as often as it likes, without one more file in its quota."""


@dataclass(frozen=True, slots=True)
class UploadTools:
    """The dependencies of uploads."""

    database: Database
    store: Store
    memory: PartMemory
    settings: AssetSettings


@dataclass(frozen=True, slots=True)
class Source:
    """The source of an object's bytes. `kind` is one of `models.ORIGINS`; until `lease` has passed without a renewal,
    its writer counts as alive. `size` (bytes) and `sha256` are the sender's declaration; without a size, at most `most`
    bytes are reserved. `writable`: the time for which a URL of the store may write the object."""

    kind: str
    lease: timedelta
    size: int | None = None
    sha256: str | None = None
    most: int | None = None
    writable: timedelta | None = None


async def open_upload(
    session: AsyncSession,
    tools: UploadTools,
    user_id: str,
    origin: Origin,
    key: AssetKey | None,
    source: Source,
    *,
    operator: bool = False,
) -> tuple[UploadAttempt, Asset | None]:
    """Begins an upload by a user: the row `uploading`, the object in the ledger, the declared size in the quota.

    The attempt's key is the wanted key of the row, which `key` may be another name of. `key` is None where it comes after the
    bytes: the object then belongs to no asset, and counts for no quota, until `name_upload`. Raises `UserSuspended`,
    `TakenDown`, `QuotaExceeded`, and as `find_target` does.
    """
    await check_not_suspended(session, user_id)
    attempt = UploadAttempt(keys.mint_object_key(tools.store.prefix))
    if key is None:
        await write_down(session, attempt, source)
        return attempt, None
    await quotas.hold(session, tools.settings, user_id)
    target = await find_target(session, user_id, key, operator=operator, reserved=tools.settings.reserved_keys)
    asset = await begin(session, target, attempt, tools.settings, origin, operator=operator)
    if source.size is None and source.most is not None:
        source = replace(source, size=await quotas.room(session, tools.settings, user_id, asset, source.most))
    await write_down(session, attempt, source)
    await quotas.check_open(session, tools.settings, user_id)
    await quotas.check(session, tools.settings, user_id)
    return attempt, asset


async def name_upload(
    session: AsyncSession,
    tools: UploadTools,
    user_id: str,
    origin: Origin,
    key: AssetKey,
    attempt: UploadAttempt,
    *,
    size: int,
    operator: bool = False,
) -> None:
    """Begins the asset of an upload whose `size` bytes came before its key. Raises as `open_upload` does; then there
    is no asset."""
    await check_not_suspended(session, user_id)
    await quotas.hold(session, tools.settings, user_id)
    target = await find_target(session, user_id, key, operator=operator, reserved=tools.settings.reserved_keys)
    asset = await begin(session, target, attempt, tools.settings, origin, operator=operator)
    await ledger.assign(session, attempt.object_key, asset.id, attempt.number)
    await quotas.check_open(session, tools.settings, user_id)
    await quotas.settle(session, tools.settings, user_id, attempt.object_key, size)


async def write_down(session: AsyncSession, attempt: UploadAttempt, source: Source) -> None:
    """Records an attempt's object in the ledger, before anything can be stored under its key."""
    await ledger.open_object(
        session,
        attempt.object_key,
        source.kind,
        source.lease,
        asset_id=attempt.asset_id,
        attempt=attempt.number,
        size=source.size,
        sha256=source.sha256,
        writable=source.writable,
    )


async def begin(
    session: AsyncSession,
    target: UploadTarget,
    attempt: UploadAttempt,
    settings: AssetSettings,
    origin: Origin,
    *,
    operator: bool = False,
) -> Asset:
    """Returns the row of an upload's target, locked, with one attempt more: an existing row, or a new one. Fills `attempt`.

    Raises `TakenDown`. Without an owner the caller must hold a lock of its own where two may begin the same key.
    """
    asset, event = target.asset, AssetTrigger.RETRIED
    if asset is None:
        asset, created = await _create(session, target, settings)
        event = AssetTrigger.CREATED if created else event
    if asset.taken_down_at is not None:
        raise TakenDown("An operator has taken the file of this key down")
    if event is not AssetTrigger.CREATED and asset.status in (AssetStatus.READY, AssetStatus.MISSING):
        event = AssetTrigger.REPLACING
    if operator:
        asset.of_studio = True
    asset.attempts += 1
    attempt.asset_id, attempt.number, attempt.key = asset.id, asset.attempts, target.key
    await transitions.move(session, asset, event, actor=origin.actor, new=event is AssetTrigger.CREATED)
    detail = {"key": target.key.text, "attempt": attempt.number}
    if event is AssetTrigger.RETRIED:
        if asset.attempts % KEPT_ATTEMPTS == 0:
            await transitions.forget_failures(session, asset, asset.attempts - KEPT_ATTEMPTS)
            await ledger.forget_removed(session, asset.id, asset.attempts - KEPT_ATTEMPTS)
        await audit.count(session, origin, "asset.upload", None, result="ok", detail={"asset": str(asset.id), **detail})
    else:
        audit.record(session, origin, "asset.upload", f"asset:{asset.id}", detail=detail)
    return asset


async def _create(session: AsyncSession, target: UploadTarget, settings: AssetSettings) -> tuple[Asset, bool]:
    """Returns the row of a target that had none, and whether it is new."""
    key, main = target.key, target.main
    # A sidecar is named after its asset's public key, where clients look for it.
    public_key = names.mint(key) if main is None else names.sidecar_key(names.stem_of(main.s3_key), key)
    while True:
        while await is_retired(session, "asset", public_key):
            public_key = names.mint(key)
        asset_id = uuid.uuid7()
        made = await session.execute(
            insert(Asset)
            .values(
                id=asset_id,
                type=key.kind,
                sidecar=key.sidecar,
                s3_key=public_key,
                wanted_key=key.text,
                stem=key.stem if main is None else main.stem,
                main_id=None if main is None else main.id,
                title=key.name,
                display_name=key.name,
                mime_type=key.format.mime,
                status=AssetStatus.UPLOADING,
                owner_user_id=target.owner,
                visibility=settings.default_visibility,
                ever_public=settings.default_visibility == "public",
                change_seq=0,
            )
            .on_conflict_do_nothing()
            .returning(Asset.id)
        )
        if made.scalar_one_or_none():
            asset = await transitions.lock(session, asset_id)
            assert asset is not None
            return asset, True
        # Either this user began the same key at the same moment, or another row has the public key.
        if (own := await find_own(session, target.owner, key)) is not None:
            return own, False
        public_key = names.mint(key)
