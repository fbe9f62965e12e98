"""The built-in relay behind the port: one process for each broadcast on this host, spoken to over its unix socket.

Picked by `butai.cli`. Stream keys are opened here, at the last moment, and go through the socket; so does the token with
which the relay joins the room: hidden, to listen only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast
from uuid import UUID

import msgspec
import structlog

from butai.errors import Code, LiveKitNotConfigured
from butai.live.egress.presets import PRESETS
from butai.live.egress.relay.process import EXIT_RUNNING_ALREADY, Watched, lock_holder, peer, prepare_folder, spawn
from butai.live.projects import LiveKitKey, Projects
from butai.live.reconcile.port import EngineFenced, EngineUnavailable, Hear
from butai.live.reconcile.reports import EngineGone, MetricsReport, OutputReport, SourceReport
from butai.live.reconcile.rows import BroadcastRow
from butai.live.tokens import Tokens
from butai.relay import messages

log = structlog.get_logger(__name__)

COMMAND = (sys.executable, "-m", "butai.relay")
START_PATIENCE = 20.0
"""Seconds from the start of a relay's process until it must have answered. It takes about one."""
STARTS_AT_ONCE = 4
"""More would only slow each other down: loading a relay takes a core for most of a second."""
WELCOME_PATIENCE = 3.0
"""Seconds for the answer to `Hello`."""
END_PATIENCE = 10.0
"""Seconds for a relay that has no socket any more, or none yet. It gives its own end 8."""
PING_EVERY = 5.0
"""Seconds. A relay ends when it has heard nothing for 30."""
SILENT_TICKS = 2
"""Pings without a word from a configured relay, which speaks each second, until it counts as lost."""
TOKEN_EVERY = 6 * 3600.0
"""Seconds between two tokens: a relay that joins anew after days needs a young one."""
_LOOK_AGAIN = 0.03


