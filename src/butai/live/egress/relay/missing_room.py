"""Makes a room of ours again that LiveKit has lost, while a relay waits for it."""

from __future__ import annotations

import asyncio

import structlog

from butai.errors import Code, LiveKitNotConfigured
from butai.live.livekit_client import LIVEKIT_ERRORS, open_room
from butai.live.projects import Projects
from butai.live.reconcile.rows import BroadcastRow
from butai.relay.messages import SourceLine

log = structlog.get_logger(__name__)


class MissingRoom:
    """The room of one relay. After LiveKit's Redis has lost its data, making a room succeeds and has no effect before a
    participant joins again; so it is made again and again, as long as the relay does not find it."""

    def __init__(self, projects: Projects, seconds: float) -> None:
        """`seconds`: most time for one request."""
        self._projects, self._seconds = projects, seconds
        self._missing = False
        self._making: asyncio.Task[None] | None = None

    def observe(self, line: SourceLine) -> None:
        """Records what the relay says of the room."""
        self._missing = line.code == Code.ROOM_NOT_FOUND and line.phase not in ("ended", "failed")

    def make(self, broadcast: BroadcastRow | None) -> None:
        """Makes the room if it is missing and ours. To be called after `observe`, and every few seconds."""
        if not self._missing or broadcast is None or not broadcast.room_made:
            return
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._open(broadcast))

    def close(self) -> None:
        """Ends a request that is under way."""
        self._missing = False
        if self._making is not None:
            self._making.cancel()

    async def _open(self, broadcast: BroadcastRow) -> None:
        room_id = broadcast.room_id
        try:
            await open_room(self._projects, broadcast.livekit_project, room_id, self._seconds)
        except (LiveKitNotConfigured, *LIVEKIT_ERRORS) as error:
            log.warning("room.not_made_again", room_id=room_id, reason=type(error).__name__)
        else:
            log.info("room.made_again", room_id=room_id)
