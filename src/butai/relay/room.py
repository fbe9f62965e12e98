"""One stay in a LiveKit room: subscribes to the host's tracks, and feeds the screen and the mixer.

The SDK's native threads abort the process if the interpreter exits while streams are read, so `close` closes the
streams first, then the room.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import structlog
from livekit import rtc

from butai.errors import Code
from butai.relay.messages import ConfigureLine
from butai.relay.mixer import Mixer
from butai.relay.picture import SMALLEST, Screen
from butai.relay.tracks import Choice, Kind, Offer, TrackSource, choose

log = structlog.get_logger(__name__)

SOUND_FRAME = 20
"""Milliseconds of sound in one event of the SDK: half of its default events."""

_SOURCES: dict[int, TrackSource] = {
    rtc.TrackSource.SOURCE_CAMERA: "camera",
    rtc.TrackSource.SOURCE_MICROPHONE: "microphone",
    rtc.TrackSource.SOURCE_SCREENSHARE: "screen_share",
    rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO: "screen_share_audio",
}
_QUARTER_TURNS: dict[int, int] = {
    rtc.VideoRotation.VIDEO_ROTATION_90: 1,
    rtc.VideoRotation.VIDEO_ROTATION_180: 2,
    rtc.VideoRotation.VIDEO_ROTATION_270: 3,
}
_KINDS: dict[int, Kind] = {rtc.TrackKind.KIND_VIDEO: "video", rtc.TrackKind.KIND_AUDIO: "audio"}


class JoinError(Exception):
    """The room cannot be joined. `code`: an error code of docs/live.md. The texts of the SDK quote the token; these do
    not."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


@dataclass(frozen=True, slots=True)
class Received:
    """Totals of what has arrived of all tracks. `sound_packets`: a silent microphone sends them; a disconnected one does
    not. `frames`: of pictures, before they are decoded."""

    sound_packets: int
    frames: int


