"""Runs a child process that reads one file of a user's, and waits for its answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import Any

import msgspec

from butai.errors import Code


async def run_child(module: str, *arguments: str, seconds: float) -> tuple[dict[str, Any], Code | None]:
    """The JSON object that `python -m module arguments` prints, or a code: `decode_failed`, or `decode_too_long` after
    `seconds`. The child is ended with the task that waits for it."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        # No other variable: the environment holds secrets.
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        async with asyncio.timeout(seconds):
            answer, _ = await child.communicate()
    except TimeoutError:
        return {}, Code.DECODE_TOO_LONG
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
    if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return {}, Code.DECODE_TOO_LONG
    try:
        return msgspec.json.decode(answer, type=dict[str, Any]), None
    except msgspec.MsgspecError:
        return {}, Code.DECODE_FAILED
