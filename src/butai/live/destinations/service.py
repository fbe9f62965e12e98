"""Saved destinations of users, and the targets that outputs are made from.

A stream key is accepted once and never returned: it is stored sealed, and shown as a fingerprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from butai import audit
from butai.audit import Origin
from butai.config import LiveSettings
from butai.errors import Conflict, DestinationNotFound, InvalidDestination, SecretKeyInvalid
from butai.identity import Caller
from butai.identity.suspensions import check_not_suspended
from butai.live.destinations.pasted import DestinationValues, changed, check_label, refused_as_destination, separated
from butai.live.models import Destination, Output
from butai.live.stage import Stage, Turns
from butai.live.stream_keys import SealBroken
from butai.relay.rtmp.addresses import AddressInvalid, parse
from butai.relay.rtmp.connection import Target
from butai.relay.rtmp.hidden import from_whole_url
from butai.relay.rtmp.preflight import Step, bandwidth_test, check
from butai.relay.rtmp.resolver import refusal
from butai.relay.timing import Limits, hurried

log = structlog.get_logger(__name__)

_BATCH = 100
"""Rows that are sealed again in one transaction."""

ENVIRONMENT = UUID(int=0)
"""The subject for which the environment's stream keys are sealed into outputs."""

MOST_DESTINATIONS = 200
"""Destinations of one user; their list is not paged."""
MOST_TESTS = 4
"""Tests of one user that are under way or wait: both platforms with their backup addresses."""


@dataclass(frozen=True, slots=True)
class OutputTarget:
    """The target of an output: a saved destination, or the environment's default (`destination_id` None)."""

    destination_id: UUID | None
    platform: str
    label: str
    ingest_url: str
    backup_ingest_url: str | None
    sealed_key: bytes
    key_fingerprint: str


async def create(stage: Stage, caller: Caller, origin: Origin, platform: str, wanted: DestinationValues) -> Destination:
    """Saves a destination of the caller. Raises `InvalidDestination`, `SecretKeyInvalid`, and `Conflict` beyond
    `MOST_DESTINATIONS`."""
    assert caller.user_id is not None
    default, backup = _defaults(stage.settings, platform)
    backup_url = wanted.backup_ingest_url or (backup if not wanted.ingest_url and not wanted.clear_backup else None)
    with refused_as_destination():
        given, key = from_whole_url(wanted.ingest_url, wanted.stream_key or "", default)
        url = given or default
        if not url:
            raise InvalidDestination("A custom destination needs its ingest_url")
        fields = separated(platform, url, backup_url, key)
        assert fields.secret is not None, "a new one has yet to be sealed"
        check_label(wanted.label or "", fields.secret)
    for one in filter(None, (url, backup_url)):
        await check_url(stage.settings, one)
    made = uuid7()
    destination = Destination(
        id=made,
        owner_user_id=caller.user_id,
        platform=platform,
        label=wanted.label or "",
        ingest_url=fields.url,
        backup_ingest_url=fields.backup_url,
        sealed_key=stage.sealer.seal(fields.secret, made),
        key_fingerprint=stage.sealer.fingerprint(fields.secret),
    )
    async with stage.database.transaction() as session:
        await check_not_suspended(session, caller.user_id)
        mine = select(func.count()).where(Destination.owner_user_id == caller.user_id, Destination.deleted_at.is_(None))
        if (await session.scalar(mine) or 0) >= MOST_DESTINATIONS:
            raise Conflict(f"A user has at most {MOST_DESTINATIONS} destinations; delete one first")
        session.add(destination)
        _record(session, origin, "live.destination_made", destination)
        await session.flush()
        await session.refresh(destination)
    return destination


async def listed(stage: Stage, caller: Caller) -> Sequence[Destination]:
    """The caller's destinations, newest first."""
    async with stage.database.transaction() as session:
        found = await session.scalars(
            select(Destination)
            .where(Destination.owner_user_id == caller.user_id, Destination.deleted_at.is_(None))
            .order_by(Destination.created_at.desc(), Destination.id.desc())
        )
        return found.all()


async def get(stage: Stage, caller: Caller, destination_id: UUID) -> Destination:
    """One of the caller's destinations. Raises `DestinationNotFound`."""
    async with stage.database.transaction() as session:
        return await _own(session, caller, destination_id)


