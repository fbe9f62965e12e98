"""What hosts do, written down twice: as an event of the broadcast for whoever watches, as an audit entry for ever.

Called by the services in the transaction of the act; refusals get one of their own (`refusal`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit
from butai.audit import Origin
from butai.database import Database
from butai.errors import ButaiError, DatabaseUnavailable
from butai.live.models import Broadcast, LiveEvent, Output

log = structlog.get_logger(__name__)


def tell(
    session: AsyncSession,
    broadcast: Broadcast,
    event: str,
    origin: Origin,
    *,
    output: Output | None = None,
    **detail: Any,
) -> None:
    """Adds an event that moves no output's state."""
    session.add(
        LiveEvent(
            room_id=broadcast.room_id,
            broadcast_id=broadcast.id,
            output_id=output.id if output else None,
            platform=output.platform if output else None,
            event=event,
            from_state=None,
            to_state=None,
            attempt=output.attempt if output else None,
            code=None,
            actor=origin.actor,
            detail=detail,
        )
    )


def record(
    session: AsyncSession,
    origin: Origin,
    action: str,
    room_id: str,
    *,
    session_id: UUID | None = None,
    platforms: Iterable[str] = (),
    result: str = "ok",
    error_code: str | None = None,
    **detail: Any,
) -> None:
    """Adds an audit entry about a room."""
    about = {"session_id": str(session_id) if session_id else None, "platforms": list(platforms), **detail}
    audit.record(session, origin, action, f"room:{room_id}", result=result, error_code=error_code, detail=about)


@asynccontextmanager
async def refusal(
    database: Database, origin: Origin, action: str, room_id: str | None, platforms: Iterable[str] = ()
) -> AsyncIterator[None]:
    """Writes down what is refused within the block, and lets it go on its way."""
    try:
        yield
    except ButaiError as error:
        if room_id is not None and error.status < 500:
            try:
                async with database.transaction() as session:
                    record(
                        session,
                        origin,
                        action,
                        room_id,
                        platforms=platforms,
                        result="refused",
                        error_code=error.code,
                    )
            except DatabaseUnavailable:
                log.warning("audit.refusal_not_written", action=action, error_code=error.code)
        raise
