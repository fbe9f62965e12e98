"""Finds the row that an upload writes: by the key that its owner asked for, or by a public key of their own.

A public key of another user's, and a tag that was never given out, are dropped: the upload is the user's own. Operators may write
the rows without an owner, the studio's own files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets import keys, names, transitions
from butai.assets.keys import AssetKey
from butai.assets.kinds import FORMATS
from butai.assets.models import Asset, AssetObject, PlainName
from butai.assets.names import Companion
from butai.assets.states import AssetStatus
from butai.errors import Forbidden


@dataclass(frozen=True, slots=True)
class UploadTarget:
    """Where an upload goes: the wanted key, its owner, the row of that key, locked, where there is one, and the file that a
    sidecar belongs to, where that is there."""

    key: AssetKey
    owner: str | None
    asset: Asset | None = None
    main: Asset | None = None


async def find_target(
    session: AsyncSession, user_id: str, key: AssetKey, *, operator: bool, reserved: Sequence[str]
) -> UploadTarget:
    """Returns where a user's upload under a key goes. Raises `Forbidden` for a sidecar of a public file that is not the
    caller's, and `KeyInvalid`."""
    owners = (user_id, None) if operator else (user_id,)
    if key.sidecar is not None:
        return await _of_sidecar(session, owners, key, reserved)
    if names.is_public(key.text):
        own = await session.scalar(_locked().where(Asset.s3_key == key.text))
        if own is not None and own.owner_user_id in owners:
            return UploadTarget(keys.parse(own.wanted_key), own.owner_user_id, own)
        key = keys.parse(names.plain(key.text))
    for owner in owners:
        if (asset := await find_own(session, owner, key)) is not None:
            return UploadTarget(key, owner, asset)
    return UploadTarget(key, user_id)


def _locked() -> Select[Asset]:
    return select(Asset).with_for_update(key_share=True)


async def find_own(session: AsyncSession, owner: str | None, key: AssetKey) -> Asset | None:
    """Returns an owner's row of a wanted key, locked."""
    return await session.scalar(
        _locked().where(Asset.owner_user_id.is_not_distinct_from(owner), Asset.wanted_key == key.text)
    )


async def _of_sidecar(
    session: AsyncSession, owners: Iterable[str | None], key: AssetKey, reserved: Sequence[str]
) -> UploadTarget:
    main = None
    by_tag = names.is_public(key.text)
    if by_tag:
        beside = await session.scalar(select(Asset).where(Asset.s3_key.in_(_files_beside(key))))
        if beside is not None and beside.owner_user_id in owners:
            main = beside
        elif beside is not None and _is_shown(beside):
            raise Forbidden("The file that this belongs to is another user's")
        else:
            key, by_tag = keys.parse(names.plain(key.text)), False
    owners = list(owners)
    for owner in owners:
        main = main or await _main_of(session, owner, key)
    if main is None:
        await _check_not_of_another(session, owners, key, reserved)
        return UploadTarget(key, owners[0], await find_own(session, owners[0], key))
    return await sidecar_target(session, main, key, by_tag=by_tag)


def _files_beside(key: AssetKey) -> list[str]:
    endings = [ending for known in FORMATS[key.kind] for ending in (known, known.upper())]
    return [f"{key.stem}.{ending}" for ending in endings]


def _is_shown(asset: Asset) -> bool:
    return (asset.visibility, asset.status, asset.deleted_at) == ("public", AssetStatus.READY, None)


async def _main_of(session: AsyncSession, owner: str | None, key: AssetKey) -> Asset | None:
    """The owner's file that a sidecar's plain key names."""
    found = await session.scalars(
        select(Asset).where(
            Asset.stem == key.stem,
            Asset.type == key.kind,
            Asset.owner_user_id.is_not_distinct_from(owner),
            Asset.sidecar.is_(None),
        )
    )
    files = found.all()
    if len(files) < 2:
        return next(iter(files), None)
    kinds = await session.execute(
        select(Asset.main_id, AssetObject.origin)
        .outerjoin(AssetObject, AssetObject.object_key == Asset.object_key)
        .where(Asset.main_id.in_([each.id for each in files]), Asset.sidecar == key.sidecar, Asset.deleted_at.is_(None))
    )
    has: dict[object, names.Picture] = {}
    for main_id, origin in kinds:
        if has.get(main_id) != "uploaded":
            has[main_id] = "derived" if origin == "derived" else "uploaded"
    return min(
        files,
        key=lambda each: names.precedence(
            Companion(
                each.deleted_at is None, each.visibility == "private", has.get(each.id), each.created_at.timestamp()
            )
        ),
    )


async def _check_not_of_another(
    session: AsyncSession, owners: Sequence[str | None], key: AssetKey, reserved: Sequence[str]
) -> None:
    """Raises `Forbidden` when the plain name that a sidecar's key goes with is another's public file."""
    found = await session.execute(
        select(Asset, PlainName.name, PlainName.of_studio)
        .join(Asset, Asset.id == PlainName.asset_id)
        .where(PlainName.stem == key.stem, PlainName.type == key.kind)
    )
    for asset, name, of_studio in found:
        counts = of_studio or not names.is_reserved(name, reserved)
        if counts and asset.owner_user_id not in owners and _is_shown(asset):
            raise Forbidden("The file that this belongs to is another user's: upload a file of that name first")


async def sidecar_target(session: AsyncSession, main: Asset, key: AssetKey, *, by_tag: bool = False) -> UploadTarget:
    """Returns the row of a sidecar of `main` with the suffix that `key` has: that of its plain key, or of the one that is named
    after the public key where another file has the plain one. `by_tag`: the client named it by that."""
    plain = names.sidecar_key(main.stem, key)
    tagged = names.sidecar_key(names.stem_of(main.s3_key), key)
    found = await session.scalars(
        _locked()
        .where(Asset.owner_user_id.is_not_distinct_from(main.owner_user_id), Asset.wanted_key.in_((plain, tagged)))
        .order_by(Asset.id)
    )
    rows = {row.wanted_key: row for row in found.all()}
    for text in (plain, tagged):
        if text in rows and rows[text].main_id == main.id:
            return UploadTarget(keys.parse(text), main.owner_user_id, rows[text], main)
    other = rows.get(plain)
    if other is None:
        return UploadTarget(keys.parse(plain), main.owner_user_id, None, main)
    if other.main_id is None:
        transitions.give(main, other)
        return UploadTarget(keys.parse(plain), main.owner_user_id, other, main)
    if by_tag:
        return UploadTarget(keys.parse(tagged), main.owner_user_id, None, main)
    # The name is for what was sent under it: the other file keeps its picture under its own public name.
    owner_of_it = await transitions.lock(session, other.main_id)
    if owner_of_it is not None:
        other.wanted_key = names.sidecar_key(names.stem_of(owner_of_it.s3_key), key)
        await session.flush()
        await transitions.refresh_main(session, other, None)
    return UploadTarget(keys.parse(plain), main.owner_user_id, None, main)