class JoinedRoom:
    """A room, from `join` to `close`. Calls `on_picture` with the id of its track for each picture, and `on_sound` for
    sound that is not silence."""

    def __init__(
        self,
        configure: ConfigureLine,
        screen: Screen,
        mixer: Mixer,
        on_picture: Callable[[str], None],
        on_sound: Callable[[], None],
        *,
        active: bool = True,
    ) -> None:
        """`active`: whether pictures and sound go out from the beginning."""
        self._configure, self._screen, self._mixer = configure, screen, mixer
        self._on_picture, self._on_sound = on_picture, on_sound
        self._came: set[str] = set()
        self.active = active
        """Whether pictures and sound go out. Until then they are only received."""
        self.subscriptions = 0
        """The number of tracks that were subscribed to."""
        self._room = rtc.Room()
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._wanted: frozenset[str] = frozenset()
        self._refused: frozenset[str] = frozenset()
        self.pictures = 0
        """The number of frames received."""
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Set to the name of LiveKit's reason when this stay is over."""
        self.reconnecting = False
        """Whether the SDK tries to reconnect by itself."""
        self.stale = False
        """Whether tracks were lost while the SDK reconnected. Their successors are not subscribed to (seen after a
        restart of the server), so this stay is over."""
        self.token = ""
        """The newest token of the server: the first one may have expired by the next join."""

    async def join(self, token: str) -> None:
        """Joins the room, and subscribes to the host's tracks. Raises `JoinError`."""
        self.token = token
        room = self._room
        for event in (
            "participant_connected",
            "participant_disconnected",
            "track_published",
            "track_unpublished",
            "track_muted",
            "track_unmuted",
        ):
            room.on(event, self._update_subscriptions)
        room.on("track_subscribed", self._subscribed)
        room.on("track_unsubscribed", self._unsubscribed)
        room.on("reconnecting", lambda: self._set_reconnecting(reconnecting=True))
        room.on("reconnected", lambda: self._set_reconnecting(reconnecting=False))
        room.on("token_refreshed", self._token_refreshed)
        room.on("disconnected", self._disconnected)
        try:
            async with asyncio.timeout(self._configure.timing.join_limit):
                # Only the published tracks: guests' tracks and the host's other pictures are not decoded. What is received has a
                # peer connection of its own: in a common one the server reuses no media section of a track that is gone, so that
                # each track published again took memory and CPU until the end of the stay (livekit/livekit#3873).
                options = rtc.RoomOptions(
                    auto_subscribe=False,
                    connect_timeout=self._configure.timing.connect_limit,
                    single_peer_connection=False,
                )
                await room.connect(self._configure.livekit_url, token, options)
        except TimeoutError:
            raise JoinError(Code.LIVEKIT_UNREACHABLE, "joining took too long") from None
        except rtc.ConnectError as error:
            raise _join_error(error.message) from None
        self._update_subscriptions()

    @property
    def host(self) -> rtc.RemoteParticipant | None:
        """The host; None while it is not in the room."""
        return self._room.remote_participants.get(self._configure.host_identity)

    @property
    def choice(self) -> Choice:
        """The tracks of the host that are published, and what is to be expected of them."""
        return choose(self._offers(), self._configure.video_source, self._configure.video_name)

    @property
    def ready(self) -> bool:
        """Whether all that is wanted is received: a picture of the video track, unless it is muted, and each sound."""
        choice = self.choice
        pictured = not choice.shown or choice.picture in self._came
        return self.host is not None and pictured and choice.sounds <= self._readers.keys()

    async def received(self) -> Received:
        """What has arrived from the network. Raises `RuntimeError`, `TimeoutError`."""
        async with asyncio.timeout(self._configure.timing.close_limit):
            stats = await self._room.get_rtc_stats()
        # A client with one peer connection for both directions has all of them at the publisher's.
        inbound = [
            one.inbound_rtp for one in (*stats.publisher_stats, *stats.subscriber_stats) if one.HasField("inbound_rtp")
        ]
        return Received(
            sound_packets=sum(one.received.packets_received for one in inbound if one.stream.kind == "audio"),
            frames=sum(one.inbound.frames_received for one in inbound if one.stream.kind == "video"),
        )

    def read_picture_again(self) -> None:
        """Makes another stream of the video track: the SDK's stream has been seen to deliver nothing for half a minute
        while its frames arrived."""
        host, sid = self.host, self.choice.picture
        publication = host.track_publications.get(sid) if host is not None and sid is not None else None
        if publication is not None and publication.track is not None and publication.sid in self._readers:
            log.warning("track.read_again", sid=publication.sid)
            self._start_reader(publication.track, publication)

    async def close(self) -> None:
        """Closes the streams, then leaves the room."""
        for reader in self._readers.values():
            reader.cancel()
        await asyncio.gather(*self._readers.values(), return_exceptions=True)
        self._readers.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._configure.timing.close_limit):
                await self._room.disconnect()
        if not self.ended.done():
            self.ended.set_result("CLIENT_INITIATED")

    def _offers(self) -> list[Offer]:
        host = self.host
        if host is None:
            return []
        return [
            Offer(
                one.sid,
                _KINDS[one.kind],
                _SOURCES.get(one.source, "unknown"),
                one.name,
                one.muted,
                codec=one.mime_type,
                encrypted=one.encryption_type != rtc.EncryptionType.NONE,
            )
            for one in host.track_publications.values()
            if one.kind in _KINDS
        ]

    def _update_subscriptions(self) -> None:
        """Subscribes to the tracks that are to be published, and to no others."""
        choice = self.choice
        wanted = choice.sounds | ({choice.picture} if choice.picture else set())
        host = self.host
        publications = host.track_publications if host is not None else {}
        for sid in wanted - self._wanted:
            publication = publications[sid]
            publication.set_subscribed(True)
            if publication.kind == rtc.TrackKind.KIND_VIDEO and publication.simulcasted:
                publication.set_video_quality(rtc.VideoQuality.VIDEO_QUALITY_HIGH)
        for sid in self._wanted - wanted:
            self._end_reader(sid)
            if sid in publications:
                publications[sid].set_subscribed(False)
        self._wanted = wanted
        refused = frozenset(offer.sid for offer in self._offers() if offer.refused is not None)
        for sid in refused - self._refused:
            log.warning("track.refused", sid=sid, codec=publications[sid].mime_type)
        self._refused = refused

    def _subscribed(self, track: rtc.RemoteTrack, publication: rtc.RemoteTrackPublication) -> None:
        sid = publication.sid
        if sid not in self._wanted:
            return
        self._end_reader(sid)
        self.subscriptions += 1
        log.info("track.subscribed", sid=sid, codec=publication.mime_type, name=publication.name)
        self._start_reader(track, publication)

    def _start_reader(self, track: rtc.RemoteTrack, publication: rtc.RemoteTrackPublication) -> None:
        sid = publication.sid
        if (former := self._readers.pop(sid, None)) is not None:
            self._cancel_reader(former)
        reading: Coroutine[Any, Any, None]
        if track.kind == rtc.TrackKind.KIND_VIDEO:
            reading = self._read_pictures(track, publication)
        else:
            reading = self._read_sound(track, publication)
        task = asyncio.create_task(reading)
        task.add_done_callback(_log_failure)
        self._readers[sid] = task

    def _unsubscribed(self, _track: object, publication: rtc.RemoteTrackPublication) -> None:
        self._end_reader(publication.sid)

    def _end_reader(self, sid: str) -> None:
        reader = self._readers.pop(sid, None)
        if reader is not None:
            log.info("track.gone", sid=sid)
            self.stale = self.stale or self.reconnecting
            self._cancel_reader(reader)

    def _cancel_reader(self, reader: asyncio.Task[None]) -> None:
        reader.cancel()
        # Referenced until it has closed its stream: a task without a reference can be collected.
        name = f"closing {id(reader)}"
        self._readers[name] = reader
        reader.add_done_callback(lambda _: self._readers.pop(name, None))

    async def _read_pictures(self, track: rtc.Track, publication: rtc.RemoteTrackPublication) -> None:
        # Always read, and only the newest frame kept: the SDK's own queue drops new frames when it is full.
        stream = rtc.VideoStream(track, capacity=1, format=rtc.VideoBufferType.I420)
        try:
            async for event in stream:
                # The server sends black pictures for a muted track; the last picture must remain.
                if publication.muted:
                    continue
                frame = event.frame
                if min(frame.width, frame.height) >= SMALLEST:
                    self._came.add(publication.sid)
                if not self.active:
                    continue
                try:
                    shown = self._screen.show(
                        frame.width, frame.height, frame.data, _QUARTER_TURNS.get(cast("Any", event.rotation), 0)
                    )
                except ValueError as error:
                    log.warning("track.bad_picture", detail=str(error))
                    continue
                if shown:
                    self.pictures += 1
                    self._on_picture(publication.sid)
        finally:
            await _close(stream, self._configure.timing.close_limit)

    async def _read_sound(self, track: rtc.Track, publication: rtc.RemoteTrackPublication) -> None:
        sid = publication.sid
        stream = rtc.AudioStream(
            track, sample_rate=self._mixer.rate, num_channels=2, frame_size_ms=SOUND_FRAME, capacity=50
        )
        try:
            async for event in stream:
                if publication.muted or not self.active:
                    continue
                samples = np.frombuffer(event.frame.data, np.int16).reshape(-1, 2)
                self._mixer.push(sid, samples)
                # The SDK yields frames for ever, of zeros when nothing arrives.
                if samples.any():
                    self._on_sound()
        finally:
            if self.active:
                self._mixer.forget(sid)
            await _close(stream, self._configure.timing.close_limit)

    def _set_reconnecting(self, *, reconnecting: bool) -> None:
        log.info("room.reconnecting" if reconnecting else "room.reconnected")
        self.reconnecting = reconnecting
        if not reconnecting and not self._readers:
            # Reconnected to a restarted server before any subscription: the server has lost our subscriptions.
            self.stale = True

    def _token_refreshed(self) -> None:
        self.token = self._room._token or self.token  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the library does not show it

    def _disconnected(self, reason: int) -> None:
        if not self.ended.done():
            self.ended.set_result(rtc.DisconnectReason.Name(cast("Any", reason)))


async def _close(stream: rtc.VideoStream | rtc.AudioStream, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stream.aclose()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("track.failed", error=type(error).__name__, exc_info=error)


def _join_error(message: str) -> JoinError:
    """Maps the SDK's text, which has no codes: `engine: signal failure: client error: 401 Unauthorized - …`."""
    if "401" in message or "403" in message:
        return JoinError(Code.LIVEKIT_UNAUTHORIZED, "the server refused the token")
    if "404" in message:
        return JoinError(Code.ROOM_NOT_FOUND, "the server has no such room")
    for words in ("Connection refused", "failed to lookup", "timed out", "timeout"):
        if words in message:
            return JoinError(Code.LIVEKIT_UNREACHABLE, words.lower())
    return JoinError(Code.LIVEKIT_UNREACHABLE, "no connection")
