"""Tells controllers that a broadcast may begin soon: a hint, which may be lost."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

EXPECTED = "butai_expected"
"""The channel of these notifications."""


async def expect_broadcast(session: AsyncSession) -> None:
    """Notifies all controllers once the transaction is committed."""
    await session.execute(select(func.pg_notify(EXPECTED, "")))
