"""RTMP servers that others wrote, beside nginx (`tests/platforms.py`): each a program in a process of its own.

`Wire` stands between a publisher and a server, and can be cut on the publisher's side alone, as a network is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.processes import free_port

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Kind:
    """A server program. `argv`: how it is started, with `{port}`, `{folder}` and `{key}` filled in,
    and `{packages}` for what was installed.

    `records`: it writes what arrives into its folder; of others it is fetched by a player. `owes`: it acknowledges or answers
    pings, so that a stop is seen while buffers have room. `once`: it ends with its first publish. `holds`: it keeps the session
    of a connection that was cut, and refuses another publish with its key meanwhile.
    """

    argv: Sequence[str]
    records: bool = False
    owes: bool = True
    once: bool = False
    holds: bool = False


KINDS = {
    "node-media-server-2": Kind(["node", "server.cjs", "2", "{port}", "{folder}"], holds=True),
    "node-media-server-4": Kind(["node", "server.cjs", "4", "{port}", "{folder}"], owes=False, holds=True),
    "gortmplib": Kind(["{packages}/gortmplib", "{port}"], holds=True),
    "ffmpeg": Kind(
        [
            *("ffmpeg", "-v", "error", "-listen", "1", "-i", "rtmp://127.0.0.1:{port}/live/{key}"),
            *("-c", "copy", "-y", "{folder}/arrived.flv"),
        ],
        records=True,
        once=True,
    ),
}


def install(folder: Path) -> Path:
    """Puts the packages of `node/` and the program of `go/` into a folder, and returns it."""
    shutil.copytree(HERE / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    npm = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(npm, cwd=folder, check=True, timeout=120, capture_output=True)
    go = shutil.which("go") or "/usr/local/go/bin/go"
    build = [go, "build", "-o", str(folder / "gortmplib"), "."]
    subprocess.run(build, cwd=HERE / "go", check=True, timeout=300, capture_output=True)
    return folder


class RealServer:
    """One that runs. `with RealServer("ffmpeg", folder, packages, key) as server:`"""

    def __init__(self, kind: str, folder: Path, packages: Path, key: str) -> None:
        """`packages`: where `install` was called."""
        self.kind, self.folder, self.port = KINDS[kind], folder, free_port()
        self._packages, self._key = packages, key
        self._child: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Its ingest address, without a key."""
        return f"rtmp://127.0.0.1:{self.port}/live"

    def start(self) -> None:
        """It may not listen yet (`listens`)."""
        filled = {"port": self.port, "folder": self.folder, "key": self._key, "packages": self._packages}
        argv = [part.format_map(filled) for part in self.kind.argv]
        with (self.folder / "log.txt").open("ab") as log:
            self._child = subprocess.Popen(argv, cwd=self._packages, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def listens(self) -> bool:
        """Whether it can be connected to."""
        # Not by a connection: one is all that ffmpeg takes.
        wanted = f":{self.port:04X} "
        lines = [
            line
            for name in ("tcp", "tcp6")
            for line in Path("/proc/net", name).read_text().splitlines()
            if " 0A " in line
        ]
        return any(wanted in line.split(" 0A ")[0] for line in lines)

    def kill(self) -> None:
        """SIGKILL."""
        if self._child is not None:
            self._child.kill()
            self._child.wait(10)
            self._child = None

    def suspend(self) -> None:
        """It reads nothing any more; connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """After `suspend`."""
        self._signal(signal.SIGCONT)

    @property
    def runs(self) -> bool:
        """Whether the process has not ended."""
        return self._child is not None and self._child.poll() is None

    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "log.txt").read_text(errors="replace")

    def arrived(self) -> list[Path]:
        """What it recorded, oldest first."""
        return sorted(self.folder.glob("*.flv"), key=lambda path: path.stat().st_mtime)

    def _signal(self, number: signal.Signals) -> None:
        assert self._child is not None and self._child.poll() is None, self.log()
        os.kill(self._child.pid, number)


class Wire:
    """Connections from a publisher to the server at `port`; `url` is the way through it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.url = ""
        self._near = set[asyncio.StreamWriter]()
        self._far = set[asyncio.StreamWriter]()

    @contextlib.asynccontextmanager
    async def laid(self) -> AsyncGenerator[Wire]:
        """Carries until the block ends."""
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"rtmp://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"
        try:
            yield self
        finally:
            server.close()
            for writer in (*self._near, *self._far):
                writer.transport.abort()

    def cut(self) -> None:
        """Ends the connections for the publisher; the server's stay open until `release`."""
        for writer in self._near:
            writer.transport.abort()
        self._near.clear()

    def release(self) -> None:
        """The server learns that the connections that were cut are gone."""
        for writer in self._far:
            writer.transport.abort()
        self._far.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        self._near.add(writer)
        self._far.add(far)
        await asyncio.gather(self._pipe(reader, far, writer), self._pipe(far_reader, writer, None))

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, near: asyncio.StreamWriter | None
    ) -> None:
        """`near`: the publisher's side, where `reader` reads from it."""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        # A connection that was cut is not there any more: the server is told nothing.
        if near is None or near in self._near:
            with contextlib.suppress(OSError):
                writer.close()
