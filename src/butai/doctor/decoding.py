"""Checks how files of users are decoded on this machine: what the process that does it cannot reach."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from butai.config import Settings
from butai.doctor.findings import CHECK_SECONDS, Findings

MEANS = {
    "user": (
        "it runs as root, and cannot become another user",
        "run the worker as a user of its own, or leave it the capabilities SETUID and SETGID",
    ),
    "landlock": (
        "the kernel has no landlock, so it can open the files of its user",
        "use Linux 5.13 or newer, with landlock among the kernel's `lsm`; some containers deny it",
    ),
    "seccomp": (
        "no seccomp filter can be set, so it can open sockets and start programs",
        "use x86_64 or aarch64, with a kernel that has seccomp",
    ),
}
"""By means of the confinement: what its lack leaves open, and what helps."""


async def examine_decoding(_settings: Settings, findings: Findings) -> None:
    """Starts a process as a decoder is, and asks what of its confinement this machine lacks."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "butai.assets.contents.readers.confinement",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    async with asyncio.timeout(CHECK_SECONDS):
        answer, _ = await child.communicate()
    for name in json.loads(answer):
        said, advice = MEANS[name]
        findings.warn(name, f"the process that decodes files is not confined: {said}", advice)
    if not findings.found:
        findings.ok("confinement", "the process that decodes files reaches no file, network or other process")
