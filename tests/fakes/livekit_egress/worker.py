"""One egress as a LiveKit Egress worker carries it: what it knows, what it reports and when, by the recordings.

Each delay here was measured in `tests/recordings` unless its comment says that it is a guess. `StandIn` makes one for
each start and gives it its surroundings.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from livekit.protocol import egress as pb

from tests.fakes.livekit_egress.clock import Clock, new_id, ns
from tests.fakes.livekit_egress.platforms import ALREADY, GONE, Accept, Never, Refuse, Script, Unreachable
from tests.fakes.livekit_egress.records import ended
from tests.fakes.livekit_egress.requests import Wanted
from tests.fakes.livekit_egress.rooms import Rooms
from tests.fakes.livekit_egress.urls import redact

JOINS_AFTER = 0.08  # s behind StartEgress's answer: its participant is in the room
ACTIVE_AFTER = 0.33
STARTED_AFTER = 1.1  # `started_at` of a stream
REFUSED_SOONER = 0.09  # a refused connection, which never looks started
HOST_WAIT = 30.1  # s until `participant … not found`
FINISH_AFTER = 0.41  # s from StopEgress's answer to the end of its streams
ADDED_AFTER = 0.12  # s for a URL added to a running egress
ALREADY_AFTER = 0.045
SETTLED_AFTER = 4.7  # s of streaming: an error before that is final, one after it is retried
RETRIES_FOR = 32.0  # s, LiveKit means 30; in platform-stalled-60s it goes on when the platform is back just then
RETRY_EACH = 5.05
STALL_SEEN_AFTER = 31.1
REPORT_EACH = 60.0  # s: at most one report of retries a minute
WORKER_MISSED_AFTER = 21.3  # s from a worker's death until the room lets its participant go


@dataclass
class Stream:
    """One URL of an egress. `phase`: connecting, streaming, stalled, retrying, over."""

    url: str
    info: pb.StreamInfo
    phase: str = "connecting"
    since: float = 0.0
    held: bool = False  # it counts as running


class Surroundings(Protocol):
    """What the worker needs of the stand-in."""

    clock: Clock
    rooms: Rooms

    def attempt(self, url: str) -> Script | None:
        """The script for the next attempt; None where none was given."""
        ...

    def reported(self, egress: Egress, event: str) -> None:
        """A report has reached the server: it is stored and the webhook `event` sent."""
        ...

    def runs(self, url: str, egress_id: str) -> None: ...

    def rests(self, url: str, egress_id: str) -> None: ...

    def is_running(self, url: str) -> bool: ...

    def is_gone(self, url: str) -> bool:
        """The platform has been taken away with `platform_gone`."""
        ...


@dataclass
class Egress:
    wanted: Wanted
    around: Surroundings
    id: str = field(default_factory=lambda: new_id("EG"))
    alive: bool = True
    frozen: bool = False  # its reports no longer arrive

    def __post_init__(self) -> None:
        now = ns()
        self.info = self.wanted.info
        self.info.egress_id = self.id
        self.info.started_at = self.info.updated_at = now
        found = self.around.rooms.get(self.wanted.room)
        if found is not None:
            self.info.room_id = found.info.sid
        self.streams: list[Stream] = []
        self._by_url: dict[str, Stream] = {}  # as LiveKit keeps them: a URL added again takes the first one's place
        self._retries_reported = -REPORT_EACH
        for url, destination in zip(self.wanted.urls, self.wanted.ids, strict=True):
            self._add(url, destination)
        self._write()

    def _add(self, url: str, destination: str = "") -> Stream:
        stream = Stream(url, pb.StreamInfo(url=redact(url), id=destination))
        self.streams.append(stream)
        self._by_url[url] = stream
        return stream

    def _write(self) -> None:
        """Both lists of the record: `stream` (deprecated) says the same as `stream_results`."""
        infos = [stream.info for stream in self.streams]
        del self.info.stream_results[:]
        self.info.stream_results.extend(infos)
        del self.info.stream.info[:]
        self.info.stream.info.extend(infos)

    def _touch(self) -> None:
        self.info.updated_at = ns()
        self._write()

    def _report(self, event: str = "egress_updated") -> None:
        self._touch()
        if not self.frozen:
            self.around.reported(self, event)

    def _report_streams(self) -> None:
        """Changes of streams are held back while any stream is connecting."""
        self._touch()
        if not any(stream.phase == "connecting" for stream in self.streams):
            self._report()

    def _later(self, seconds: float, call: Callable[..., object], *args: object) -> None:
        self.around.clock.later(seconds, self._if_alive, call, args)

    def _if_alive(self, call: Callable[..., object], args: tuple[object, ...]) -> None:
        if self.alive:
            call(*args)

    def _hold(self, stream: Stream) -> None:
        if not stream.held:
            stream.held = True
            self.around.runs(stream.url, self.id)

    def _release(self, stream: Stream) -> None:
        if stream.held:
            stream.held = False
            self.around.rests(stream.url, self.id)

    # Start

    def begin(self) -> None:
        """From the moment of StartEgress's answer."""
        for stream in self.streams:
            script = self.around.attempt(stream.url)
            if script is None:
                script = Refuse(error=ALREADY) if self.around.is_running(stream.url) else Accept()
            self._hold(stream)
            self._later(ACTIVE_AFTER + 0.01, self._connect, stream, script, STARTED_AFTER - ACTIVE_AFTER)
        self._later(JOINS_AFTER, self._join)

    def _join(self) -> None:
        if self.wanted.room:
            self.around.rooms.join_egress(self.wanted.room, self.id)
        self.info.started_at = ns()
        if not self._waits_for_host():
            self._later(ACTIVE_AFTER - JOINS_AFTER, self._activate)
            return
        for stream in self.streams:
            self._release(stream)
        self._later(HOST_WAIT, self._host_missing)

    def _waits_for_host(self) -> bool:
        who = self.wanted.identity
        return bool(who) and not self.around.rooms.has(self.wanted.room, who)

    def host_came(self) -> None:
        """An assumption: an egress that waits for its host continues when the host joins within the 30 s."""
        if self.alive and self.info.status == pb.EGRESS_STARTING:
            self._activate()

    def _host_missing(self) -> None:
        if self.info.status == pb.EGRESS_STARTING:
            self.fail(f"participant {self.wanted.identity} not found", 404)

    def _activate(self) -> None:
        if self.info.status == pb.EGRESS_STARTING:
            self.info.status = pb.EGRESS_ACTIVE
            random.shuffle(self.streams)
            self._report()

    def _connect(self, stream: Stream, script: Script, usual: float) -> None:
        if self.info.status == pb.EGRESS_STARTING:
            self._later(ACTIVE_AFTER, self._connect, stream, script, usual)  # it waits for its host
            return
        if stream.phase != "connecting" or self.info.status != pb.EGRESS_ACTIVE:
            return
        self._hold(stream)
        if self.around.is_gone(stream.url):
            script = Unreachable()
        if isinstance(script, Never):
            return
        wait = usual if script.after is None else script.after - (STARTED_AFTER - usual if usual > ADDED_AFTER else 0.0)
        if isinstance(script, Unreachable):
            host = urlsplit(stream.url).hostname or ""
            wait -= REFUSED_SOONER if script.after is None else 0.0
            self._later(wait, self._fail_stream, stream, script.error.replace("{host}", host))
            return
        self._later(wait, self._started, stream)
        if isinstance(script, Refuse):
            self._later(wait + script.shown, self._fail_stream, stream, script.error)
        elif script.fails_after is not None:
            self._later(wait + script.fails_after, self._fail_stream, stream, script.error)

    def _started(self, stream: Stream) -> None:
        if stream.phase == "connecting":
            stream.phase, stream.since = "streaming", self.around.clock.now()
            stream.info.started_at = ns()
            self._report_streams()

    # Faults

    def _fail_stream(self, stream: Stream, error: str) -> None:
        if stream.phase == "over" or self.info.status != pb.EGRESS_ACTIVE:
            return
        self._over(stream, pb.StreamInfo.FAILED, error)
        if self._by_url.get(stream.url) is stream:
            del self._by_url[stream.url]
        if all(one.info.status == pb.StreamInfo.FAILED for one in self.streams):
            self.fail(error, 503)
        else:
            self._report_streams()

    def _over(self, stream: Stream, status: pb.StreamInfo.Status, error: str = "") -> None:
        now = ns()
        stream.phase = "over"
        stream.info.status = status
        stream.info.error = error
        stream.info.started_at = stream.info.started_at or now
        stream.info.ended_at = now
        stream.info.duration = now - stream.info.started_at if stream.info.started_at != now else 0
        self._release(stream)

    def fail(self, error: str, code: int) -> None:
        """The whole egress ends: ABORTED for 412, LIMIT_REACHED for 413, FAILED for every other code."""
        self.info.status = {412: pb.EGRESS_ABORTED, 413: pb.EGRESS_LIMIT_REACHED}.get(code, pb.EGRESS_FAILED)
        self.info.error, self.info.error_code = error, code
        self.info.details = "End reason: Session limit reached" if code == 413 else "End reason: Failure"
        if code == 413:
            for stream in self.streams:
                if stream.phase != "over":
                    self._over(stream, pb.StreamInfo.FINISHED)
        self._touch()
        self._later(0.3, self._end, self.info.status)

    def fail_url(self, url: str, error: str) -> bool:
        stream = self._by_url.get(url)
        if stream is None or not self.alive:
            return False
        self._fail_stream(stream, error)
        return True

    def streaming(self, url: str) -> Stream | None:
        stream = self._by_url.get(url)
        return stream if stream is not None and self.alive and stream.phase in ("streaming", "stalled") else None

    def drop(self, stream: Stream) -> None:
        """The platform cuts the connection; the worker has it back 0.14 s later and only `retries` shows it."""
        stream.info.retries += 1
        stream.info.last_retry_at = ns()
        now = self.around.clock.now()
        if now - self._retries_reported >= REPORT_EACH:
            self._retries_reported = now
            self._report()
        else:
            self._touch()

    def platform_gone(self, stream: Stream) -> None:
        """Nothing listens there any more: FAILED when young, else retried for 30 s (then FAILED: a guess)."""
        if self.around.clock.now() - stream.since < SETTLED_AFTER:
            self._fail_stream(stream, GONE)
            return
        stream.phase = "retrying"
        self._retry(stream, self.around.clock.now())

    def stall(self, stream: Stream) -> None:
        stream.phase = "stalled"
        self._later(STALL_SEEN_AFTER, self._stall_seen, stream)

    def _stall_seen(self, stream: Stream) -> None:
        if stream.phase == "stalled":
            stream.phase = "retrying"
            self._retry(stream, self.around.clock.now())

    def _retry(self, stream: Stream, since: float) -> None:
        if stream.phase != "retrying":
            return
        if self.around.clock.now() - since > RETRIES_FOR:
            self._fail_stream(stream, GONE)
            return
        self.drop(stream)
        self._later(RETRY_EACH, self._retry, stream, since)

    def heal(self, url: str) -> None:
        """The platform reads again, or is back."""
        for stream in self.streams:
            if stream.url == url and stream.phase in ("stalled", "retrying"):
                stream.phase = "streaming"

    def kill(self, missed_after: float) -> None:
        """SIGKILL: nothing is reported, ever; its participant leaves the room when the server misses it."""
        self.alive = False
        for stream in self.streams:
            self._release(stream)
        if self.wanted.room:
            leave = self.around.rooms.leave
            self.around.clock.later(missed_after, leave, self.wanted.room, self.id, "CONNECTION_TIMEOUT")

    # Changes and the end

    def add_url(self, url: str) -> None:
        script = self.around.attempt(url)
        if script is None:
            taken = self.around.is_running(url)
            script = Refuse(error=ALREADY, shown=ALREADY_AFTER) if taken else Accept()
        stream = self._add(url)
        self._hold(stream)
        self._touch()
        self._connect(stream, script, ADDED_AFTER)

    def remove_url(self, url: str) -> bool:
        """False: no such stream, which LiveKit also says of one that has failed or was added again."""
        stream = self._by_url.pop(url, None)
        if stream is not None:
            self._over(stream, pb.StreamInfo.FINISHED)
        self._report()
        return stream is not None

    def stop(self) -> None:
        if self.info.status == pb.EGRESS_STARTING:
            # Not recorded; the words are those of its protocol (MsgStoppedBeforeStarted).
            self.info.details = "End reason: StopEgress API"
            self.info.error, self.info.error_code = "Stop called before pipeline could start", 412
            self.info.status = pb.EGRESS_ABORTED
            self._touch()
            self._later(FINISH_AFTER, self._end, pb.EGRESS_ABORTED)
        elif self.info.status == pb.EGRESS_ACTIVE:
            self._ending("StopEgress API", FINISH_AFTER)

    def source_closed(self, finish_after: float) -> None:
        if self.alive and self.info.status == pb.EGRESS_ACTIVE:
            self._ending("Source closed", finish_after)

    def _ending(self, reason: str, finish_after: float) -> None:
        self.info.status = pb.EGRESS_ENDING
        self.info.details = f"End reason: {reason}"
        self._report()
        self._later(finish_after, self._end, pb.EGRESS_COMPLETE)

    def _end(self, status: pb.EgressStatus) -> None:
        self.info.status = status
        for stream in self.streams:
            if stream.phase != "over":
                if status == pb.EGRESS_COMPLETE:
                    self._over(stream, pb.StreamInfo.FINISHED)
                else:
                    self._release(stream)
        self.alive = False
        self.info.ended_at = ns()
        if self.wanted.room:
            self.around.rooms.leave(self.wanted.room, self.id)
        self._report("egress_ended")

    def __repr__(self) -> str:
        return f"<Egress {self.id} {pb.EgressStatus.Name(self.info.status)} over={ended(self.info)}>"
