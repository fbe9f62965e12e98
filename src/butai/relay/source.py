"""The host's media: joins the room, joins it again after a disconnect, and reports the phase of the media.

The pipeline continues with the last picture and silence whatever happens here.
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
from butai.relay.room import JoinedRoom, JoinError, Received
from butai.relay.telling import source_line
from butai.relay.tracks import Choice

log = structlog.get_logger(__name__)


SUBSCRIPTIONS = 12
"""Subscriptions of one stay to tracks that are gone, after which the relay joins again. In rooms with `sync_streams` LiveKit
gives each subscription a media section of its own, which stays: 80 of them took 8 MiB."""

FINAL = ("ROOM_DELETED",)
"""LiveKit's reasons that end the source. Not `ROOM_CLOSED`: an empty room closes 20 s after its host left, who may
return later, within the grace; joining creates the room again."""


class _Successor:
    """A stay that begins beside another one, in a task of its own. `until`: when it must be ready."""

    def __init__(self, room: JoinedRoom, token: str, until: float) -> None:
        self.room, self.until = room, until
        self._joining = asyncio.create_task(room.join(token))
        self._ready_since: float | None = None

    def has_settled(self, now: float, seconds: float) -> bool:
        """Whether all that is wanted has been received there for so long."""
        ready = self._joining.done() and self.room.ready
        self._ready_since = (now if self._ready_since is None else self._ready_since) if ready else None
        return self._ready_since is not None and now - self._ready_since >= seconds

    @property
    def failed(self) -> bool:
        ended = self._joining.done() and (self._joining.cancelled() or self._joining.exception() is not None)
        return ended or self.room.ended.done()

    async def close(self) -> None:
        self._joining.cancel()
        await asyncio.gather(self._joining, return_exceptions=True)
        await self.room.close()


class HostSource:
    """The media of one host: `run` in a task, then `close`. Calls `report` with every change of the phase."""

    def __init__(
        self,
        configure: ConfigureLine,
        screen: Screen,
        mixer: Mixer,
        report: Callable[[SourceLine], None],
    ) -> None:
        self._configure, self._screen, self._mixer, self._report = configure, screen, mixer, report
        self._seats = [[configure.token]]
        if configure.spare_token:
            self._seats.append([configure.spare_token])
        self._seat = 0
        self._successor: _Successor | None = None
        self._succeed_at = -math.inf
        self._closing: set[asyncio.Task[None]] = set()
        self._timing = configure.timing
        self._presence = Presence(configure.grace, configure.on_lost, time.monotonic(), self._timing)
        self._room: JoinedRoom | None = None
        self._last_media = self._last_picture = 0.0
        self._received = Received(0, 0)
        self._requested_at = self._counted_at = self._read_again_at = -math.inf
        self._pictures_before = 0
        self._room_missing = False
        self.line = source_line("connecting", ready=False)
        """The last report."""

    @property
    def pictures(self) -> int:
        """The number of frames received from the room."""
        return self._pictures_before + (self._room.pictures if self._room is not None else 0)

    def renew_token(self, token: str, spare: str = "") -> None:
        """Sets the tokens of the next joins: one for each identity."""
        for number, one in enumerate([token, spare] if spare else [token]):
            if len(self._seats) <= number:
                self._seats.append([])
            # The configuration comes again with the same ones.
            if one not in self._seats[number][-1:]:
                self._seats[number].append(one)

    async def run(self) -> None:
        """Returns when the source has `ended` or `failed`."""
        begun, delay, joined = time.monotonic(), self._timing.join_delay, False
        while True:
            room, tokens = self._make_room(active=True), self._seats[self._seat]
            used = tokens[-1]
            try:
                await room.join(used)
            except JoinError as error:
                await room.close()
                log.warning("room.not_joined", code=error.code, detail=error.detail)
                # Another server may refuse the token that the last one gave: use the one before it next.
                if error.code == Code.LIVEKIT_UNAUTHORIZED and len(tokens) > 1:
                    tokens.remove(used)
                # The controller makes a missing room again.
                self._room_missing = error.code == Code.ROOM_NOT_FOUND and self._configure.room_made
                if self._room_missing:
                    begun = time.monotonic()
                permanent = error.code != Code.LIVEKIT_UNREACHABLE and not self._room_missing
                if not joined and (permanent or time.monotonic() - begun > self._timing.first_join_for):
                    self._change("failed", error.code, error.detail)
                    return
                told = joined or self._room_missing
                if told and self._update_phase():
                    return
                if await self._pause(delay * random.uniform(0.5, 1.0), joined=told):  # noqa: S311 - spreads load, keeps no secret
                    return
                delay = min(delay * 2, self._timing.join_delay_cap)
                continue
            log.info("room.joined", again=joined)
            joined, delay, self._room_missing = True, self._timing.join_delay, False
            self._room = room
            self._counted_at = -math.inf
            reason = await self._follow_room()
            await self._leave()
            if reason == "":
                return
            log.info("room.left", reason=reason)
            if reason in FINAL:
                self._change("ended", Code.SOURCE_ENDED, "the room was deleted")
                return
            self._presence.host(time.monotonic(), here=False)
            if await self._pause(self._timing.join_delay, joined=joined):
                return

    async def close(self) -> None:
        """Leaves the room, after `run` has ended or was cancelled."""
        await self._leave()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _make_room(self, *, active: bool) -> JoinedRoom:
        return JoinedRoom(
            self._configure, self._screen, self._mixer, self._picture_arrived, self._sound_arrived, active=active
        )

    async def _leave(self) -> None:
        if self._successor is not None:
            await self._successor.close()
            self._successor = None
        if self._room is not None:
            await self._room.close()
            self._note_left(self._room)
            self._room = None

    def _note_left(self, room: JoinedRoom) -> None:
        self._pictures_before += room.pictures
        if room.token not in self._seats[self._seat]:
            self._seats[self._seat].append(room.token)

    async def _follow_room(self) -> str:
        """Returns LiveKit's reason when the room is over; an empty string when the source has ended."""
        reconnecting_since: float | None = None
        while True:
            assert self._room is not None
            room = self._room
            if room.ended.done():
                return room.ended.result()
            await asyncio.wait([room.ended], timeout=self._timing.phase_every)
            now = time.monotonic()
            choice = room.choice
            self._presence.host(now, here=room.host is not None, choice=choice)
            await self._count_received(room, now, choice)
            if self._update_phase():
                return ""
            reconnecting_since = (reconnecting_since or now) if room.reconnecting else None
            if room.stale or (reconnecting_since is not None and now - reconnecting_since > self._timing.reconnect_for):
                return "RECONNECTING"
            self._succeed(room, now, choice)

    def _succeed(self, room: JoinedRoom, now: float, choice: Choice) -> None:
        """Joins a second time, beside a stay that has had many subscriptions, and goes on there once all is received there: what
        goes out has no gap."""
        successor = self._successor
        if successor is None:
            # A new stay subscribes to the tracks that are there, too.
            spent = room.subscriptions - len(choice.sounds) - (choice.picture is not None)
            worn = spent >= SUBSCRIPTIONS and now >= self._succeed_at
            if worn and len(self._seats) > 1 and not room.reconnecting:
                token = self._seats[1 - self._seat][-1]
                self._successor = _Successor(self._make_room(active=False), token, now + self._timing.succeed_within)
            return
        if successor.failed or now > successor.until:
            log.warning("room.not_succeeded", subscriptions=room.subscriptions)
            self._successor, self._succeed_at = None, now + self._timing.succeed_within
            self._close_later(successor)
        elif successor.has_settled(now, self._timing.settle_for):
            log.info("room.succeeded", subscriptions=room.subscriptions)
            self._note_left(room)
            # In one step of the event loop, so that each picture and each sound goes out once.
            room.active, successor.room.active = False, True
            self._room, self._successor, self._seat = successor.room, None, 1 - self._seat
            self._counted_at, self._succeed_at = -math.inf, now + self._timing.succeed_within
            self._close_later(room)

    def _close_later(self, closed: JoinedRoom | _Successor) -> None:
        task = asyncio.create_task(closed.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _count_received(self, room: JoinedRoom, now: float, choice: Choice) -> None:
        """Counts silence as media, as long as its packets arrive, and finds pictures that arrive and are not shown."""
        quiet = choice.heard and now - self._last_media > self._timing.quiet_after
        unseen = choice.shown and now - self._last_picture > self._timing.quiet_after
        if not (quiet or unseen) or now - self._requested_at < self._timing.count_every:
            return
        self._requested_at = now
        try:
            received = await room.received()
        except (RuntimeError, TimeoutError):
            return
        before, counted_at = self._received, self._counted_at
        self._received, self._counted_at = received, now
        if now - counted_at >= self._timing.quiet_after + self._timing.count_every:
            return
        if quiet and received.sound_packets > before.sound_packets:
            self._sound_arrived()
        if unseen and received.frames > before.frames and self._last_picture < counted_at:
            self._presence.unshown()
            if now - max(self._last_picture, self._read_again_at) >= self._timing.lost_after:
                self._read_again_at = now
                room.read_picture_again()

    async def _pause(self, seconds: float, *, joined: bool) -> bool:
        """Waits, and returns whether the source ended meanwhile."""
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0:
            await asyncio.sleep(min(self._timing.phase_every, rest))
            if joined and self._update_phase():
                return True
        return False

    def _picture_arrived(self, sid: str) -> None:
        self._last_media = self._last_picture = time.monotonic()
        self._presence.picture(self._last_media, sid)
        self._media_arrived()

    def _sound_arrived(self) -> None:
        self._last_media = time.monotonic()
        self._presence.sound(self._last_media)
        self._media_arrived()

    def _media_arrived(self) -> None:
        if self.line.phase != "live" or not self.line.ready:
            self._update_phase()

    def _update_phase(self) -> bool:
        """Reports a change of the phase. Returns whether the source has ended."""
        phase, code = self._presence.phase(time.monotonic())
        if self._room_missing and phase != "ended":
            code = Code.ROOM_NOT_FOUND
        told = self.line.phase, self.line.code, self.line.ready
        if (phase, code or "", self._ready) != told and self.line.phase not in ("ended", "failed"):
            detail = f"no media of the host for {self._configure.grace:g} s" if phase == "ended" else ""
            self._change(phase, code or "", detail)
        return self.line.phase == "ended"

    @property
    def _ready(self) -> bool:
        return self.pictures > 0 or (self._configure.sound_only and self._last_media > 0)

    def _change(self, phase: SourcePhase, code: str = "", detail: str = "") -> None:
        self.line = source_line(phase, code, detail, ready=self._ready)
        log.info("source.changed", phase=phase, code=code, detail=detail)
        self._report(self.line)
