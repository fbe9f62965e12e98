"""A relay without media: it speaks relay/messages.py over its socket, and reports what a test orders.

As a process it replaces `python -m butai.relay` (same arguments, same lock, same socket). By itself every attempt goes
live at once; `script.json` in its folder says otherwise, by the output's URL, one entry for each attempt, the last for
all further ones: `{"rtmp://b/app": [["failed", "destination_unreachable"], ["live", ""]]}`. `["", ""]` says nothing at
all. `<id>.ctl` takes JSON lines while it runs: `{"output": id, "phase": …, "code": …}`, `{"source": phase, "code": …}`,
`{"checked": id, "code": …}` (the check of a held output's server),
`{"deaf": true}` (hears orders and does nothing), `{"repeat": true}` (says its last reports once more),
`{"late_ms": 150}` (its pictures are late from now on).
What it heard and when goes to `<id>.heard`: one JSON object a line, without keys.

With `--many` it is many relays in one process: standard input takes lines `listen ID` and `say ID JSON`, and answers
`listening ID`. No lock then.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from butai.relay import messages
from butai.relay.messages import ByeLine, FromRelay, MetricsLine, OutputLine, OutputMetrics, SourceLine, WelcomeLine
from butai.relay.timing import RelayTiming

EXIT_RUNNING_ALREADY = 3


class ReportingRelay:
    """A relay of one broadcast. `run` until it is ordered to end."""

    def __init__(self, folder: Path, broadcast_id: str, *, keep_log: bool = True) -> None:
        self.folder, self.broadcast_id, self.keep_log = folder, broadcast_id, keep_log
        self.run_id = uuid.uuid4().hex
        self.epoch = -1
        self.configured = False
        self.deaf = False
        self.late_ms = 0.0
        self.source = SourceLine(phase="connecting", at=time.time())
        self.outputs: dict[str, OutputLine] = {}
        self.since: dict[str, float] = {}
        self.writer: asyncio.StreamWriter | None = None
        self.heard_at = time.monotonic()
        self.timing = RelayTiming()
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.listening = asyncio.Event()

    async def run(self) -> None:
        path = self.folder / f"{self.broadcast_id}.sock"
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._talk, path, limit=messages.LINE_LIMIT)
        control = None
        if self.keep_log:
            control_path = self.folder / f"{self.broadcast_id}.ctl"
            control_path.unlink(missing_ok=True)
            control = await asyncio.start_unix_server(self._control, control_path)
        self.listening.set()
        metrics = asyncio.create_task(self._metrics())
        reason = await self.end
        metrics.cancel()
        for output in list(self.outputs.values()):
            if output.phase not in ("failed", "ended"):
                self._set(output.output_id, output.attempt, "ended")
        self.tell(ByeLine(reason))
        server.close()
        if control:
            control.close()
        if self.writer is not None:
            with contextlib.suppress(OSError):
                await self.writer.drain()
            self.writer.close()
        path.unlink(missing_ok=True)

    def obey(self, order: dict[str, Any]) -> None:
        """A line of the script's."""
        if "deaf" in order:
            self.deaf = order["deaf"]
        elif "repeat" in order:
            for output in self.outputs.values():
                self.tell(output)
        elif "late_ms" in order:
            self.late_ms = order["late_ms"]
        elif "source" in order:
            self.source = SourceLine(order["source"], time.time(), order.get("code", ""))
            self.tell(self.source)
        elif "checked" in order:
            self.tell(OutputLine(order["checked"], 0, "connecting", time.time(), order["code"]))
        elif "end" in order:
            if not self.end.done():
                self.end.set_result(order["end"])
        else:
            known = self.outputs[order["output"]]
            self._set(known.output_id, order.get("attempt", known.attempt), order["phase"], order.get("code", ""))

    def tell(self, line: FromRelay) -> None:
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(messages.encode(line))

    def _set(self, output_id: str, attempt: int, phase: Any, code: str = "") -> None:
        self.outputs[output_id] = OutputLine(output_id, attempt, phase, time.time(), code)
        self.tell(self.outputs[output_id])

    def _note(self, what: str, **more: Any) -> None:
        if self.keep_log:
            with (self.folder / f"{self.broadcast_id}.heard").open("a") as out:
                out.write(json.dumps({"at": time.time(), "pid": os.getpid(), "what": what, **more}) + "\n")

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.obey(json.loads(line))
            writer.write(b"ok\n")
        writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            line = await reader.readline()
            if not line:
                return
            hello = messages.read_by_relay(line)
            assert isinstance(hello, messages.HelloLine)
            if hello.epoch < self.epoch:
                self._note("refused", epoch=hello.epoch)
                writer.write(messages.encode(messages.RefusedLine(self.epoch)))
                writer.close()
                return
            self._note("hello", epoch=hello.epoch, controller=hello.controller)
            self.epoch = hello.epoch
            before, self.writer = self.writer, writer
            if before is not None:
                before.close()
            self.heard_at = time.monotonic()
            self.tell(WelcomeLine(self.run_id, os.getpid(), self.configured, self.source, list(self.outputs.values())))
            while self.writer is writer and (line := await reader.readline()):
                self.heard_at = time.monotonic()
                order = messages.read_by_relay(line)
                if not self.deaf:
                    self._do(order)
        writer.close()

    def _do(self, order: messages.FromController) -> None:
        match order:
            case messages.ConfigureLine():
                assert order.token.count(".") == 2
                self._note("configure", host=order.host_identity, width=order.preset.width)
                self.configured, self.timing = True, order.timing
                if self.source.phase == "connecting":
                    waits = (self.folder / "waiting").exists()
                    self.source = SourceLine("waiting" if waits else "live", time.time(), ready=not waits)
                self.tell(self.source)
                if order.held:
                    self._note("check", servers=[one.server for one in order.held])
            case messages.StartOutputLine():
                key = hashlib.sha256(order.key.encode()).hexdigest()
                self._note(
                    "start",
                    output=order.output_id,
                    attempt=order.attempt,
                    url=order.url,
                    key_sha256=key,
                    hurried=order.hurried,
                )
                self._start(order)
            case messages.StopOutputLine():
                self._note("stop_output", output=order.output_id)
                known = self.outputs.get(order.output_id)
                self._set(order.output_id, known.attempt if known else 0, "ended")
            case messages.StopLine():
                self._note("stop")
                if not self.end.done():
                    self.end.set_result("stopped")
            case _:
                self._note("ping")

    def _start(self, order: messages.StartOutputLine) -> None:
        known = self.outputs.get(order.output_id)
        if known is not None and known.attempt >= order.attempt:
            self.tell(known)
            return
        if known is not None and known.phase not in ("failed", "ended"):
            self._note("two_at_once", output=order.output_id)
        self.since[order.output_id] = time.monotonic()
        self._set(order.output_id, order.attempt, "connecting")
        phase, code = self._scripted(order)
        if phase == "live":
            self._set(order.output_id, order.attempt, "publishing")
        if phase:
            self._set(order.output_id, order.attempt, phase, code)

    def _scripted(self, order: messages.StartOutputLine) -> tuple[str, str]:
        try:
            script = json.loads((self.folder / "script.json").read_text())
        except FileNotFoundError:
            return "live", ""
        entries = script.get(order.url)
        if not entries:
            return "live", ""
        phase, code = entries[min(order.attempt, len(entries)) - 1]
        return phase, code

    async def _metrics(self) -> None:
        total = 0
        while True:
            await asyncio.sleep(self.timing.metrics_every)
            if time.monotonic() - self.heard_at > self.timing.abandoned_after and not self.end.done():
                self.end.set_result("abandoned")
                return
            if not self.configured:
                continue
            total += 300_000
            now = time.monotonic()
            running = [one for one in self.outputs.values() if one.phase not in ("failed", "ended")]
            self.tell(
                MetricsLine(
                    time.time(),
                    [
                        OutputMetrics(
                            one.output_id,
                            one.attempt,
                            total,
                            total - 20_000,
                            2400.0,
                            30.0,
                            0,
                            12.5,
                            8.0,
                            round(now - self.since[one.output_id], 1),
                        )
                        for one in running
                    ],
                    30.0,
                    0.4,
                    120.0,
                    self.late_ms,
                )
            )


