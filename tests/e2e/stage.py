"""The whole service for the tests of going live: real processes, each of which a test may break."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

import psutil
from livekit import api
from pydantic import SecretStr

from butai import database
from butai.config import IdentitySettings
from butai.embedded.livekit import EmbeddedLiveKit
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.seaweed import EmbeddedSeaweed
from butai.identity import NEXTAUTH_COOKIE, dev_sign_in_cookie
from butai.live.egress.relay.process import lock_holder
from butai.relay.standby import RELAY_NAME
from tests.processes import free_port

SECRET = "canary-nextauth-secret-live-9c"
IDENTITY = IdentitySettings(NEXTAUTH_SECRET=SecretStr(SECRET))  # pyright: ignore[reportCallIssue]


class Stage:
    """Started once for many tests. `more`: settings, as environment variables."""

    def __init__(self, seaweed: EmbeddedSeaweed, **more: str) -> None:
        # Short: relays have their sockets in it.
        self.folder = Path(tempfile.mkdtemp(prefix="butai-live-"))
        self.folder.chmod(0o711)
        # Commits are in the kernel's hands when they return: a test kills Postgres, not the machine.
        self.postgres = EmbeddedPostgres(self.folder / "postgres", settings={"fsync": "off"})
        self.livekit = EmbeddedLiveKit(self.folder / "livekit")
        self.relays_folder = self.folder / "relays"
        self._seaweed, self._more = seaweed, more
        self._port = free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """The URL of the API."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        try:
            self.postgres.start()
            database.migrate(self.postgres.owner_url, service_url=self.postgres.url)
            self.livekit.start()
            self.start("api")
            self.start("controller")
        except BaseException:
            self.__exit__()
            raise
        return self

    def mend(self) -> None:
        """Starts whatever does not run any more."""
        for server in (self.postgres, self.livekit):
            if server.child is None or server.child.poll() is not None:
                server.start()
        for role in ("api", "controller"):
            if not self.alive(role):
                self.start(role)

    def __exit__(self, *_: object) -> None:
        for role in ("controller", "api"):
            self.end(role)
        for relay in self.relays():
            with contextlib.suppress(psutil.NoSuchProcess):
                relay.kill()
        self.livekit.stop(fast=True)
        self.postgres.stop(fast=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, role: str) -> None:
        """`api`, `controller`, or another controller under a name of its own (`controller-2`). It may not be ready
        yet."""
        with self.log(role).open("ab") as log:
            self._running[role] = subprocess.Popen(
                [sys.executable, "-m", "butai.cli", role.partition("-")[0]],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, role: str) -> None:
        """SIGKILL; gone when this returns."""
        process = self._running.pop(role)
        assert process.poll() is None, self.tail(role)
        process.kill()
        process.wait()

    def end(self, role: str) -> None:
        """Politely."""
        process = self._running.pop(role, None)
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def alive(self, role: str) -> bool:
        """Whether it runs."""
        return role in self._running and self._running[role].poll() is None

    def pid(self, role: str) -> int:
        """The process id of a running process."""
        return self._running[role].pid

    def log(self, role: str) -> Path:
        """What a process wrote."""
        return self.folder / f"{role}.log"

    def tail(self, role: str) -> str:
        """The end of that."""
        return self.log(role).read_text(errors="replace")[-3000:] if self.log(role).exists() else ""

    def relays(self, broadcast: str = "") -> list[psutil.Process]:
        """The relays of this stage that run, or that of one broadcast."""
        return relays_in(self.relays_folder, broadcast)

    def _environment(self) -> dict[str, str]:
        foreign = ("BUTAI_", "LIVEKIT_", "NEXTAUTH_", "AUTH_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        store, livekit = self._seaweed.store, self.livekit.livekit
        return kept | {
            "BUTAI_DATABASE_URL": self.postgres.url,
            "BUTAI_S3_ENDPOINT": store.endpoint,
            "BUTAI_S3_BUCKET": store.bucket,
            "BUTAI_S3_ACCESS_KEY_ID": store.credentials.access_key_id,
            "BUTAI_S3_SECRET_ACCESS_KEY": store.credentials.secret_access_key,
            "BUTAI_PORT": str(self._port),
            "NEXTAUTH_SECRET": SECRET,
            "LIVEKIT_URL": livekit.url,
            "LIVEKIT_API_KEY": livekit.api_key,
            "LIVEKIT_API_SECRET": livekit.api_secret,
            "BUTAI_ALLOW_PRIVATE_INGEST": "true",
            "BUTAI_SECRET_KEY_FILE": str(self.folder / "secret.key"),
            "BUTAI_RELAY_FOLDER": str(self.relays_folder),
            # These tests bring more broadcasts on air than two busy cores carry well, and look at other things.
            "BUTAI_CAPACITY": "100",
            "BUTAI_ADMIT_WHEN_LATE": "true",
            # Tests of their own have it; here loading one for each host would take the processors of what is looked at.
            "BUTAI_RELAY_STANDBY": "false",
            **self._more,
        }

    def cookie(self, user: str) -> dict[str, str]:
        """Headers that sign `user` in."""
        return {"Cookie": f"{NEXTAUTH_COOKIE}={dev_sign_in_cookie(IDENTITY, user)}"}

    def livekit_api(self) -> api.LiveKitAPI:
        """LiveKit's own service API, as its operator."""
        livekit = self.livekit.livekit
        return api.LiveKitAPI(livekit.url.replace("ws://", "http://"), livekit.api_key, livekit.api_secret)


def relays_in(folder: Path, broadcast: str = "") -> list[psutil.Process]:
    """The relays that run with this folder for their sockets, or that of one broadcast. Not one on standby, which has none."""
    holder = lock_holder(folder / f"{broadcast}.lock") if broadcast else None
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if (
                is_relay(process)
                and str(folder) in words
                and (not broadcast or broadcast in words or process.pid == holder)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def is_relay(process: psutil.Process) -> bool:
    """Whether it is a relay that has a broadcast. Raises `psutil.Error`."""
    words = process.cmdline()
    return "butai.relay" in words and ("--standby" not in words or process.name() == RELAY_NAME)
