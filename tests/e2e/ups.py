"""Runs `butai up` as a person does, and looks at what it started."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import pty
import random
import re
import shlex
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import psutil

from butai.sign_in.codes import make_code
from tests.files import vrm
from tests.waiting import holds_within

READY = "Ctrl-C ends it."


def environment(given: dict[str, str]) -> dict[str, str]:
    """What the caller has set for Butai must not decide a test, and neither must how busy the machine is."""
    foreign = ("BUTAI_", "LIVEKIT_", "NEXTAUTH_", "AUTH_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"BUTAI_CAPACITY": "100", "BUTAI_ADMIT_WHEN_LATE": "true"} | given


class Up:
    """One `butai up` in a process of its own, its output collected."""

    def __init__(
        self, data_dir: Path, *arguments: str, terminal: bool = False, given: dict[str, str] | None = None
    ) -> None:
        argv = [sys.executable, "-m", "butai.cli", "up", "--data-dir", str(data_dir), *arguments]
        if "--port" not in arguments:
            argv += ["--port", "0"]
        self.data_dir = data_dir
        self.began = time.monotonic()
        self.keyboard, screen = pty.openpty() if terminal else (None, None)
        self.process = subprocess.Popen(
            argv,
            env=environment(given or {}),
            stdin=screen if terminal else subprocess.DEVNULL,
            stdout=screen or subprocess.PIPE,
            stderr=screen or subprocess.STDOUT,
            # With a terminal of its own, of which it is the foreground process, as in a shell.
            start_new_session=terminal,
            preexec_fn=take_terminal if terminal else None,  # noqa: PLW1509 - two system calls, and no thread yet
        )
        if screen is not None:
            os.close(screen)
        self.source = self.keyboard if self.keyboard is not None else self.process.stdout.fileno()  # type: ignore[union-attr]
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(self.source, 4096):
                self.said += chunk.decode(errors="replace").replace("\r\n", "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        doomed = self.family() if self.process.poll() is None else []
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        psutil.wait_procs(doomed, 3)
        self._reader.join(2)
        if self.keyboard is not None:
            os.close(self.keyboard)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def ready(self, seconds: float = 120) -> Up:
        assert holds_within(lambda: READY in self.said or self.process.poll() is not None, seconds), self.said
        assert self.process.poll() is None, self.said
        return self

    def ended(self, seconds: float = 120) -> int:
        status = self.process.wait(seconds)
        self._reader.join(2)
        return status

    @property
    def url(self) -> str:
        found = re.search(r"API +(http://\S+)", self.said)
        assert found, self.said
        return found[1]

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, role: str) -> psutil.Process:
        """`api`, `worker`, `controller`, `postgres`, `weed` or `livekit-server`."""
        for process in psutil.Process(self.process.pid).children():
            if role in (name(process), command(process)[-1]):
                return process
        raise AssertionError(f"no {role} among {commands(self.family())}")

    def runs(self, role: str) -> bool:
        """One of Butai's own processes: `api`, `worker` or `controller`."""
        return any(words[-1] == role for words in commands(self.family()))


def command(process: psutil.Process) -> list[str]:
    """Its words; one of none where it has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline() or [""]
    return [""]


def name(process: psutil.Process) -> str:
    """Nothing where it has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def connections(process: psutil.Process) -> list[Any]:
    """None where it has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.net_connections(kind="inet")
    return []


def kill(processes: list[psutil.Process]) -> None:
    """All of them: the end of one may be the end of another, before its turn."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def commands(processes: list[psutil.Process]) -> list[list[str]]:
    return [command(process) for process in processes]


def take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def ask(
    method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None, timeout: float = 60
) -> tuple[int, bytes, http.client.HTTPMessage]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
    try:
        connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def sign_in(up: Up, user: str = "demo") -> dict[str, str]:
    """Signs in as the page of a `butai sign-in` link does."""
    code = json.dumps({"code": make_code(up.data_dir, user)}).encode()
    status, body, headers = ask("POST", f"{up.url}/api/session", code, {"Content-Type": "application/json"})
    assert status == 303, body
    return {"Cookie": headers["set-cookie"].split(";")[0]}


def printed_commands(said: str) -> list[str]:
    """The lines with curl that `butai up` offers, as they work in any folder."""
    program = shlex.quote(str(Path(sys.prefix) / "bin" / "butai"))
    return [
        re.sub(r"^\S*butai(?= sign-in )", program, line)
        for line in re.findall(r"^ {4}((?:\S+ sign-in .*\| )?curl .*)$", said, re.MULTILINE)
    ]


def upload(url: str, cookie: dict[str, str], key: str, body: bytes) -> int:
    boundary = "butai-test"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (("fileName", key), ("fileType", "model/vrm"))
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.vrm"\r\n'
    parts += [head.encode() + b"Content-Type: model/vrm\r\n\r\n" + body + f"\r\n--{boundary}--\r\n".encode()]
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return ask("POST", f"{url}/api/s3/upload", b"".join(parts), cookie | kind)[0]


def read_back(url: str, cookie: dict[str, str], key: str) -> tuple[int, bytes]:
    return ask("GET", f"{url}/api/s3/read-object?key={quote(key)}", headers=cookie)[:2]


def livekit_url(up: Up) -> str:
    found = re.search(r"LiveKit +ws(://\S+)", up.said)
    assert found, up.said
    return f"http{found[1]}/"


def serves(up: Up) -> bool:
    """It answers, takes an upload and gives it back: all parts work together."""
    key, body = f"vrm/probe-{random.randrange(10**9)}.vrm", vrm(random.randrange(10**9))
    try:
        cookie = sign_in(up)
        return upload(up.url, cookie, key, body) == 200 and read_back(up.url, cookie, key) == (200, body)
    except (OSError, http.client.HTTPException, AssertionError):
        return False


class Machine:
    """A data folder, and the `butai up` that runs on it: started when a test needs one and none runs."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self.data_dir, self._arguments = data_dir, arguments
        self._up: Up | None = None

    def up(self, *, terminal: bool = False) -> Up:
        """The one that runs, or another one that is ready; in a terminal of its own where that is asked for."""
        if self._up is not None and self._up.process.poll() is None and (self._up.keyboard is not None or not terminal):
            return self._up
        self.end()
        self._up = Up(self.data_dir, *self._arguments, terminal=terminal)
        return self._up.ready()

    def end(self) -> None:
        """SIGKILL, if there is one."""
        if self._up is not None:
            self._up.__exit__()
            self._up = None

    def written(self, log: str) -> Callable[[], str]:
        """Gives what comes into a log from now on."""
        path = self.data_dir / "logs" / log
        before = path.stat().st_size
        return lambda: path.read_bytes()[before:].decode(errors="replace")
