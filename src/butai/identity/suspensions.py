"""Suspended users: a table that operators write, and its copy in each process.

A credential of a suspended user is refused by the copy, which is a second old at most while Postgres answers. What makes
something asks the table as well, in its own transaction (`check_not_suspended`): it is committed before the suspension, whose
effects then include it, or refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime

import structlog
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from butai.database import Connection, Database, Model
from butai.errors import DatabaseUnavailable, UserSuspended

log = structlog.get_logger(__name__)

FRESH_SECONDS = 1.0
"""Seconds for which a process uses its copy of the table."""

MOST_SECONDS = 0.5
"""Seconds from its beginning for which a reading of the table is waited for, where there is a copy."""

LOCK_SEED = 7236
"""Seed of the hash for a user's advisory lock, as in `butai_is_suspended` of migration 0020."""


class SuspendedUser(Model):
    """A user whom an operator has suspended. `reason` is shown to operators; `suspended_by` is an actor of the trail."""

    __tablename__ = "suspended_users"

    user_id: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    suspended_by: Mapped[str | None]
    suspended_at: Mapped[datetime] = mapped_column(server_default=func.now())
    erased_as: Mapped[str | None]
    """The pseudonym, while the user is being erased."""


class Suspensions:
    """One process's copy of the table. While Postgres is unreachable the last copy is used, and the table is asked once in
    `FRESH_SECONDS`; what reads or writes rows fails then anyway."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._users: frozenset[str] = frozenset()
        self._read_at = self._began = float("-inf")
        self._has_copy = False
        self._reading: asyncio.Task[None] | None = None

    async def check(self, user_id: str) -> None:
        """Raises `UserSuspended` for a user who was suspended more than `FRESH_SECONDS` ago."""
        if self._clock() >= self._read_at + FRESH_SECONDS:
            if self._reading is None or self._reading.done():
                self._began = self._clock()
                self._reading = asyncio.create_task(self._read(self._began))
            # Of several requests' reading: one that is cancelled must not cancel it.
            left = max(0.0, self._began + MOST_SECONDS - self._clock()) if self._has_copy else None
            await asyncio.wait({self._reading}, timeout=left)
            if self._reading.done():
                self._reading.result()
        if user_id in self._users:
            raise UserSuspended

    async def _read(self, began: float) -> None:
        async def ask(connection: Connection) -> list[tuple[str]]:
            return await (await connection.execute("SELECT user_id FROM suspended_users")).fetchall()

        try:
            self._users = frozenset(user for (user,) in await self._database.query(ask))
        except DatabaseUnavailable:
            log.warning("suspensions.not_read")
            # The next look is an interval away from the end of this one, which may have taken longer than one.
            self._read_at = self._clock()
        else:
            self._read_at, self._has_copy = began, True


async def check_not_suspended(session: AsyncSession, user_id: str | None) -> None:
    """Raises `UserSuspended`. Until the transaction ends, no suspension of the user is committed."""
    if user_id is not None and await session.scalar(text("SELECT butai_is_suspended(:user)"), {"user": user_id}):
        raise UserSuspended


async def refuse_suspended(database: Database, user_id: str) -> None:
    """Raises `UserSuspended` for a user who is suspended at this moment."""
    async with database.transaction() as session:
        await check_not_suspended(session, user_id)


async def hold_suspension(session: AsyncSession, user_id: str) -> SuspendedUser | None:
    """The user's suspension, kept until the transaction ends; None without one."""
    return await session.scalar(
        select(SuspendedUser).where(SuspendedUser.user_id == user_id).with_for_update(read=True)
    )


async def lock_out(session: AsyncSession, user_id: str) -> None:
    """Waits for all transactions that have called `check_not_suspended` for the user, and makes further ones wait."""
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(user_id, LOCK_SEED))))