class RelayEgress:
    """All relays of one controller."""

    name = "relay"

    def __init__(
        self,
        folder: Path,
        projects: Projects,
        open_key: Callable[[bytes], str],
        *,
        controller: str,
        allow_private: bool = False,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """`open_key`: a sealed stream key's text; any exception means that it cannot be opened. Raises `FolderRefused`."""
        self.folder = prepare_folder(folder)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # With the folder: who looks elsewhere does not find our relays, though it may be on this machine.
        self.host = f"{socket.gethostname()} {boot} {self.folder}"
        self.projects, self.open_key, self.allow_private = projects, open_key, allow_private
        self.tokens = Tokens(projects)
        self._controller, self._command = controller, command
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE)
        self._engines: set[RelayEngine] = set()
        self._may_feed = True
        self._feeding: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Relays need nothing before they are asked for."""

    async def find(self, broadcast_id: UUID, epoch: int) -> RelayEngine | None:
        """Adopts a running relay. One that does not answer is ended, since it may push. Raises `EngineFenced`."""
        deadline = time.monotonic() + END_PATIENCE
        while True:
            engine = await self._connect(broadcast_id, epoch)
            if engine is not None:
                log.info("relay.adopted", broadcast_id=str(broadcast_id), pid=engine.pid)
                return engine
            holder = lock_holder(self.folder / f"{broadcast_id}.lock")
            if holder is None:
                return None
            # It comes up or goes down.
            if time.monotonic() >= deadline:
                await self._end(holder, broadcast_id)
                return None
            await asyncio.sleep(_LOOK_AGAIN)

    async def start(self, broadcast_id: UUID, epoch: int) -> RelayEngine:
        """A new process. Raises `EngineUnavailable`, `EngineFenced`."""
        async with self._starts:
            try:
                child = spawn(self._command, self.folder, str(broadcast_id))
            except OSError as error:
                raise EngineUnavailable(f"the relay does not start: {error.strerror}") from error
            watched = Watched(child.pid, child)
            try:
                async with asyncio.timeout(START_PATIENCE):
                    engine = await self._await(broadcast_id, epoch, watched)
            except BaseException as error:
                watched.kill()
                watched.close()
                if isinstance(error, TimeoutError):
                    raise EngineUnavailable(f"the relay did not answer within {START_PATIENCE:.0f} s") from None
                raise
            watched.close()
            log.info("relay.started", broadcast_id=str(broadcast_id), pid=engine.pid)
            return engine

    def may_feed(self, allowed: bool) -> None:
        """Whether relays get their pings."""
        self._may_feed = allowed

    async def close(self) -> None:
        """Leaves all relays running."""
        if self._feeding is not None:
            self._feeding.cancel()
            await asyncio.gather(self._feeding, return_exceptions=True)
        for engine in list(self._engines):
            engine.leave()

    async def _await(self, broadcast_id: UUID, epoch: int, watched: Watched) -> RelayEngine:
        while True:
            engine = await self._connect(broadcast_id, epoch)
            if engine is not None:
                return engine
            # Another relay of this broadcast may be on its way, started by a controller that is no more.
            if watched.ended.is_set():
                other = lock_holder(self.folder / f"{broadcast_id}.lock") is not None
                if watched.status != EXIT_RUNNING_ALREADY or not other:
                    raise EngineUnavailable(f"the relay ended at once with status {watched.status}: see its log")
            await asyncio.sleep(_LOOK_AGAIN)

    async def _connect(self, broadcast_id: UUID, epoch: int) -> RelayEngine | None:
        path = self.folder / f"{broadcast_id}.sock"
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=messages.LINE_LIMIT)
        except OSError:
            return None
        pid = peer(writer)
        try:
            async with asyncio.timeout(WELCOME_PATIENCE):
                writer.write(messages.encode(messages.HelloLine(self._controller, epoch)))
                line = await reader.readline()
            if not line:
                writer.close()
                return None
            answer = messages.read_by_controller(line)
            if isinstance(answer, messages.RefusedLine):
                raise EngineFenced
            if isinstance(answer, messages.WelcomeLine):
                engine = RelayEngine(self, broadcast_id, reader, writer, Watched(pid), answer)
                self._engines.add(engine)
                self._feeding = self._feeding or asyncio.create_task(self._feed())
                return engine
        except (msgspec.MsgspecError, ValueError, OSError) as error:
            # A time-out is an OSError, too.
            log.warning("relay.no_welcome", broadcast_id=str(broadcast_id), error=type(error).__name__)
        except BaseException:
            writer.close()
            raise
        writer.close()
        await self._end(pid, broadcast_id)
        return None

    async def _end(self, pid: int, broadcast_id: UUID) -> None:
        """Ends a relay that nobody can talk to. Only what surely is one of this broadcast."""
        try:
            watched = Watched(pid)
            argv = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return
        if str(broadcast_id).encode() in argv:
            log.warning("relay.killed", broadcast_id=str(broadcast_id), pid=pid)
            watched.kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await watched.ended.wait()
        watched.close()

    async def _feed(self) -> None:
        while True:
            await asyncio.sleep(PING_EVERY)
            for engine in list(self._engines):
                engine.tick(ping=self._may_feed)

    def forget(self, engine: RelayEngine) -> None:
        """It is gone, or left."""
        self._engines.discard(engine)


class RelayEngine:
    """One relay that obeys us."""

    def __init__(
        self,
        egress: RelayEgress,
        broadcast_id: UUID,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        watched: Watched,
        welcome: messages.WelcomeLine,
    ) -> None:
        self._egress, self._broadcast_id = egress, broadcast_id
        self._reader, self._writer, self._watched, self._welcome = reader, writer, watched, welcome
        self._hear: Hear = lambda _: None
        self._reading: asyncio.Task[None] | None = None
        self._configuration: messages.ConfigureLine | None = None
        self._broadcast: BroadcastRow | None = None
        self._token_at = 0.0
        self._signed_by: LiveKitKey | None = None
        self._silent_ticks = 0
        self._lost_silent = False

    @property
    def ref(self) -> str:
        """Of the process."""
        return self._welcome.run_id

    @property
    def pid(self) -> int:
        """As the kernel knows it."""
        return self._watched.pid

    def follow(self, hear: Hear, lost: Callable[[], None]) -> None:
        """Begins with the welcome."""
        self._hear = hear
        self._take(self._welcome.source)
        for output in self._welcome.outputs:
            self._take(output)
        self._reading = asyncio.create_task(self._read(lost))

    def configure(self, broadcast: BroadcastRow) -> None:
        """To a relay that was configured before, this is a younger token."""
        try:
            project = self._egress.projects.get(broadcast.livekit_project)
        except LiveKitNotConfigured:
            # Taken away while the room was in it.
            why = f"no LiveKit project {broadcast.livekit_project} is configured"
            self._hear(SourceReport("failed", time.time(), Code.LIVEKIT_UNAUTHORIZED, why))
            return
        self._configuration = messages.ConfigureLine(
            broadcast_id=str(broadcast.id),
            livekit_url=project.url,
            token=self._token(broadcast),
            host_identity=broadcast.host_identity,
            preset=PRESETS[broadcast.preset],
            video_source=broadcast.video_source,
            video_name=broadcast.video_name,
            grace=broadcast.source_grace,
            on_lost=cast(Literal["end", "stay"], broadcast.on_source_lost),
        )
        self._broadcast = broadcast
        self._token_at = time.monotonic()
        self._signed_by = project.key
        self._say(self._configuration)

    def start_output(self, output_id: UUID, attempt: int, url: str, sealed_key: bytes) -> None:
        """The key is opened here and nowhere else."""
        try:
            key = self._egress.open_key(sealed_key)
        except Exception as error:
            log.error("output.key_sealed", output_id=str(output_id), error=type(error).__name__)
            detail = "the stream key cannot be opened with the keys of this installation"
            self._hear(OutputReport(output_id, attempt, "failed", time.time(), Code.INVALID_DESTINATION, detail))
            return
        self._say(messages.StartOutputLine(str(output_id), attempt, url, key, self._egress.allow_private))

    def stop_output(self, output_id: UUID) -> None:
        """One push."""
        self._say(messages.StopOutputLine(str(output_id)))

    def stop(self) -> None:
        """All pushes and the process."""
        self._say(messages.StopLine())

    def kill(self) -> None:
        """The process."""
        log.warning("relay.killed", broadcast_id=str(self._broadcast_id), pid=self.pid)
        self._watched.kill()

    def leave(self) -> None:
        """Hangs up."""
        if self._reading is not None:
            self._reading.cancel()
        self._close()

    def tick(self, *, ping: bool) -> None:
        """Each five seconds. A relay that is not heard any more is taken for lost, and ended."""
        if ping:
            self._say(messages.PingLine())
        if self._configuration is None or self._broadcast is None:
            return
        self._silent_ticks += 1
        if self._silent_ticks > SILENT_TICKS and not self._lost_silent:
            log.warning("relay.silent", broadcast_id=str(self._broadcast_id), pid=self.pid)
            self._lost_silent = True
            self._watched.kill()
        self._renew(self._configuration, self._broadcast)

    def _renew(self, configuration: messages.ConfigureLine, broadcast: BroadcastRow) -> None:
        """Another token when the last is old, or its key has been exchanged: LiveKit may not know that one for long."""
        try:
            key = self._egress.projects.get(broadcast.livekit_project).key
        except LiveKitNotConfigured:
            return
        now = time.monotonic()
        if key != self._signed_by or now - self._token_at > TOKEN_EVERY:
            self._token_at, self._signed_by = now, key
            self._say(msgspec.structs.replace(configuration, token=self._token(broadcast)))

    def _token(self, broadcast: BroadcastRow) -> str:
        return self._egress.tokens.for_egress(broadcast.livekit_project, broadcast.room_id, f"egress-{broadcast.id}")

    def _say(self, line: messages.FromController) -> None:
        if not self._writer.is_closing():
            self._writer.write(messages.encode(line))

    async def _read(self, lost: Callable[[], None]) -> None:
        bye: str | None = None
        try:
            while line := await self._reader.readline():
                self._silent_ticks = 0
                said = messages.read_by_controller(line)
                if isinstance(said, messages.ByeLine):
                    bye = said.reason
                else:
                    self._take(said)
        except (msgspec.MsgspecError, ValueError) as error:
            # Not the line: nothing secret is in it, but nothing is known of it either.
            log.warning("relay.bad_line", broadcast_id=str(self._broadcast_id), error=type(error).__name__)
        except OSError:
            pass
        if bye is None:
            # A killed process loses its socket a moment before it is gone.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._watched.ended.wait()
            if not self._watched.is_gone():
                self._close()
                lost()
                return
        code = {"stopped": "", "abandoned": Code.EGRESS_LOST}.get(bye or "", Code.EGRESS_CRASHED)
        if self._lost_silent:
            code = Code.EGRESS_LOST
        detail = f"the relay said: {bye}" if bye else "the relay's process ended without a word"
        self._close()
        self._hear(EngineGone(time.time(), code, detail))

    def _take(self, said: messages.FromRelay) -> None:
        match said:
            case messages.OutputLine():
                with contextlib.suppress(ValueError):
                    output_id = UUID(said.output_id)
                    code = Code.received(said.code) if said.code else ""
                    self._hear(OutputReport(output_id, said.attempt, said.phase, said.at, code, said.detail))
            case messages.SourceLine():
                code = Code.received(said.code) if said.code else ""
                self._hear(SourceReport(said.phase, said.at, code, said.detail))
            case messages.MetricsLine():
                for one in said.outputs:
                    self._hear(_metrics(one, said))
            case _:
                pass

    def _close(self) -> None:
        self._egress.forget(self)
        self._writer.close()
        self._watched.close()


def _metrics(one: messages.OutputMetrics, said: messages.MetricsLine) -> MetricsReport:
    data = {
        "bitrate_kbps": one.bitrate_kbps,
        "fps": one.fps,
        "dropped_frames": one.dropped_frames,
        "uptime_s": one.uptime_s,
        "bytes_sent": one.bytes_sent,
        "bytes_acked": one.bytes_acked,
        "rtt_ms": one.rtt_ms,
        "queue_ms": one.queue_ms,
        "source_fps": said.source_fps,
        "encode_load": said.encode_load,
        "rss_mib": said.rss_mib,
    }
    return MetricsReport(UUID(one.output_id), one.attempt, said.at, data)


def default_folder() -> Path:
    """Short, since a socket's path has at most 107 bytes."""
    return Path("/tmp") / f"butai-relays-{os.geteuid()}"
