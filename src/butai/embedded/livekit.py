"""A real LiveKit for one machine: livekit-server, under our own supervisor.

It is a program of Go, in no wheel: `make run` builds it into `.tools/bin`. Rooms
live in its memory alone, so nothing has to be kept but its key and its ports. What differs from `livekit-server --dev`:
- its API key is random, in closed files, and remembered, so that tokens outlive a restart;
- everything is on loopback: HTTP, media (one UDP port) and the STUN server that it names to browsers, which would
  otherwise be asked at Google. Media over TCP is off, since LiveKit would listen for it on every address;
- it tells our API what happens in its rooms.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import structlog

from butai.embedded.folder import choose_port, folder_errors, make_folder, read_state, take_lock, write_state
from butai.embedded.process import Child, StartError, log_tail, pause

log = structlog.get_logger(__name__)

MISSING = "livekit-server is not installed: run `make livekit` (it wants Go 1.26 or newer), or set LIVEKIT_URL"
_NEEDED = 1024**2
_DISCARD = 9
"""A port where nobody answers (RFC 863), on loopback."""


@dataclass(frozen=True, slots=True)
class LiveKit:
    """How to reach the server."""

    url: str
    api_key: str
    api_secret: str = field(repr=False)


def livekit_binary() -> Path | None:
    """The program: of this checkout or environment, of PATH, or where Go puts it. None when there is none.

    `go install` names it `server`, after its folder; a program of such a name is asked who it is.
    """
    roots = (Path(sys.prefix).parent, Path(__file__).parents[3])
    for root in roots:
        built = root / ".tools" / "bin" / "livekit-server"
        if os.access(built, os.X_OK):
            return built
    if found := shutil.which("livekit-server"):
        return Path(found)
    with contextlib.suppress(RuntimeError):
        bin_dir = Path.home() / "go" / "bin"
        if os.access(bin_dir / "livekit-server", os.X_OK):
            return bin_dir / "livekit-server"
        if os.access(bin_dir / "server", os.X_OK) and "livekit-server" in _version(bin_dir / "server"):
            return bin_dir / "server"
    return None


def _version(program: Path) -> str:
    try:
        asked = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout


class EmbeddedLiveKit:
    """One server with one folder. `start` twice in a row is one start; `stop` keeps the key.

    with EmbeddedLiveKit(folder) as server:
        connect(server.livekit.url, token(server.livekit.api_key, server.livekit.api_secret))
    """

    def __init__(self, data_dir: Path, *, log_file: Path | None = None, webhooks: Sequence[str] = ()) -> None:
        """Nothing is touched before `launch`. `webhooks`: URLs that are told what happens, signed with the key."""
        self.data_dir = data_dir
        self._log_file = log_file
        self._webhooks = list(webhooks)
        self._log_from = 0
        self._state: dict[str, str] = {}
        self._child: Child | None = None
        self._owner_lock: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def livekit(self) -> LiveKit:
        """Known after `prepare`, before the server runs."""
        state = self._state
        return LiveKit(f"ws://127.0.0.1:{state['port']}", state["api_key"], state["api_secret"])

    @property
    def child(self) -> Child | None:
        """The server, while there is one."""
        return self._child

    @property
    def log_file(self) -> Path:
        """What the server writes: warnings and errors."""
        return self._log_file or self.data_dir / "livekit.log"

    def start(self) -> LiveKit:
        """Run the server and wait until it answers. Raises `StartError`."""
        try:
            self.launch()
            self.wait_ready()
        except BaseException:
            self.stop(fast=True)
            raise
        return self.livekit

    def prepare(self) -> None:
        """Take the folder for this process; settle ports and the key. Raises `StartError`."""
        if self._owner_lock is not None:
            return
        if livekit_binary() is None:
            raise StartError(MISSING)
        self.data_dir = make_folder(self.data_dir, needed_bytes=_NEEDED)
        lock = take_lock(self.data_dir / "owner.lock")
        if lock is None:
            raise StartError(f"another process already runs LiveKit in {self.data_dir}")
        try:
            state_file = self.data_dir / "livekit.json"
            before = read_state(state_file)
            state = dict(before)
            state.setdefault("api_key", "BUTAI" + secrets.token_hex(8))
            state.setdefault("api_secret", secrets.token_urlsafe(36))
            port = choose_port(state.get("port"))
            state["port"] = str(port)
            state["udp_port"] = str(_choose_udp_port(state.get("udp_port"), avoid=port))
            if state != before:
                write_state(state_file, state)
        except BaseException:
            os.close(lock)
            raise
        self._state, self._owner_lock = state, lock

    def launch(self) -> None:
        """Start the server process and return at once. Also the way to start it again after it died. Raises `StartError`."""
        if self._child is not None and self._child.poll() is None:
            return
        self.prepare()
        program = livekit_binary()
        if program is None:
            raise StartError(MISSING)
        # Held by the server until it is gone for good: its ports are free then.
        alive = take_lock(self.data_dir / "alive.lock", wait=5.0)
        if alive is None:
            raise StartError(f"an earlier LiveKit in {self.data_dir} is still shutting down: try again in a moment")
        try:
            with folder_errors(self.data_dir):
                self._write_config()
                self._log_from = self.log_file.stat().st_size if self.log_file.exists() else 0
            self._child = Child(
                [program, "--config", "config.yaml"],
                # Nothing of the caller's: LIVEKIT_CONFIG or UDP_PORT would win over the file.
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self.data_dir)},
                log=self.log_file,
                cwd=self.data_dir,
                death_signal=signal.SIGKILL,
                pass_fds=[alive],
            )
        finally:
            os.close(alive)
        log.info("livekit.launched", port=int(self._state["port"]), pid=self._child.pid)

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until it answers. Raises `StartError`."""
        deadline = time.monotonic() + timeout
        while True:
            child = self._child
            if child is None:
                raise StartError("LiveKit was not launched")
            said = self._ask()
            if not said:
                log.info("livekit.ready", port=int(self._state["port"]), pid=child.pid)
                return
            if child.poll() is not None:
                last = log_tail(self.log_file, self._log_from, lines=1) or "no word of why"
                raise StartError(f"LiveKit ended at once: {last} (see {self.log_file})")
            if time.monotonic() >= deadline:
                raise StartError(f"LiveKit does not answer after {timeout:.0f} s ({said}): see {self.log_file}")
            pause(0.02)

    def stop(self, *, fast: bool = False) -> None:
        """Stop the server and give the folder back. `fast` kills it."""
        if self._child is not None:
            if not fast:
                # At the first word it waits for everybody to leave; at the second it ends.
                self._child.send(signal.SIGTERM)
                self._child.wait(0.2)
            self._child.stop(signal.SIGKILL if fast else signal.SIGTERM, timeout=2.0)
            self._child = None
            log.info("livekit.stopped", port=int(self._state["port"]))
        if self._owner_lock is not None:
            os.close(self._owner_lock)
            self._owner_lock = None

    def _write_config(self) -> None:
        """As JSON, which is YAML."""
        state = self._state
        config: dict[str, Any] = {
            "port": int(state["port"]),
            "bind_addresses": ["127.0.0.1"],
            "keys": {state["api_key"]: state["api_secret"]},
            "rtc": {
                "udp_port": int(state["udp_port"]),
                "tcp_port": 0,
                "node_ip": "127.0.0.1",
                "use_external_ip": False,
                "enable_loopback_candidate": True,
                "interfaces": {"includes": ["lo"]},
                "ips": {"includes": ["127.0.0.1/32"]},
                "stun_servers": [f"127.0.0.1:{_DISCARD}"],
            },
            "turn": {"enabled": False},
            "logging": {"level": "warn", "json": True},
        }
        if self._webhooks:
            config["webhook"] = {"api_key": state["api_key"], "urls": self._webhooks}
        descriptor = os.open(self.data_dir / "config.yaml", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(config, file, indent=1)

    def _ask(self) -> str:
        """Empty when it answers as LiveKit does."""
        connection = http.client.HTTPConnection("127.0.0.1", int(self._state["port"]), timeout=5.0)
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            body = response.read(100).decode(errors="replace")
            return "" if (response.status, body) == (200, "OK") else f"{response.status} {body}"
        except (OSError, http.client.HTTPException) as error:
            return str(error) or type(error).__name__
        finally:
            connection.close()


def _choose_udp_port(remembered: str | None, *, avoid: int) -> int:
    """As `choose_port`, and free for UDP too."""
    taken = {avoid}
    while True:
        port = choose_port(remembered, avoid=taken)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                taken.add(port)
                continue
        return port