async def change(
    stage: Stage, caller: Caller, origin: Origin, destination_id: UUID, wanted: DestinationValues
) -> Destination:
    """Changes a destination. A running attempt keeps the values that it began with, the next one takes the new ones.

    A URL on another host needs the stream key again. Otherwise a stolen session could send a key, which it cannot read,
    to a server of its own. Raises `DestinationNotFound`, `InvalidDestination`, `SecretKeyInvalid`.
    """
    for url in filter(None, (wanted.ingest_url, wanted.backup_ingest_url)):
        await check_url(stage.settings, url)
    async with stage.database.transaction() as session:
        destination = await _own(session, caller, destination_id, lock=True)
        if wanted.stream_key is None and not _hosts_known(stage.settings, destination, wanted):
            raise InvalidDestination("Another host needs the stream key again: send stream_key with it")
        to_check = wanted.label is not None
        if wanted.label is not None:
            destination.label = wanted.label
        if wanted.changes_target:
            with refused_as_destination():
                fields = changed(stage.sealer, destination, wanted)
            destination.ingest_url, destination.backup_ingest_url = fields.url, fields.backup_url
            if fields.secret is not None:
                to_check = True
                destination.sealed_key = stage.sealer.seal(fields.secret, destination.id)
                destination.key_fingerprint = stage.sealer.fingerprint(fields.secret)
        if to_check:
            with refused_as_destination(), suppress(SealBroken):
                check_label(destination.label, stage.sealer.open(destination.sealed_key, destination.id))
        destination.updated_at = func.now()
        _record(session, origin, "live.destination_changed", destination)
        await session.flush()
        await session.refresh(destination)
    return destination


async def delete(stage: Stage, caller: Caller, origin: Origin, destination_id: UUID) -> None:
    """Hides a destination and erases its key. Raises `DestinationNotFound`."""
    async with stage.database.transaction() as session:
        destination = await _own(session, caller, destination_id, lock=True)
        destination.deleted_at = func.now()
        destination.sealed_key = b""
        _record(session, origin, "live.destination_deleted", destination)


async def test(stage: Stage, caller: Caller, origin: Origin, destination_id: UUID) -> list[Step]:
    """Tries to reach a destination, step by step up to the first that fails. For Twitch the key is tested as well, by a
    publish that is not shown. No transaction is open meanwhile. A user's tests take turns in this process: each takes up to
    40 s. Raises `DestinationNotFound`, `SecretKeyInvalid`, and `Conflict` when `MOST_TESTS` are under way or wait."""
    assert caller.user_id is not None
    turns = stage.testing.setdefault(caller.user_id, Turns())
    if turns.asked >= MOST_TESTS:
        raise Conflict("Several tests of yours are under way; wait until they have ended")
    turns.asked += 1
    try:
        async with turns.lock:
            return await _test(stage, caller, origin, destination_id)
    finally:
        turns.asked -= 1
        if not turns.asked:
            del stage.testing[caller.user_id]


async def _test(stage: Stage, caller: Caller, origin: Origin, destination_id: UUID) -> list[Step]:
    async with stage.database.transaction() as session:
        destination = await _own(session, caller, destination_id)
    try:
        key = stage.sealer.open(destination.sealed_key, destination.id)
    except SealBroken as error:
        raise SecretKeyInvalid(f"The stream key cannot be opened, {error}; or save it again") from None
    target = Target(destination.ingest_url, key, stage.settings.allow_private_ingest)
    twitch = destination.platform == "twitch"
    limits = Limits()
    steps = await check(
        bandwidth_test(target) if twitch else target, publish=twitch, limits=hurried(limits) if twitch else limits
    )
    async with stage.database.transaction() as session:
        failed = next((step.code for step in steps if not step.ok), None)
        _record(session, origin, "live.destination_tested", destination, error_code=failed)
    return steps


async def targets_of(
    session: AsyncSession, stage: Stage, owner: str, platforms: Sequence[str], ids: Sequence[UUID]
) -> dict[str | UUID, OutputTarget | None]:
    """The target of each platform and destination id, None where there is none.

    A platform's target is the owner's newest destination for it, otherwise the environment's default.
    """
    found: dict[str | UUID, OutputTarget | None] = {}
    if ids:
        rows = await session.scalars(
            select(Destination).where(
                Destination.id.in_(ids), Destination.owner_user_id == owner, Destination.deleted_at.is_(None)
            )
        )
        known = {row.id: _target(row) for row in rows}
        found |= {one: known.get(one) for one in ids}
    for platform in platforms:
        row = await session.scalar(
            select(Destination)
            .where(
                Destination.owner_user_id == owner,
                Destination.platform == platform,
                Destination.deleted_at.is_(None),
            )
            .order_by(Destination.created_at.desc(), Destination.id.desc())
            .limit(1)
        )
        found[platform] = _target(row) if row is not None else _of_environment(stage, platform)
    return found


