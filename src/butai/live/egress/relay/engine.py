"""One relay as an engine: a process of this host that is controlled over its unix socket.

Stream keys are unsealed here, just before they are used, and sent through the socket. So is the token with which the
relay joins the room: hidden, and allowed to subscribe only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import msgspec
import structlog

from butai.errors import Code, LiveKitNotConfigured
from butai.live.egress.presets import PRESETS
from butai.live.egress.relay.missing_room import MissingRoom
from butai.live.egress.relay.process import WatchedProcess
from butai.live.projects import LiveKitKey, Projects
from butai.live.reconcile.capacity import EngineLoad, cost_key
from butai.live.reconcile.port import OnReport
from butai.live.reconcile.reports import CheckReport, EngineGone, MetricsReport, OutputReport, SourceReport
from butai.live.reconcile.rows import BroadcastRow
from butai.live.reconcile.timing import Timing
from butai.live.tokens import Tokens, engine_identity
from butai.relay import messages
from butai.relay.rtmp.addresses import AddressInvalid, server_of

log = structlog.get_logger(__name__)

NAME = "relay"
"""The engine's name in rows and in the costs of broadcasts."""
STEADY_SHARE = 0.8
"""Share of the preset's pictures that arrive from the host while a relay's load counts as what it takes."""
SILENT_TICKS = 2
"""Pings without a line from a configured relay, which sends metrics each second, after which it counts as lost."""


@dataclass(frozen=True, slots=True)
class RelayContext:
    """What all relays of one controller are configured from."""

    projects: Projects
    tokens: Tokens
    open_key: Callable[[bytes], str]
    """Unseals a stream key; any exception means that it cannot be unsealed."""
    timing: Timing
    allow_private: bool
    """Whether ingest URLs on private addresses are allowed."""


