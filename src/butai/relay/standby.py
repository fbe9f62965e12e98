"""A relay's process before it has a broadcast: all code is loaded, and it holds no secret.

Its standard input is a socket to its controller. It says `waiting` when it has loaded, answers each empty line so, and answers
the line with a broadcast's id with `taken`. When the socket closes it ends: unlike a relay it does not outlive its controller.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from pathlib import Path

WAITING, TAKEN = b"waiting\n", b"taken\n"
LINE_LIMIT = 128
"""Bytes of a line; a broadcast's id has at most 64."""

RELAY_NAME, STANDBY_NAME = "butai-relay", "butai-standby"
"""The names of the process, as in `ps -o comm`: at most 15 bytes (proc_pid_comm(5))."""


def name_process(name: str) -> None:
    """Sets the name of the process. No-op where that is not allowed."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def is_broadcast_id(text: str) -> bool:
    """Whether it may be a broadcast's id, and the name of its files."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) is not None


def wait_for_broadcast(folder: Path) -> str | None:
    """Waits for a broadcast's id. Returns None when the controller is gone, or sends something else.

    The log of that broadcast takes the place of both outputs before the controller has its answer.
    """
    name_process(STANDBY_NAME)
    with socket.socket(fileno=os.dup(0)) as channel:
        broadcast_id = _hear(channel)
        if broadcast_id is None:
            return None
        _log_to(folder / f"{broadcast_id}.log")
        with contextlib.suppress(OSError):
            # A controller that is gone meanwhile is replaced by another one, or the relay ends by itself.
            channel.sendall(TAKEN)
    name_process(RELAY_NAME)
    return broadcast_id


def _hear(channel: socket.socket) -> str | None:
    with contextlib.suppress(OSError), channel.makefile("rb") as lines:
        channel.sendall(WAITING)
        while line := lines.readline(LINE_LIMIT):
            text = line.strip().decode(errors="replace")
            if text:
                return text if is_broadcast_id(text) else None
            channel.sendall(WAITING)
    return None


def _log_to(path: Path) -> None:
    """Opens the log as both outputs, and nothing as the input."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for opened, number in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(opened, number)
    os.close(out)
    os.close(nothing)
