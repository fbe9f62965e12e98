"""The servers of `butai up` in folders of a test's own: held by a process that can be killed, or on a disk that is full."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

import psutil
import psycopg
import pytest
from pydantic import SecretStr

from butai import embedded
from butai.config import LiveKitSettings
from butai.embedded.livekit import EmbeddedLiveKit
from tests.waiting import holds_within

SOURCES = str(Path(embedded.__file__).parents[2])

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users and mount file systems")

HOLD = """
import sys, time
from pathlib import Path
from butai.embedded.{module} import {name}
print(">", {name}(Path(sys.argv[1])).start(){value}, flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def temporary_folder(name: str, mode: int = 0o700) -> Generator[Path]:
    """A folder with a short path below /tmp: a Unix socket's has at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix=f"butai-{name}-"))
    path.chmod(mode)
    yield path
    shutil.rmtree(path)


def holder(kind: type, folder: Path, value: str = "", **options: object) -> subprocess.Popen[str]:
    """A process that runs the server of this class in `folder` until it is killed; its line that begins with `>` says what
    `start` returned, or the attribute of it that `value` names (`.url`)."""
    script = HOLD.format(module=kind.__module__.rpartition(".")[2], name=kind.__name__, value=value)
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": SOURCES},
        **options,  # type: ignore[arg-type]
    )


def said(process: subprocess.Popen[str]) -> str:
    """What a holder's server returned; empty when it ended before."""
    assert process.stdout is not None
    # Log events come first.
    return next((line[2:].strip() for line in iter(process.stdout.readline, "") if line.startswith("> ")), "")


@contextlib.contextmanager
def file_system(where: Path, options: str) -> Generator[Path]:
    """A file system of its own at `where`, with these options of tmpfs."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)], check=True)
    try:
        yield where
    finally:
        # What a failed start leaves behind may be about to end.
        umount = ["umount", str(where)]
        assert holds_within(lambda: subprocess.run(umount, stderr=subprocess.DEVNULL, check=False).returncode == 0, 60)


@contextlib.contextmanager
def livekit_server(webhooks: Sequence[str] = ()) -> Generator[EmbeddedLiveKit]:
    """A LiveKit server of its own, until the block ends."""
    with temporary_folder("livekit") as path, EmbeddedLiveKit(path / "livekit", webhooks=webhooks) as server:
        yield server


def livekit_settings(server: EmbeddedLiveKit) -> LiveKitSettings:
    """Settings with which a service reaches this server."""
    made = server.livekit
    return LiveKitSettings(url=made.url, api_key=made.api_key, api_secret=SecretStr(made.api_secret))


def ask(url: str, statement: str) -> object:
    """The first field of the first row; None without a row."""
    with psycopg.connect(url, connect_timeout=60) as connection:
        row = connection.execute(statement.encode()).fetchone()
        return row[0] if row else None


def alive(pids: list[int]) -> list[int]:
    """Those that still run; a zombie does not."""
    running = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                running.append(pid)
    return running


def users_of(pids: list[int]) -> set[int]:
    """Effective user ids of those that still run: the server's own helpers come and go."""
    users = set[int]()
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            users.add(psutil.Process(pid).uids().effective)
    return users


def family(pid: int) -> list[int]:
    """All that a process has started, and what these have."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]
