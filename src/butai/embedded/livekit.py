"""A real LiveKit for one machine: livekit-server, under Butai's own supervisor.

It is a Go program, in no wheel: `make run` builds it into `.tools/bin`. Its rooms
are in memory only, so only its key and its ports must be kept. The differences from `livekit-server --dev`:
- its API key is random, in files of mode 0600, and remembered, so that tokens outlive a restart;
- everything is on loopback: HTTP, media (one UDP port) and the STUN server that it names to browsers, which would
  otherwise use Google's. Media over TCP is off, since LiveKit would listen for it on every address;
- it sends its webhooks to our API.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from butai.embedded.folder import choose_port, write_secret_json
from butai.embedded.listening import ask
from butai.embedded.process import Child, StartError
from butai.embedded.server import EmbeddedServer

MISSING = "livekit-server is not installed: run `make livekit` (it wants Go 1.26 or newer), or set LIVEKIT_URL"
_NEEDED = 1024**2
_DISCARD = 9
"""A port without a service (RFC 863), on loopback."""


@dataclass(frozen=True, slots=True)
class LiveKit:
    """The server's URL and API key."""

    url: str
    api_key: str
    api_secret: str = field(repr=False)


def livekit_binary() -> Path | None:
    """The program: from this checkout or environment, from PATH, or from Go's folder. None when there is none.

    `go install` names it `server`, after its folder; a program of that name must print LiveKit's version.
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


class EmbeddedLiveKit(EmbeddedServer[LiveKit]):
    """One server with one folder. A second `start` in a row is a no-op; `stop` keeps the key.

    with EmbeddedLiveKit(folder) as server:
        connect(server.livekit.url, token(server.livekit.api_key, server.livekit.api_secret))
    """

    event_prefix = "livekit"
    file_prefix = "livekit"
    called = "LiveKit"
    patience = 30.0

    def __init__(self, data_dir: Path, *, log_file: Path | None = None, webhooks: Sequence[str] = ()) -> None:
        """Changes no file before `prepare`. `webhooks`: URLs that get LiveKit's webhooks, signed with the key."""
        super().__init__(data_dir, log_file)
        self._webhooks = list(webhooks)

    @property
    def livekit(self) -> LiveKit:
        """Known after `prepare`, before the server runs."""
        return LiveKit(f"ws://127.0.0.1:{self.port}", self._state["api_key"], self._state["api_secret"])

    @property
    def port(self) -> int:
        """The HTTP port, on 127.0.0.1. Known after `prepare`."""
        return int(self._state["port"])

    def _address(self) -> LiveKit:
        return self.livekit

    def _program(self) -> Path:
        program = livekit_binary()
        if program is None:
            raise StartError(MISSING)
        return program

    def _needed_bytes(self) -> int:
        return _NEEDED

    def _settle(self, before: Mapping[str, str]) -> dict[str, str]:
        state = dict(before)
        state.setdefault("api_key", "BUTAI" + secrets.token_hex(8))
        state.setdefault("api_secret", secrets.token_urlsafe(36))
        port = choose_port(state.get("port"))
        state["port"] = str(port)
        state["udp_port"] = str(_choose_udp_port(state.get("udp_port"), avoid=port))
        return state

    def _furnish(self, alive: int) -> None:  # noqa: ARG002 - of all servers
        # JSON is YAML.
        write_secret_json(self.data_dir / "config.yaml", self._config())

    def _spawn(self, alive: int) -> Child:
        return Child(
            [self._program(), "--config", "config.yaml"],
            # None of the caller's variables: LIVEKIT_CONFIG or UDP_PORT would override the file.
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self.data_dir)},
            log=self.log_file,
            cwd=self.data_dir,
            death_signal=signal.SIGKILL,
            pass_fds=[alive],
        )

    def _ask(self) -> str:
        answer = ask(f"http://127.0.0.1:{self.port}/")
        return "" if answer == (200, "OK") else "{} {}".format(*answer)

    def _why_it_ended(self) -> str:
        return f"LiveKit ended at once: {self._said(1) or 'no reason given'} (see {self.log_file})"

    def _end(self, child: Child, *, fast: bool) -> None:
        if not fast:
            # At the first signal it waits until all participants have left; at the second it ends.
            child.send(signal.SIGTERM)
            child.wait(0.2)
        child.stop(signal.SIGKILL if fast else signal.SIGTERM, timeout=2.0)

    def _config(self) -> dict[str, object]:
        state = self._state
        config: dict[str, object] = {
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
        return config


def _choose_udp_port(remembered: str | None, *, avoid: int) -> int:
    """Like `choose_port`, and free for UDP too."""
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
