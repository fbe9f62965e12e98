"""Uploads by a signed URL: the client sends the bytes, and may then report them as sent.

With a declared size the URL is the store's, and the bytes bypass this service: their beginning is read back and
checked, and their SHA-256 is made by a job. The sweep completes or gives up an upload that its client never reports.
Without a size the URL is this service's own (`signed_put`): a store would take any length.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from butai import jobs
from butai.assets import keys, ledger, moderation
from butai.assets.keys import AssetKey
from butai.assets.kinds import HEAD_BYTES, META_LIMIT, Sidecar, parse_meta, size_limit
from butai.assets.models import Asset, AssetObject
from butai.assets.object_states import ObjectState, ObjectTrigger
from butai.assets.storage.client import ObjectAbsent, RangeRefused, Store
from butai.assets.uploads import quotas
from butai.assets.uploads.attempts import StoredObject, UploadAttempt, checked, fail, finish
from butai.assets.uploads.opening import Source, UploadTools, open_upload, write_down
from butai.assets.uploads.signed_put import signed_path
from butai.audit import Origin, actors
from butai.errors import (
    AssetNotFound,
    AssetNotReady,
    ButaiError,
    FileTooLarge,
    QuotaExceeded,
    SignatureMismatch,
    StoreAccessDenied,
    TakenDown,
    UploadCancelled,
    UploadInterrupted,
    UploadRefused,
)
from butai.identity.suspensions import hold_suspension

LONGEST_TRANSFER = timedelta(minutes=15)
"""A transfer that began in the URL's last second may continue for this long: 200 MiB at 233 KB/s. No store ends a
slower one, so `ledger.LAST_LOOK` removes what arrives even later."""

BEGIN_GRACE = timedelta(seconds=10)
"""A PUT to this service that began in its address's last second has its own lease by then."""

COPY_LEASE = timedelta(minutes=10)
"""A copy within the store takes seconds; after this its process counts as dead."""

CLAIM = timedelta(minutes=2)
"""Time for which one request or sweep has an arrived object to itself: the store's time-outs for checking and copying
it, together. Its process counts as dead afterwards."""

PATIENCE = 20.0
"""Seconds for which a client's report waits while another one is completing the same upload."""


@dataclass(frozen=True, slots=True)
class SignedUpload:
    """A signed PUT. `url` is absolute, or a path of this service; `headers` must be sent with exactly these values, or the
    store refuses; `expires_in` is in seconds."""

    asset_id: UUID
    wanted_key: str
    url: str
    headers: dict[str, str]
    expires_in: int


class Arrival(Enum):
    """What `settle` found: the attempt is finished; the store does not have the object; or another request or sweep is
    completing the upload."""

    COMPLETED = auto()
    ABSENT = auto()
    CLAIMED = auto()


async def sign_upload(
    tools: UploadTools,
    user_id: str,
    origin: Origin,
    key: AssetKey,
    size: int | None,
    sha256: str | None,
    *,
    operator: bool = False,
) -> SignedUpload:
    """Begins an upload and signs a URL that may write its object.

    A declared `size` alone is signed: the store enforces it. It compares no `sha256`, so with one, as without a size, the
    address is this service's own. Without a size, the limit of the file's type is reserved in the quota, or what is left
    of it. Raises `FileTooLarge`, `QuotaExceeded`.
    """
    limit = size_limit(tools.settings, key.kind, key.sidecar)
    if size is not None and size > limit:
        raise FileTooLarge(f"{size} bytes were declared; {limit} is the most for this kind")
    expires = tools.settings.presigned_expiry
    at_store = size is not None and sha256 is None
    if at_store:
        writable = timedelta(seconds=expires) + LONGEST_TRANSFER
        source = Source("signed", writable, size=size, writable=writable)
    else:
        source = Source("upload", timedelta(seconds=expires) + BEGIN_GRACE, size=size, sha256=sha256, most=limit)
    async with tools.database.transaction() as session:
        attempt, asset = await open_upload(session, tools, user_id, origin, key, source, operator=operator)
        assert asset is not None
    if not at_store:
        path = signed_path(tools.store, asset.id, attempt.number, int(time.time()) + expires)
        return SignedUpload(asset.id, asset.wanted_key, path, {}, expires)
    # The type is not signed: browsers choose it freely, and the asset's type comes from the key.
    headers = {"Content-Length": str(size)}
    url = tools.store.sign("PUT", attempt.object_key, expires=expires, headers=headers, public=True)
    return SignedUpload(asset.id, asset.wanted_key, url, headers, expires)


async def complete(tools: UploadTools, user_id: str, origin: Origin, asset_id: UUID, *, operator: bool = False) -> None:
    """Completes a signed upload that its client reports as sent. Idempotent.

    Raises `AssetNotReady` while the bytes have not arrived, `UploadRefused` or `QuotaExceeded` when they are or were
    refused, `AssetNotFound` for another user's asset, `UploadInterrupted` when the upload was given up, or its asset put
    into the trash.
    """
    loop = asyncio.get_running_loop()
    patience = loop.time() + PATIENCE
    while True:
        async with tools.database.transaction() as session:
            # The asset last: it shows how each attempt ended that is not among these any more.
            coming = (
                await session.scalars(
                    select(AssetObject)
                    .where(
                        AssetObject.asset_id == asset_id,
                        AssetObject.origin.in_(("signed", "upload")),
                        AssetObject.state == ObjectState.WRITING,
                    )
                    .order_by(AssetObject.attempt.desc())
                )
            ).all()
            mine = Asset.owner_user_id == user_id
            own = mine | Asset.owner_user_id.is_(None) if operator else mine
            asset = await session.scalar(select(Asset).where(Asset.id == asset_id, own))
            if asset is None:
                raise AssetNotFound
            row = next((one for one in coming if one.origin == "signed"), None)
            if row is None:
                if coming:
                    raise AssetNotReady("The file has not arrived yet")
                if asset.status == "ready":
                    return
                raise _recorded(asset)
        arrival = await settle(tools, row, asset, origin.actor, origin)
        if arrival is Arrival.COMPLETED:
            return
        if arrival is Arrival.ABSENT:
            raise AssetNotReady("The store does not have the file yet")
        if loop.time() > patience:
            raise AssetNotReady("The file is being checked; ask again in a few seconds")
        await asyncio.sleep(0.1)