async def many(folder: Path) -> None:
    """Relays by command of standard input, until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    relays: dict[str, ReportingRelay] = {}
    tasks: set[asyncio.Task[None]] = set()
    while line := (await reader.readline()).decode().strip():
        what, _, rest = line.partition(" ")
        if what == "listen":
            relays[rest] = ReportingRelay(folder, rest, keep_log=False)
            tasks.add(asyncio.create_task(relays[rest].run()))
            await relays[rest].listening.wait()
            print(f"listening {rest}", flush=True)
        else:
            broadcast_id, _, order = rest.partition(" ")
            relays[broadcast_id].obey(json.loads(order))


async def one(folder: Path, broadcast_id: str, parent_pipe: int | None) -> int:
    lock = os.open(folder / f"{broadcast_id}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return EXIT_RUNNING_ALREADY
    relay = ReportingRelay(folder, broadcast_id)
    if parent_pipe is not None:
        asyncio.get_running_loop().add_reader(
            parent_pipe, lambda: None if relay.end.done() else relay.end.set_result("stopped")
        )
    await relay.run()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--broadcast")
    parser.add_argument("--parent-pipe-fd", type=int)
    parser.add_argument("--many", action="store_true")
    given = parser.parse_args()
    if given.many:
        asyncio.run(many(given.folder))
        return 0
    return asyncio.run(one(given.folder, given.broadcast, given.parent_pipe_fd))


if __name__ == "__main__":
    sys.exit(main())
