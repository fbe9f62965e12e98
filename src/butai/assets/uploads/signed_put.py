"""Signed PUTs to the API itself, for uploads whose size is unknown: no store limits the length of what it is sent then.

The address is the credential: it names one attempt, works once, and expires. Its signature is made with a key that is
derived from the store's secret, which every API process has.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import select

from butai.assets import keys, ledger
from butai.assets.kinds import size_limit
from butai.assets.models import Asset
from butai.assets.storage.client import Store
from butai.assets.uploads import quotas
from butai.assets.uploads.attempts import StoredObject, UploadAttempt, checked
from butai.assets.uploads.opening import UploadTools
from butai.assets.uploads.streaming import carry_out, store_chunks
from butai.audit import Origin, actors
from butai.errors import FileTooLarge, Forbidden, UploadInterrupted
from butai.identity.suspensions import check_not_suspended

PATH = "/api/s3/presigned-upload"

SIGNATURE = "X-Amz-Signature"

_RESERVED = "which is what was reserved for it: ask for another address with the file's size"
"""The parameter of the signature, named as in a store's URLs, so that filters of logs that know those know this one."""


def signed_path(store: Store, asset_id: UUID, attempt: int, expires: int) -> str:
    """Returns the path and query to which one attempt's bytes may be sent until `expires`, in Unix seconds."""
    signature = _signature(store, asset_id, attempt, expires)
    return f"{PATH}/{asset_id}/{attempt}?expires={expires}&{SIGNATURE}={signature}"


def check_signature(store: Store, asset_id: UUID, attempt: int, expires: str, signature: str) -> None:
    """Checks an address as it was sent. Raises `Forbidden` when it has expired, or was not made by `signed_path`."""
    known = expires.isascii() and expires.isdigit() and len(expires) < 12
    if not known or not hmac.compare_digest(
        _signature(store, asset_id, attempt, int(expires)).encode(), signature.encode(errors="replace")
    ):
        raise Forbidden("The signature of this address is wrong")
    if int(expires) < time.time():
        raise Forbidden("This address has expired")


def _signature(store: Store, asset_id: UUID, attempt: int, expires: int) -> str:
    secret = store.settings.secret_access_key.get_secret_value().encode()
    key = hmac.digest(secret, b"butai signed put", "sha256")
    return hmac.digest(key, f"{asset_id}\n{attempt}\n{expires}".encode(), "sha256").hex()


async def receive_put(
    tools: UploadTools, origin: Origin, asset_id: UUID, number: int, length: int | None, chunks: AsyncIterator[bytes]
) -> StoredObject:
    """Takes the bytes of a signed PUT, and makes the asset ready. `length`: the declared bytes of the body.

    The address is used up by the first call, whatever becomes of it. Raises `UploadInterrupted` for one that is,
    `UserSuspended`, and any error of an upload; its code is in the row, too.
    """
    lease = datetime.now(UTC) + timedelta(seconds=tools.settings.upload_lease)
    async with tools.database.transaction() as session:
        owner = await session.scalar(select(Asset.owner_user_id).where(Asset.id == asset_id))
        await check_not_suspended(session, owner)
        line = await ledger.begin_put(session, asset_id, number, lease)
        asset = await session.get(Asset, asset_id)
        if line is None or asset is None:
            raise UploadInterrupted("This address was used, or its upload has ended; ask for another one")
        user_id, object_key, sha256 = asset.owner_user_id, line.object_key, line.declared_sha256
        reserved = line.declared_size
        key = keys.parse(asset.wanted_key)
    attempt = UploadAttempt(object_key, asset_id, number, key)
    limit = size_limit(tools.settings, key.kind, key.sidecar)

    async def transfer() -> StoredObject:
        if length is not None:
            if length > limit:
                raise FileTooLarge(f"{length} bytes were declared; {limit} is the most for this kind")
            async with tools.database.transaction() as session:
                if user_id is not None:
                    await quotas.settle(session, tools.settings, user_id, object_key, length)
        # Nothing else bounds a body of unknown length by what was reserved for it.
        most = limit if length is not None or reserved is None else min(limit, reserved)
        why = _RESERVED if most < limit else "the most for this kind"
        return checked(await store_chunks(tools, attempt, key, chunks, most, why=why), key, limit, sha256)

    if user_id is not None:
        origin = replace(origin, actor=actors.user(user_id))
    _, stored = await carry_out(tools, user_id, origin, attempt, transfer)
    return stored
