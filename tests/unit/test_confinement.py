"""What the process that decodes users' files cannot do, tried from inside."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

from butai.assets.contents import decode_tasks
from butai.assets.contents.readers import confinement, decode_child

PROBE = """
import ctypes, json, mmap, os, resource, signal, socket, sys, threading
from butai.assets.contents.readers import confinement

open_file, other = open(sys.argv[1], "rb"), int(sys.argv[2])
lacking = confinement.confine()
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *values):
    if libc.syscall(number, *values) < 0:
        raise OSError(ctypes.get_errno(), "refused")

attempts = {
    "landlock": {
        "read a file": lambda: open("/etc/passwd").read(),
        "open its own file again": lambda: open(sys.argv[1]).read(),
        "list a folder": lambda: os.listdir("/"),
        "write a file": lambda: open("/tmp/decode-probe", "w"),
        "its parent's environment": lambda: open(f"/proc/{other}/environ").read(),
        "its parent's memory": lambda: open(f"/proc/{other}/mem"),
        "its own environment": lambda: open("/proc/self/environ").read(),
    },
    "seccomp": {
        "TCP": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "a unix socket": lambda: socket.socketpair(),
        "another process": os.fork,
        "another program": lambda: os.execv("/bin/true", ["true"]),
        "a signal to its parent": lambda: os.kill(other, 0),
        "another one's limits": lambda: resource.prlimit(other, resource.RLIMIT_NOFILE),
        "root": lambda: os.setresuid(0, 0, 0),
        "a mode": lambda: os.fchmod(open_file.fileno(), 0o777),
        "io_uring": lambda: call(425, 8, bytes(120)),
        "a traced process": lambda: call({"x86_64": 101, "aarch64": 117}[os.uname().machine], 16, other, 0, 0),
    },
}
said = {}
for means, tried in attempts.items():
    for name, attempt in {} if means in lacking else tried.items():
        try:
            attempt()
            said.setdefault(means, {})[name] = "done"
        except OSError as error:
            said.setdefault(means, {})[name] = type(error).__name__
threads = []
thread = threading.Thread(target=lambda: threads.append(open_file.read(4).decode()))
thread.start()
thread.join()
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
json.dump({"lacking": lacking, "said": said, "read": threads, "memory": len(bytearray(2**20))}, sys.stdout)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a confined process could do. What the kernel has no means against is not tried: a fork or another program would
    say things of its own."""
    file = tmp_path_factory.mktemp("confined") / "file"
    file.write_text("RIFF and more")
    argv = [sys.executable, "-c", textwrap.dedent(PROBE), str(file), str(os.getpid())]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(ended.stdout)


@pytest.mark.parametrize(("means", "attempts"), [("landlock", 7), ("seccomp", 11)])
def test_a_confined_process_does_nothing_else(found: dict[str, Any], means: str, attempts: int) -> None:
    if means in found["lacking"]:
        pytest.skip(f"this kernel lacks {means}, as `butai doctor` says")
    said: dict[str, str] = found["said"][means]
    assert {name: how for name, how in said.items() if how != "PermissionError"} == {}
    assert len(said) == attempts
    assert not Path("/tmp/decode-probe").exists()


def test_a_confined_process_reads_what_is_open(found: dict[str, Any]) -> None:
    assert (found["read"], found["memory"]) == (["RIFF"], 2**20)


def filters(pid: int | str) -> int:
    """The seccomp filters of a process: a container has one of its own, which its processes inherit."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Seccomp_filters:"))


async def test_the_decoder_is_confined_while_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    source = ["-f", "lavfi", "-i", "sine=duration=1800", "-ac", "2", str(path)]
    subprocess.run(["ffmpeg", "-y", "-v", "error", *source], check=True, timeout=60)
    decoding = asyncio.create_task(decode_tasks.decode_file("sound", str(path)))
    status: dict[str, str] = {}
    score = ""
    outside = filters("self")
    while int(status.get("Seccomp_filters", "0")) <= outside and not decoding.done():
        await asyncio.sleep(0.01)
        for child in psutil.Process().children():
            try:
                if "decode_child" in " ".join(child.cmdline()):
                    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
                    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
                    score = Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip()
            except (psutil.Error, OSError):
                continue
    assert (status["Seccomp"], status["NoNewPrivs"], score) == ("2", "1", "1000")
    assert int(status["Seccomp_filters"]) == outside + 1
    if os.geteuid() == 0:
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(confinement.NOBODY)}
    found, problem = await decoding
    assert problem is None
    assert found["duration"] == pytest.approx(1800, abs=1)


async def test_a_picture_s_memory_is_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small sky gets no gigabytes, whatever its bytes make the decoder ask for; a large one gets what it needs."""
    asked: list[int] = []
    monkeypatch.setattr(decode_child.resource, "setrlimit", lambda _which, limits: asked.append(limits[0]))
    decode_child._limit_memory(100, decode_child.PICTURE_MEMORY + decode_child.PIXEL_MEMORY * 64 * 32)
    decode_child._limit_memory(100, decode_child.PICTURE_MEMORY + decode_child.PIXEL_MEMORY * 8192 * 8192)
    assert asked[0] < 2**28
    assert asked[1] == decode_child.MEMORY
    source = ["-f", "lavfi", "-i", "testsrc=size=4096x2048", "-frames:v", "1", "-pix_fmt", "gbrpf32le"]
    subprocess.run(["ffmpeg", "-y", "-v", "error", *source, str(tmp_path / "sky.exr")], check=True, timeout=60)
    found, problem = await decode_tasks.decode_file("picture", str(tmp_path / "sky.exr"))
    assert problem is None
    assert found["jpeg"]
