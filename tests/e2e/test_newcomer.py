"""A new user's first steps: one command, the lines that it prints, and the documents' examples.

Nothing here knows more than is on the screen or in the documents: every line is run as it stands there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import files
from tests.e2e.ups import Up, printed_commands
from tests.processes import free_port

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are for curl")

ROOT = Path(__file__).parents[2]
PATH = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
"""As in a shell where the environment of Butai is active."""
AVATAR = files.vrm(1, 500_000, thumbnail=files.png(7, 5))
PORTRAIT = files.png(33, 44)


@pytest.fixture
def desk() -> Iterator[Path]:
    """A folder with an avatar and a picture in it, and room for the service's data."""
    folder = Path(tempfile.mkdtemp(prefix="butai-newcomer-"))
    (folder / "avatar.vrm").write_bytes(AVATAR)
    (folder / "Aoi.vrm").write_bytes(AVATAR)
    (folder / "portrait.png").write_bytes(PORTRAIT)
    yield folder
    shutil.rmtree(folder)


def shell(commands: str, folder: Path, **more: str) -> str:
    """What the commands print. Each has to end well."""
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, (commands, ended.stdout, ended.stderr)
    return ended.stdout


def examples(document: Path) -> list[tuple[str, str, str]]:
    """A document's shell blocks, each with the kind (`text`, `json`, or none) and content of the block right behind
    it."""
    found = re.findall(
        r"^```sh\n(.*?)^```\n(?:```(text|json)\n(.*?)^```$)?", document.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found
    return found


def same_shape(shown: Any, real: Any, where: str = "answer") -> None:
    """The real answer has the shown keys and no others, and values of the shown kinds."""
    assert type(shown) is type(real), f"{where}: {shown!r} is shown, {real!r} came"
    if isinstance(shown, dict):
        assert set(shown) == set(real), where
        for name, value in shown.items():
            same_shape(value, real[name], f"{where}.{name}")
    elif isinstance(shown, list):
        assert len(shown) == len(real), where
        for number, (one, other) in enumerate(zip(shown, real, strict=True)):
            same_shape(one, other, f"{where}[{number}]")


@pytest.mark.slow
def test_one_command_what_it_prints_and_tomorrow_it_is_all_still_there(desk: Path) -> None:
    port = free_port()
    data = desk / "data"
    with Up(data, "--port", str(port)) as up:
        up.ready()
        assert up.url == f"http://127.0.0.1:{port}"
        printed = printed_commands(up.said)
        said = [shell(line, desk) for line in printed]
        uploaded = next(json.loads(text) for text in said if '"Uploaded"' in text)["data"]
        listed = next(json.loads(text) for text in said if '"pagination"' in text)["data"]
        assert [item["id"] for item in listed] == [uploaded["id"]]
        # Whatever else it offers to do (read, publish, delete) has gone well, or `shell` would have said so.
        jar = re.search(r"-c (\S+)", printed[0])
        assert jar is not None
        kept = f"curl -sS --fail -b {jar[1]} '{up.url}{uploaded['url']}' -o back.vrm"
        shell(kept, desk)
        assert (desk / "back.vrm").read_bytes() == AVATAR
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 0
    (desk / "back.vrm").unlink()
    with Up(data, "--port", str(port)) as up:
        up.ready()
        # The same cookie, too: nobody is signed out by a restart.
        shell(kept, desk)
        assert (desk / "back.vrm").read_bytes() == AVATAR
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 0


@pytest.fixture(scope="module")
def running() -> Iterator[Up]:
    folder = Path(tempfile.mkdtemp(prefix="butai-newcomer-"))
    with Up(folder / "data") as up:
        yield up.ready()
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 0
    shutil.rmtree(folder)


def test_the_examples_of_the_studio_contract_do_what_it_says(running: Up, desk: Path) -> None:
    ran = 0
    for commands, kind, shown in examples(ROOT / "docs" / "studio-contract.md"):
        real = shell(commands, desk, BUTAI=running.url, BUTAI_DATA_DIR=str(running.data_dir), PATH=PATH)
        ran += 1
        if kind == "text":
            assert real == shown, commands
        elif kind == "json":
            same_shape(json.loads(shown), json.loads(real))
    assert ran >= 9
    assert (desk / "inside.png").read_bytes() == PORTRAIT, "the owner chose this one"


def test_the_first_lines_of_the_readme_do_what_it_says(running: Up, desk: Path) -> None:
    commands = [block for block, _, _ in examples(ROOT / "README.md") if "sign-in --json" in block]
    assert len(commands) == 1
    assert "http://127.0.0.1:8080/" in commands[0]
    program = f"{sys.executable} -m butai.cli sign-in --data-dir {running.data_dir} --json"
    assert ".venv/bin/butai sign-in --json" in commands[0]
    shell(
        commands[0].replace("http://127.0.0.1:8080", running.url).replace(".venv/bin/butai sign-in --json", program),
        desk,
    )
    assert hashlib.sha256((desk / "back.vrm").read_bytes()).digest() == hashlib.sha256(AVATAR).digest()
