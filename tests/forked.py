"""Butai's commands as processes of their own that do not wait for Python: each is a fork of one that has loaded what they
need, which otherwise takes one to two seconds of a processor for each.

For tests of what a command does. What looks at the process itself (its arguments, its end by Ctrl-C, how it is started)
starts a Python, as `tests.processes` does too.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LOADED = (
    "__main__",  # pytest's, which multiprocessing loads in each child otherwise
    "butai.api",
    "butai.assets.imports.importer",
    "butai.assets.imports.listings",
    "butai.cli.__main__",
    "butai.cli.alerts",
    "butai.cli.import_",
    "butai.cli.jobs",
    "butai.cli.patrol",
    "butai.cli.reconcile",
    "butai.controller",
    "butai.worker",
    "uvicorn.lifespan.on",
    "uvloop",
)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(_LOADED))


class Forked:
    """A process that runs the function `main` of a module, with the methods of `subprocess.Popen` that tests use."""

    def __init__(
        self, module: str, arguments: Sequence[str], *, env: Mapping[str, str], stdout: Path, stderr: Path | None = None
    ) -> None:
        """Output is added to the files `stdout` and `stderr`; both go into `stdout` without the second."""
        given = (module, list(arguments), dict(env), str(stdout), str(stderr or stdout))
        self._process = _context.Process(target=_run, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the number of the signal that ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return status

    def send_signal(self, number: int) -> None:
        # The server that forks reaps a process before this one learns of its end.
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run_butai(*arguments: str, env: Mapping[str, str], timeout: float = 120) -> Ended:
    """Runs `butai …` and waits for its end, for `timeout` seconds at most."""
    with tempfile.TemporaryDirectory(prefix="butai-forked-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        child = Forked("butai.cli.__main__", arguments, env=env, stdout=out, stderr=err)
        try:
            status = child.wait(timeout)
        finally:
            child.kill()
        return Ended(status, out.read_text(), err.read_text())


async def command(*arguments: str, env: Mapping[str, str]) -> Ended:
    """`run_butai` while the event loop of the test goes on."""
    return await asyncio.to_thread(run_butai, *arguments, env=env)


def _run(module: str, arguments: list[str], env: dict[str, str], stdout: str, stderr: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    for path, number in ((stdout, 1), (stderr, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()
