"""Erases a user: all that is theirs is deleted, and their name leaves what is kept.

The user is suspended meanwhile, so that nothing new begins, and the suspension bears the pseudonym until the end: a second
run after a crash goes on with the same one. Every step is idempotent.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit
from butai.alerts import service as alerts
from butai.assets import erasure as of_assets
from butai.assets.storage.client import Store
from butai.audit import Origin, actors
from butai.audit import erasure as of_audit
from butai.config import LiveSettings
from butai.database import Database
from butai.errors import Conflict
from butai.identity.api_keys import CACHE_SECONDS, ApiKey, list_api_keys, revoke_api_key
from butai.identity.suspensions import SuspendedUser
from butai.jobs.service import forget_user, running_of_user
from butai.live import erasure as of_live
from butai.live.ingresses.sweep import end_revoked
from butai.live.projects import Projects
from butai.operations import suspension

log = structlog.get_logger(__name__)

CACHED_KEYS = CACHE_SECONDS + 1.0
"""Seconds after which no process takes a revoked key for valid, from its copy of the row."""

PATIENCE = 90.0
"""Seconds for which broadcasts, and then jobs, are waited for: a platform that does not answer delays an end by half a minute."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased. `entries`: those of the trail that bear the `pseudonym` now."""

    pseudonym: str
    files: int
    rooms: int
    destinations: int
    api_keys: int
    entries: int


async def has_anything(database: Database, user_id: str) -> bool:
    """Whether anything is left that bears the user's name."""
    async with database.transaction() as session:
        key = select(ApiKey.id).where(ApiKey.user_id == user_id).limit(1)
        return (
            await session.get(SuspendedUser, user_id) is not None
            or await session.scalar(key) is not None
            or await of_assets.has_any(session, user_id)
            or await of_live.has_any(session, user_id)
            or await of_audit.is_known(session, user_id)
        )


async def erase(
    database: Database, store: Store, projects: Projects, settings: LiveSettings, origin: Origin, user_id: str
) -> Erased:
    """Erases a user. Raises `Conflict` while a broadcast or a job does not end, and the errors of the store; then again.
    With API keys it takes at least `CACHED_KEYS`: until then the suspension refuses them."""
    await suspension.suspend(database, origin, user_id, "is being erased")
    pseudonym = await _pseudonym(database, user_id)
    for key in await list_api_keys(database, user_id):
        await revoke_api_key(database, key.id, origin=origin)
    await suspension.apply(database, projects, settings, user_id, origin)
    await _wait_until_over(
        database,
        lambda session: of_live.on_air(session, user_id),
        "broadcasts have not ended yet; is a controller running?",
    )
    async with database.transaction() as session:
        rooms = await of_live.rooms_of(session, user_id)
    for room_id in rooms:
        await end_revoked(database, projects, room_id)
    async with database.transaction() as session:
        # Before the rows by which rooms and files are known go.
        await of_audit.forget(session, user_id, pseudonym)
    files = await of_assets.erase(database, store, user_id)
    await _wait_for_cached_keys(database, user_id)
    # The suspension's own is one of them.
    await _wait_until_over(
        database, lambda session: running_of_user(session, user_id, rooms), "jobs of the user are running still."
    )
    async with database.transaction() as session:
        # What was written since: by controllers, workers, and this erasure.
        audit.record(session, origin, "user.erase", pseudonym)
        await session.flush()
        entries = await of_audit.forget(session, user_id, pseudonym)
        room_count, destinations = await of_live.erase(session, user_id)
        keys = await session.scalars(delete(ApiKey).where(ApiKey.user_id == user_id).returning(ApiKey.id))
        await of_assets.forget(session, user_id, pseudonym)
        await of_live.forget(session, user_id, pseudonym)
        await _forget_suspensions(session, user_id, pseudonym)
        await alerts.forget_rooms(session, rooms)
        await forget_user(session, user_id, rooms)
        await session.execute(delete(SuspendedUser).where(SuspendedUser.user_id == user_id))
        erased = Erased(pseudonym, files, room_count, destinations, len(keys.all()), entries)
    log.info("user.erased", pseudonym=pseudonym)
    return erased


async def _pseudonym(database: Database, user_id: str) -> str:
    async with database.transaction() as session:
        row = await session.get(SuspendedUser, user_id, with_for_update=True)
        if row is None:
            raise Conflict("The user was restored meanwhile")
        pseudonym = row.erased_as or actors.user(f"erased-{secrets.token_hex(8)}")
        row.erased_as = pseudonym
        return pseudonym


async def _wait_until_over(database: Database, count: Callable[[AsyncSession], Awaitable[int]], what: str) -> None:
    waited_until = asyncio.get_running_loop().time() + PATIENCE
    while True:
        async with database.transaction() as session:
            running = await count(session)
        if not running:
            return
        if asyncio.get_running_loop().time() > waited_until:
            raise Conflict(f"{running} {what} Erase again afterwards")
        await asyncio.sleep(0.5)


async def _wait_for_cached_keys(database: Database, user_id: str) -> None:
    age = select(func.extract("epoch", func.clock_timestamp() - func.max(ApiKey.revoked_at)))
    async with database.transaction() as session:
        seconds = await session.scalar(age.where(ApiKey.user_id == user_id))
    if seconds is not None:
        await asyncio.sleep(CACHED_KEYS - float(seconds))


async def _forget_suspensions(session: AsyncSession, user_id: str, pseudonym: str) -> None:
    mine = SuspendedUser.suspended_by == actors.user(user_id)
    await session.execute(update(SuspendedUser).where(mine).values(suspended_by=pseudonym))