class RelayEngine:
    """A relay that obeys this controller."""

    def __init__(
        self,
        context: RelayContext,
        broadcast_id: UUID,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        process: WatchedProcess,
        welcome: messages.WelcomeLine,
        *,
        on_close: Callable[[RelayEngine], None],
    ) -> None:
        """`on_close`: called once it has ended or was detached from."""
        self._context, self._broadcast_id, self._on_close = context, broadcast_id, on_close
        self._reader, self._writer, self._process, self._welcome = reader, writer, process, welcome
        self._on_report: OnReport = lambda _: None
        self._reading: asyncio.Task[None] | None = None
        self._configuration: messages.ConfigureLine | None = None
        self._broadcast: BroadcastRow | None = None
        self._token_at = 0.0
        self._signed_by: LiveKitKey | None = None
        self._live: dict[UUID, OutputReport] = {}
        """The outputs that the relay has last reported as live."""
        self._silent_ticks = 0
        self._killed_silent = False
        self._room = MissingRoom(context.projects, context.timing.room_limit)
        self.load: EngineLoad | None = None
        """What the relay took in the last second that it reported."""

    @property
    def ref(self) -> str:
        """The `run_id` of the relay's process."""
        return self._welcome.run_id

    @property
    def pid(self) -> int:
        """The process id of the relay."""
        return self._process.pid

    def follow(self, on_report: OnReport, on_disconnect: Callable[[], None]) -> None:
        """Reports the state in the relay's welcome first, then every line."""
        self._on_report = on_report
        self._handle(self._welcome.source)
        for output in self._welcome.outputs:
            self._handle(output)
        self._reading = asyncio.create_task(self._read_lines(on_disconnect))

    def configure(self, broadcast: BroadcastRow) -> None:
        """Configures the relay; one that was configured before only takes the new token."""
        try:
            project = self._context.projects.get(broadcast.livekit_project)
        except LiveKitNotConfigured:
            # The project was removed from the configuration while the room was in it.
            why = f"no LiveKit project {broadcast.livekit_project} is configured"
            self._on_report(SourceReport("failed", time.time(), Code.LIVEKIT_UNAUTHORIZED, why, age=0.0))
            return
        self._configuration = messages.ConfigureLine(
            broadcast_id=str(broadcast.id),
            livekit_url=project.url,
            token=self._token(broadcast),
            spare_token=self._token(broadcast, spare=True),
            host_identity=broadcast.host_identity,
            preset=PRESETS[broadcast.preset],
            video_source=broadcast.video_source,
            video_name=broadcast.video_name,
            grace=broadcast.source_grace,
            on_lost=broadcast.on_source_lost,
            timing=self._context.timing.relay,
            sound_only=broadcast.sound_only,
            room_made=broadcast.room_made,
        )
        self._broadcast = broadcast
        self._token_at = time.monotonic()
        self._signed_by = project.key
        self._send(self._configuration)
        self._room.make(broadcast)

    def check_destinations(self, outputs: Sequence[tuple[UUID, str]]) -> None:
        """Sends the servers alone: no application, and no key."""
        if self._configuration is None:
            return
        held = list[messages.HeldOutput]()
        for output_id, url in outputs[: messages.MOST_HELD]:
            # One whose URL is not valid fails as its attempt begins.
            with contextlib.suppress(AddressInvalid):
                held.append(messages.HeldOutput(str(output_id), server_of(url), self._context.allow_private))
        self._configuration = msgspec.structs.replace(self._configuration, held=held)
        self._send(self._configuration)

    def start_output(
        self, output_id: UUID, attempt: int, url: str, sealed_key: bytes, *, hurried: bool = False
    ) -> None:
        """Unseals the stream key and sends it with the order."""
        try:
            key = self._context.open_key(sealed_key)
        except Exception as error:  # noqa: BLE001 - whatever unsealing raises, the key is lost
            log.error("output.key_sealed", output_id=str(output_id), error=type(error).__name__)
            detail = "the stream key cannot be opened with the keys of this installation"
            self._on_report(
                OutputReport(output_id, attempt, "failed", time.time(), Code.INVALID_DESTINATION, detail, age=0.0)
            )
            return
        allow_private = self._context.allow_private
        self._send(messages.StartOutputLine(str(output_id), attempt, url, key, allow_private, hurried))

    def stop_output(self, output_id: UUID) -> None:
        """Ends one push."""
        self._send(messages.StopOutputLine(str(output_id)))

    def stop(self) -> None:
        """Ends all pushes and the process."""
        self._send(messages.StopLine())

    def kill(self) -> None:
        """Kills the process."""
        log.warning("relay.killed", broadcast_id=str(self._broadcast_id), pid=self.pid)
        self._process.kill()

    def detach(self) -> None:
        """Disconnects, and leaves the relay running."""
        if self._reading is not None:
            self._reading.cancel()
        self._close()

    def tick(self, *, ping: bool) -> None:
        """To be called every `ping_every` seconds. Kills a configured relay that has sent nothing for `SILENT_TICKS`
        calls."""
        if ping:
            self._send(messages.PingLine())
        if self._configuration is None or self._broadcast is None:
            return
        self._silent_ticks += 1
        if self._silent_ticks > SILENT_TICKS and not self._killed_silent:
            log.warning("relay.silent", broadcast_id=str(self._broadcast_id), pid=self.pid)
            self._killed_silent = True
            self._process.kill()
        self._renew_token(self._configuration, self._broadcast)
        self._room.make(self._broadcast)

    def _renew_token(self, configuration: messages.ConfigureLine, broadcast: BroadcastRow) -> None:
        """Sends a new token when the last is old, or its API key was exchanged: LiveKit may soon reject the old key."""
        try:
            key = self._context.projects.get(broadcast.livekit_project).key
        except LiveKitNotConfigured:
            return
        now = time.monotonic()
        if key != self._signed_by or now - self._token_at > self._context.timing.token_every:
            self._token_at, self._signed_by = now, key
            token, spare = self._token(broadcast), self._token(broadcast, spare=True)
            self._configuration = msgspec.structs.replace(configuration, token=token, spare_token=spare)
            self._send(self._configuration)

    def _token(self, broadcast: BroadcastRow, *, spare: bool = False) -> str:
        identity = engine_identity(broadcast.id, spare=spare)
        return self._context.tokens.for_egress(broadcast.livekit_project, broadcast.room_id, identity)

    def _send(self, line: messages.FromController) -> None:
        if not self._writer.is_closing():
            self._writer.write(messages.encode(line))

    async def _read_lines(self, on_disconnect: Callable[[], None]) -> None:
        reason: str | None = None
        try:
            while raw := await self._next_line():
                self._silent_ticks = 0
                line = messages.read_by_controller(raw)
                if isinstance(line, messages.ByeLine):
                    reason = line.reason
                else:
                    self._handle(line)
        except (msgspec.MsgspecError, ValueError) as error:
            # The line is not logged: its content is unknown.
            log.warning("relay.bad_line", broadcast_id=str(self._broadcast_id), error=type(error).__name__)
        except OSError:
            pass
        if reason is None:
            # The socket of a killed process closes a moment before the process has ended.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._context.timing.exit_limit):
                    await self._process.ended.wait()
            if not self._process.is_gone():
                self._close()
                on_disconnect()
                return
        code = {"stopped": "", "abandoned": Code.EGRESS_LOST}.get(reason or "", Code.EGRESS_CRASHED)
        if self._killed_silent:
            code = Code.EGRESS_LOST
        detail = f"the relay ended: {reason}" if reason else "the relay's process ended without a last line"
        self._close()
        self._on_report(EngineGone(time.time(), code, detail, age=0.0))

    async def _next_line(self) -> bytes:
        """Returns the next line, or nothing at the end.

        While outputs are live, a relay sends metrics each second. One that sends nothing stands still, and its platforms get
        nothing: its outputs are reported as stalled until it sends again.
        """
        # The second time is for lines that came while this process itself stood still.
        for limit in (self._context.timing.relay_silent_after, self._context.timing.relay_silent_again):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit if self._live else None):
                    return await self._reader.readline()
        silent = list(self._live.values())
        log.warning("relay.stands_still", broadcast_id=str(self._broadcast_id), pid=self.pid)
        for one in silent:
            # Without a number: the relay's next report is newer, whatever it is.
            why = "the relay does not answer"
            stalled = replace(
                one, phase="stalled", at=time.time(), code=Code.EGRESS_LOST, detail=why, number=0, age=0.0
            )
            self._on_report(stalled)
        line = await self._reader.readline()
        if line:
            for one in silent:
                self._on_report(replace(one, at=time.time(), age=0.0))
        return line

    def _report_output(self, report: OutputReport) -> None:
        if report.phase == "live":
            self._live[report.output_id] = report
        else:
            self._live.pop(report.output_id, None)
        self._on_report(report)

    def _handle(self, line: messages.FromRelay) -> None:
        match line:
            case messages.OutputLine(attempt=0, phase="connecting"):
                with contextlib.suppress(ValueError):
                    code = Code.received(line.code) if line.code else ""
                    self._on_report(CheckReport(UUID(line.output_id), code))
            case messages.OutputLine():
                with contextlib.suppress(ValueError):
                    output_id = UUID(line.output_id)
                    code, known = (Code.received(one) if one else "" for one in (line.code, line.if_key_worked))
                    self._report_output(
                        OutputReport(
                            output_id,
                            line.attempt,
                            line.phase,
                            line.at,
                            code,
                            line.detail,
                            if_key_worked=known,
                            number=line.number,
                            age=_age(line.mono),
                        )
                    )
            case messages.SourceLine():
                code = Code.received(line.code) if line.code else ""
                self._room.observe(line)
                self._room.make(self._broadcast)
                self._on_report(SourceReport(line.phase, line.at, code, line.detail, line.ready, _age(line.mono)))
            case messages.MetricsLine():
                self._measure(line)
                for one in line.outputs:
                    self._on_report(_metrics(one, line))
            case _:
                pass

    def _measure(self, line: messages.MetricsLine) -> None:
        if self._configuration is None or self._broadcast is None:
            return
        # A relay whose host sends less, or that publishes nothing, takes less than it will.
        full = line.source_fps >= STEADY_SHARE * self._configuration.preset.fps
        publishing = any(one.bitrate_kbps > 0 for one in line.outputs)
        key = cost_key(NAME, self._broadcast.preset)
        self.load = EngineLoad(
            self.ref, time.monotonic(), key, line.encode_load, line.late_ms / 1000, full and publishing
        )

    def _close(self) -> None:
        self._on_close(self)
        self._room.close()
        self._writer.close()
        self._process.close()


def _age(mono: float) -> float | None:
    """The age of a change that a relay stamped with the monotonic clock of this machine."""
    return max(time.monotonic() - mono, 0.0) if mono else None


def _metrics(one: messages.OutputMetrics, line: messages.MetricsLine) -> MetricsReport:
    data = {
        "bitrate_kbps": one.bitrate_kbps,
        "fps": one.fps,
        "dropped_frames": one.dropped_frames,
        "uptime_s": one.uptime_s,
        "bytes_sent": one.bytes_sent,
        "bytes_acked": one.bytes_acked,
        "rtt_ms": one.rtt_ms,
        "queue_ms": one.queue_ms,
        "source_fps": line.source_fps,
        "encode_load": line.encode_load,
        "rss_mib": line.rss_mib,
        "late_ms": line.late_ms,
        "skipped_frames": line.skipped_frames,
    }
    return MetricsReport(UUID(one.output_id), one.attempt, line.at, data)
