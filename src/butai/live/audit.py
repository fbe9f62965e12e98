"""Records the acts of hosts: as an event in the broadcast's timeline, and as an entry in the audit trail.

Both are added to the session of the act, so they are committed with it or not at all. A refused act is rolled back, so
its entry gets a transaction of its own (`refusal`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit
from butai.audit import Origin
from butai.audit.erasure import is_retired
from butai.database import Database
from butai.errors import ButaiError, DatabaseUnavailable, RoomTaken
from butai.live.models import Broadcast, LiveEvent, Output, Room

log = structlog.get_logger(__name__)


def add_event(
    session: AsyncSession,
    broadcast: Broadcast,
    event: str,
    origin: Origin,
    *,
    output: Output | None = None,
    **detail: Any,
) -> None:
    """Adds a timeline event that changes no output's state; `detail` is shown to the host."""
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


def add_room_event(
    session: AsyncSession, room_id: str, broadcast: Broadcast | None, event: str, origin: Origin, **detail: Any
) -> None:
    """Adds an event to the timelines of a room and of its running broadcast, which are both locked."""
    broadcast_id = broadcast.id if broadcast else None
    session.add(LiveEvent(room_id=room_id, broadcast_id=broadcast_id, event=event, actor=origin.actor, detail=detail))


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
    """Adds an audit entry with the subject `room:ROOM_ID`. `result`: `ok`, `refused` or `failed`."""
    about = {"session_id": str(session_id) if session_id else None, "platforms": list(platforms), **detail}
    audit.record(session, origin, action, f"room:{room_id}", result=result, error_code=error_code, detail=about)


@asynccontextmanager
async def refusal(
    database: Database, origin: Origin, action: str, room_id: str | None, platforms: Iterable[str] = ()
) -> AsyncGenerator[None]:
    """Counts a `ButaiError` below 500 that leaves the block as `refused` (`butai.audit.count`), and raises it again.

    Only for a room that exists: else any name that a caller writes would have a trail, and those of erased users' rooms
    would be in it again. When Postgres is unreachable the
    entry is lost, with a line in the log.
    """
    try:
        yield
    except ButaiError as error:
        if room_id is not None and error.status < 500:
            try:
                async with database.transaction() as session:
                    # A room that is taken may be one of LiveKit's that has no row here.
                    taken = isinstance(error, RoomTaken) and not await is_retired(session, "room", room_id)
                    if taken or await session.get(Room, room_id) is not None:
                        await audit.count(
                            session,
                            origin,
                            action,
                            f"room:{room_id}",
                            result="refused",
                            error_code=error.code,
                            detail={"session_id": None, "platforms": list(platforms)},
                        )
            except DatabaseUnavailable:
                log.warning("audit.refusal_not_written", action=action, error_code=error.code)
        raise