def _recorded(asset: Asset) -> ButaiError:
    """Returns the refusal that ended the asset's last attempt, or that it was interrupted."""
    kinds: list[type[ButaiError]] = [QuotaExceeded, TakenDown, UploadCancelled, *UploadRefused.__subclasses__()]
    kind = next((kind for kind in kinds if kind.code == asset.error_code), UploadInterrupted)
    return kind(asset.error_detail)


async def settle(
    tools: UploadTools, row: AssetObject, asset: Asset, actor: str | None, origin: Origin | None
) -> Arrival:
    """Claims an attempt's object, checks it, and finishes or fails the attempt.

    Raises `UploadRefused` for bytes that are not the declared ones, `QuotaExceeded`.
    """
    until = datetime.now(UTC) + CLAIM
    async with tools.database.transaction() as session:
        if not await ledger.claim_arrival(session, row.object_key, until):
            return Arrival.CLAIMED
    try:
        completed = await _settle_claimed(tools, row, asset, actor, origin)
    finally:
        async with tools.database.transaction() as session:
            await ledger.unclaim_arrival(session, row.object_key, until)
    return Arrival.COMPLETED if completed else Arrival.ABSENT


async def _settle_claimed(
    tools: UploadTools, row: AssetObject, asset: Asset, actor: str | None, origin: Origin | None
) -> bool:
    """Returns False when the store does not have the object.

    The object is copied first, and the copy is checked and kept: a holder of the URL could otherwise change the bytes
    after the check.
    """
    key = keys.parse(asset.wanted_key)
    attempt = UploadAttempt(row.object_key, asset.id, row.attempt, key)
    limit = size_limit(tools.settings, key.kind, key.sidecar)
    copy = UploadAttempt(keys.mint_object_key(tools.store.prefix))
    try:
        facts = await tools.store.head(row.object_key)
        if facts.size > limit:
            raise FileTooLarge(f"The file has {facts.size} bytes; {limit} is the most for this kind")
        async with tools.database.transaction() as session:
            await write_down(session, copy, Source("upload", COPY_LEASE))
        await tools.store.copy(row.object_key, copy.object_key)
        stored = checked(
            await _look(tools.store, copy.object_key, key), key, limit, row.declared_sha256, row.declared_size
        )
    except (ObjectAbsent, StoreAccessDenied):
        # AWS answers "denied" for "absent" to those who may not list.
        return False
    except UploadRefused as error:
        await _refuse(tools, attempt, copy, error, actor, origin)
        raise
    copied = UploadAttempt(copy.object_key, asset.id, row.attempt, key)
    try:
        async with tools.database.transaction() as session:
            if asset.owner_user_id is not None:
                await quotas.settle(session, tools.settings, asset.owner_user_id, row.object_key, stored.size)
            await finish(session, copied, stored, actor=actor, origin=origin)
            await ledger.condemn(session, row.object_key, ObjectTrigger.COPIED)
            args = {"asset_id": str(asset.id), "object_key": copy.object_key}
            await jobs.enqueue(
                session, moderation.HASH_OBJECT, args, turn=f"{moderation.HASH_OBJECT}:{asset.owner_user_id or ''}"
            )
    except (QuotaExceeded, TakenDown, UploadCancelled) as error:
        await _refuse(tools, attempt, copy, error, actor, origin)
        raise
    return True


async def _refuse(
    tools: UploadTools,
    attempt: UploadAttempt,
    copy: UploadAttempt,
    error: ButaiError,
    actor: str | None,
    origin: Origin | None,
) -> None:
    async with tools.database.transaction() as session:
        await fail(session, attempt, error, actor=actor, origin=origin)
        await fail(session, copy, error, actor=actor)


async def _look(store: Store, object_key: str, key: AssetKey) -> StoredObject:
    facts = await store.head(object_key)
    wanted = META_LIMIT if key.sidecar is Sidecar.META and facts.size <= META_LIMIT else HEAD_BYTES
    try:
        head = await store.read(object_key, 0, wanted) if facts.size else b""
    except RangeRefused as error:
        raise ObjectAbsent from error
    if facts.coding:
        # The store keeps this header of the sender's, and nginx would pass it on to readers.
        raise SignatureMismatch(f"The object has the Content-Encoding {facts.coding}: send the bytes as they are")
    meta = parse_meta(head) if key.sidecar is Sidecar.META and facts.size <= META_LIMIT else None
    return StoredObject(facts.size, None, facts.etag, head[:HEAD_BYTES], meta)


async def write_hash(session: AsyncSession, asset_id: UUID, object_key: str, sha256: str) -> None:
    """Writes a SHA-256 that was made after the upload, and makes public what waited for it; no-op when the asset has
    another object by now."""
    await moderation.lock_owner(session, asset_id)
    written = await session.execute(
        update(Asset)
        .where(Asset.id == asset_id, Asset.object_key == object_key)
        .values(sha256=sha256)
        .returning(Asset.owner_user_id)
    )
    owner = written.scalar_one_or_none()
    if owner is not None and await hold_suspension(session, owner) is None:
        await moderation.show_of(session, owner, 1000, actors.WORKER)
