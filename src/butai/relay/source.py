"""The host's media, as long as it takes: joins the room, comes back to it, and says what became of it.

Used by `butai.relay.server`. Whatever happens here, picture and silence go on in the pipeline.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable

import structlog

from butai.errors import Code
from butai.relay.messages import ConfigureLine, SourceLine, SourcePhase
from butai.relay.mixer import Mixer
from butai.relay.picture import Screen
from butai.relay.presence import Presence
from butai.relay.room import JoinedRoom, JoinError

log = structlog.get_logger(__name__)

TICK = 0.1
"""Seconds between two looks at what became of the host."""
FIRST_JOIN_PATIENCE = 15.0
"""Seconds in which an unreachable LiveKit is tried again before `failed`."""
FIRST_DELAY, LONGEST_DELAY = 0.3, 3.0
"""Seconds between two tries to join."""
SDK_PATIENCE = 3.0
"""Seconds that the SDK may try to reconnect by itself. It tries each 5 s; joining anew is quicker."""
QUIET = 1.0
"""Seconds without picture or sound after which the statistics are asked whether packets of sound come all the same."""
COUNT_EACH = 0.5
"""Seconds between two such counts. An older one than of the last quiet second says nothing: what came since may have come
before it was quiet. So the second count of a quiet stretch tells, while it is not `LOST_AFTER` long."""

FINAL = ("ROOM_DELETED",)
"""LiveKit's reasons that mean the end. Not `ROOM_CLOSED`: an empty room closes 20 s after its host was last seen, who may
come back later than that, within the grace; joining makes the room anew."""


class HostSource:
    """`run` it in a task; `close` it at the end. `report` gets every change, the first one at once."""

    def __init__(
        self,
        configure: ConfigureLine,
        screen: Screen,
        mixer: Mixer,
        report: Callable[[SourceLine], None],
    ) -> None:
        self._configure, self._screen, self._mixer, self._report = configure, screen, mixer, report
        self._token = configure.token
        self._tokens = [configure.token]
        self._presence = Presence(configure.grace, configure.on_lost, time.monotonic())
        self._room: JoinedRoom | None = None
        self._last_media = 0.0
        self._sound_packets = 0
        self._asked_at = self._counted_at = -math.inf
        self._pictures_before = 0
        self.line = SourceLine(phase="connecting", at=time.time())
        """What was last reported."""

    @property
    def pictures(self) -> int:
        """Frames that came from the room, in all."""
        return self._pictures_before + (self._room.pictures if self._room is not None else 0)

    def renew(self, token: str) -> None:
        """Another token for the next joining."""
        self._tokens.append(token)

    async def run(self) -> None:
        """Returns when the source has `ended` or `failed`."""
        begun, delay, joined = time.monotonic(), FIRST_DELAY, False
        while True:
            room = JoinedRoom(self._configure, self._screen, self._mixer, self._media)
            try:
                await room.join(self._tokens[-1])
            except JoinError as error:
                await room.close()
                log.warning("room.not_joined", code=error.code, detail=error.detail)
                # The token that the server gave may be refused by another server: the first one then.
                self._tokens = self._tokens[:1] + self._tokens[1:-1]
                permanent = error.code != Code.LIVEKIT_UNREACHABLE
                if not joined and (permanent or time.monotonic() - begun > FIRST_JOIN_PATIENCE):
                    self._say("failed", error.code, error.detail)
                    return
                if joined and self._look():
                    return
                if await self._pause(delay * random.uniform(0.5, 1.0), joined):
                    return
                delay = min(delay * 2, LONGEST_DELAY)
                continue
            log.info("room.joined", again=joined)
            joined, delay = True, FIRST_DELAY
            self._room = room
            self._counted_at = -math.inf
            reason = await self._stay(room)
            self._pictures_before += room.pictures
            self._room = None
            if room.token not in self._tokens:
                self._tokens.append(room.token)
            await room.close()
            if reason == "":
                return
            log.info("room.left", reason=reason)
            if reason in FINAL:
                self._say("ended", Code.SOURCE_ENDED, "the room was deleted")
                return
            self._presence.host(here=False, muted=False)
            if await self._pause(FIRST_DELAY, joined):
                return

    async def close(self) -> None:
        """Leaves the room. `run` must have ended or been cancelled."""
        if self._room is not None:
            await self._room.close()
            self._room = None

    async def _stay(self, room: JoinedRoom) -> str:
        """Until the room is over. The reason; nothing when the source has ended."""
        reconnecting_since: float | None = None
        while not room.ended.done():
            await asyncio.wait([room.ended], timeout=TICK)
            now = time.monotonic()
            self._presence.host(here=room.host is not None, muted=room.all_muted)
            await self._listen(room, now)
            if self._look():
                return ""
            reconnecting_since = (reconnecting_since or now) if room.reconnecting else None
            if room.stale or (reconnecting_since is not None and now - reconnecting_since > SDK_PATIENCE):
                return "RECONNECTING"
        return room.ended.result()

    async def _listen(self, room: JoinedRoom, now: float) -> None:
        """Silence is media, too, as long as its packets come."""
        if now - self._last_media <= QUIET or now - self._asked_at < COUNT_EACH:
            return
        self._asked_at = now
        try:
            packets = await room.sound_packets()
        except (RuntimeError, TimeoutError):
            return
        before, counted_at = self._sound_packets, self._counted_at
        self._sound_packets, self._counted_at = packets, now
        if packets > before and now - counted_at < QUIET + COUNT_EACH:
            self._media()

    async def _pause(self, seconds: float, joined: bool) -> bool:
        """Whether the source has ended meanwhile."""
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0:
            await asyncio.sleep(min(TICK, rest))
            if joined and self._look():
                return True
        return False

    def _media(self) -> None:
        self._last_media = time.monotonic()
        self._presence.media(self._last_media)
        if self.line.phase != "live":
            self._look()

    def _look(self) -> bool:
        """Reports what changed. Whether it is over."""
        phase = self._presence.phase(time.monotonic())
        if phase != self.line.phase and self.line.phase not in ("ended", "failed"):
            if phase == "ended":
                self._say("ended", Code.SOURCE_ENDED, f"no media of the host for {self._configure.grace:g} s")
            else:
                self._say(phase)
        return self.line.phase == "ended"

    def _say(self, phase: SourcePhase, code: str = "", detail: str = "") -> None:
        self.line = SourceLine(phase=phase, at=time.time(), code=code, detail=detail)
        log.info("source.changed", phase=phase, code=code, detail=detail)
        self._report(self.line)
