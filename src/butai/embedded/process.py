"""Child processes that die with their parent.

A child has a session of its own, so a Ctrl-C in the terminal reaches only the parent, which then stops its children in
order; and the kernel kills the child when the parent dies without time to do so (SIGKILL).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from types import FrameType

_PR_SET_PDEATHSIG = 1
_ROTATE_BYTES = 8 * 1024**2
_ROTATED_KEPT = 3


class _Signals:
    waiting = 0
    wake_up: tuple[int, int] | None = None


_signals = _Signals()
"""The two ends of a pipe, once signals are handled. Signals belong to the whole process, so this does too."""


class StopRequested(BaseException):
    """Ctrl-C, SIGTERM, or the terminal was closed. Not an `Exception`, so that no handler swallows it."""


class StartError(Exception):
    """A server or program cannot start. The text is one line for the operator: the fault and the remedy."""


@dataclass(frozen=True)
class RunAs:
    """The user that a child runs as, when the parent is root and the child refuses to be root."""

    uid: int
    gid: int


class Child:
    """One running process. `wait`, `poll` and `stop` may be called at any time, any number of times."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path | None = None,
        run_as: RunAs | None = None,
        death_signal: Signals = signal.SIGKILL,
        pass_fds: Sequence[int] = (),
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        """Starts the process. Both outputs are appended to `log`; `env` is the whole environment.

        `death_signal` is the signal that the child gets when this process dies. It is sent when the
        *thread* that forked ends (prctl(2), PR_SET_PDEATHSIG), so only the main thread may start children.
        Raises `StartError` when the program does not exist or may not be run.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("children are started from the main thread: they die with the thread that forked")
        self.argv = [str(part) for part in argv]
        with open_log(log) as output:
            try:
                self._popen = subprocess.Popen(
                    self.argv,
                    env=dict(env),
                    cwd=cwd,
                    stdin=stdin,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    pass_fds=tuple(pass_fds),
                    preexec_fn=_die_with_parent(death_signal),  # noqa: PLW1509 - one system call, and this process has one thread
                    user=run_as.uid if run_as else None,
                    group=run_as.gid if run_as else None,
                    extra_groups=[] if run_as else None,
                    # What it writes is readable by its user alone, also where the folder above is open to others.
                    umask=0o077,
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise StartError(f"{self.argv[0]} cannot be started: {error}") from error

    @property
    def pid(self) -> int:
        """The id of the process, and of its group and session."""
        return self._popen.pid

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._popen.poll()

    def wait(self, timeout: float) -> int | None:
        """Like `poll`, after at most `timeout` seconds."""
        wait_for_any([self], timeout)
        return self.poll()

    def send(self, number: Signals) -> None:
        """Sends a signal. No-op for a child that has ended."""
        self._popen.send_signal(number)

    def stop(self, number: Signals = signal.SIGTERM, timeout: float = 10.0) -> int:
        """Sends `number`, waits `timeout` seconds, then kills the process and its whole group. Returns the exit status.

        May raise `StopRequested`, but not with SIGKILL.
        """
        self.send(number)
        status = self.poll() if number == signal.SIGKILL else self.wait(timeout)
        if status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            status = self._popen.wait()
        return status


def stop_on(*numbers: Signals) -> None:
    """Makes each of these signals raise `StopRequested` from one wait of this module, from now on.

    The handler itself does not raise: its exception could be raised anywhere, also where Python drops it (in code that
    runs after a fork) or where a child has just been started and is not yet known.
    """
    if _signals.wake_up is None:
        _signals.wake_up = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in numbers:
        signal.signal(number, _on_signal)


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    _signals.waiting += 1
    if _signals.wake_up is not None:
        with contextlib.suppress(BlockingIOError):
            os.write(_signals.wake_up[1], b".")


def pause(seconds: float, descriptors: Iterable[int] = ()) -> None:
    """Sleeps, or less: until one of the descriptors is readable. Raises `StopRequested` after a signal (`stop_on`)."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    if _signals.wake_up is not None:
        poll.register(_signals.wake_up[0], select.POLLIN)
    poll.poll(max(0.0, seconds) * 1000)
    if _signals.wake_up is not None and _signals.waiting:
        _signals.waiting -= 1
        with contextlib.suppress(BlockingIOError):
            os.read(_signals.wake_up[0], 1)
        raise StopRequested


def wait_for_any(children: Iterable[Child], timeout: float) -> None:
    """Returns as soon as one of them has ended, at the latest after `timeout` seconds. May raise `StopRequested`.

    subprocess's own wait with a time-out sleeps up to 50 ms too long, which adds up in a start.
    """
    with contextlib.ExitStack() as opened:
        descriptors = []
        for child in children:
            if child.poll() is not None:
                return
            # Not reaped yet, so the number is still this child's.
            descriptors.append(os.pidfd_open(child.pid))
            opened.callback(os.close, descriptors[-1])
        pause(timeout, descriptors)


def _die_with_parent(number: Signals) -> Callable[[], None]:
    """Code to run between fork and exec (after setuid, which clears the setting) so that the child gets `number`."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()
    value = int(number)

    def ask_kernel() -> None:
        if prctl(_PR_SET_PDEATHSIG, value, 0, 0, 0) != 0:
            os._exit(127)
        # The parent may have died between the fork and the line above; then no signal will ever come.
        if os.getppid() != parent:
            os._exit(127)

    return ask_kernel


@contextlib.contextmanager
def open_log(path: Path) -> Generator[int]:
    """A file descriptor to append to, readable by its owner only. A file past 8 MiB is first moved to `.1` (… `.3`)."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _ROTATE_BYTES:
            for number in range(_ROTATED_KEPT - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(f"{path.name}.{number}").replace(path.with_name(f"{path.name}.{number + 1}"))
            path.replace(path.with_name(f"{path.name}.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def log_tail(path: Path, from_byte: int = 0, lines: int = 5) -> str:
    """The last lines written to a log after `from_byte`, for an error message. Empty without a log."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(from_byte, size - 8192))
            return "\n".join(file.read().decode(errors="replace").strip().splitlines()[-lines:])
    except OSError:
        return ""