async def check_url(settings: LiveSettings, url: str) -> None:
    """Raises `InvalidDestination` for a malformed URL, or a host whose addresses are all ones that may not be connected to.

    A host that does not resolve now is accepted: it may exist later, and is checked again when an output connects.
    """
    try:
        why = await refusal(url, allow_private=settings.allow_private_ingest)
    except AddressInvalid as error:
        raise InvalidDestination(str(error)) from None
    if why is not None:
        raise InvalidDestination(why)


async def renew_seals(stage: Stage) -> int:
    """Seals again, with the first key of `BUTAI_SECRET_KEY`, the stream keys that older keys sealed. Returns the number
    of rows.

    Afterwards the older keys can be removed. A row that no key opens is left as it is, and logged. Several processes
    may do this at the same time.
    """
    renewed = 0
    for table in (Destination, Output):
        last = UUID(int=0)
        while True:
            stale = (
                select(table.id, table.sealed_key)
                .where(
                    table.id > last,
                    func.length(table.sealed_key) > 0,
                    func.substring(table.sealed_key, 2, 4) != stage.sealer.newest,
                )
                .order_by(table.id)
                .limit(_BATCH)
            )
            async with stage.database.transaction() as session:
                found = (await session.execute(stale)).all()
                for one, blob in found:
                    try:
                        new, mark = stage.sealer.renewed(blob)
                    except SealBroken as error:
                        log.warning("stream_key.lost", table=table.__tablename__, id=str(one), reason=str(error))
                        continue
                    # A key that was saved in between must not be overwritten.
                    await session.execute(
                        update(table)
                        .where(table.id == one, table.sealed_key == blob)
                        .values(sealed_key=new, key_fingerprint=mark)
                    )
                    renewed += 1
            if len(found) < _BATCH:
                break
            last = found[-1][0]
    if renewed:
        log.info("stream_keys.renewed", count=renewed)
    return renewed


def _hosts_known(settings: LiveSettings, destination: Destination, wanted: DestinationValues) -> bool:
    """Whether all URLs of a change are on hosts that the key is sent to already, or on the platform's own."""
    known = {destination.ingest_url, destination.backup_ingest_url, *_defaults(settings, destination.platform)}
    hosts = {parse(url).host for url in known if url}
    return all(parse(url).host in hosts for url in (wanted.ingest_url, wanted.backup_ingest_url) if url)


def _defaults(settings: LiveSettings, platform: str) -> tuple[str, str | None]:
    if platform == "youtube":
        return settings.youtube_ingest_url, settings.youtube_backup_ingest_url or None
    if platform == "twitch":
        return settings.twitch_ingest_url, None
    return "", None


def _of_environment(stage: Stage, platform: str) -> OutputTarget | None:
    settings = stage.settings
    secret = {"youtube": settings.youtube_stream_key, "twitch": settings.twitch_stream_key}.get(platform)
    key = secret.get_secret_value() if secret else ""
    if not key:
        return None
    url, backup = _defaults(settings, platform)
    sealed, mark = stage.sealer.seal(key, ENVIRONMENT), stage.sealer.fingerprint(key)
    return OutputTarget(None, platform, "", url, backup, sealed, mark)


def _target(row: Destination) -> OutputTarget:
    return OutputTarget(
        row.id, row.platform, row.label, row.ingest_url, row.backup_ingest_url, row.sealed_key, row.key_fingerprint
    )


async def _own(session: AsyncSession, caller: Caller, destination_id: UUID, *, lock: bool = False) -> Destination:
    query = select(Destination).where(
        Destination.id == destination_id,
        Destination.owner_user_id == caller.user_id,
        Destination.deleted_at.is_(None),
    )
    found = await session.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise DestinationNotFound
    return found


def _record(
    session: AsyncSession, origin: Origin, action: str, destination: Destination, error_code: str | None = None
) -> None:
    about = {"platforms": [destination.platform], "fingerprint": destination.key_fingerprint}
    result = "ok" if error_code is None else "failed"
    audit.record(
        session, origin, action, f"destination:{destination.id}", result=result, error_code=error_code, detail=about
    )
