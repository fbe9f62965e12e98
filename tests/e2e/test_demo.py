"""`butai demo live`, as a newcomer sees it after `butai up`: and it proves what it says."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from butai.demo.library import FILES
from tests.e2e.stage import is_relay
from tests.e2e.ups import Up, ask, environment, living, sign_in
from tests.processes import free_port
from tests.waiting import holds_within


@pytest.fixture(scope="module")
def running() -> Iterator[Up]:
    path = Path(tempfile.mkdtemp(prefix="butai-demo-test-"))
    with Up(path / "data") as up:
        yield up.ready()
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 0
    shutil.rmtree(path)


def demo(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "butai.cli", "demo", "live", *arguments],
        env=environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def saved(up: Up) -> list[object]:
    """What the demonstration's user has saved with the service."""
    status, body, _ = ask("GET", f"{up.url}/api/live/destinations", headers=sign_in(up, "butai-demo"))
    assert status == 200, body
    return json.loads(body)["data"]


def test_both_platforms_get_media_though_one_is_killed_on_the_way(running: Up) -> None:
    process = demo("--seconds", "20", "--url", running.url, "--data-dir", str(running.data_dir))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    lines = said.splitlines()
    assert "Both platforms got media." in lines[-1]
    for platform in ("YouTube", "Twitch"):
        assert re.search(rf"{platform} +starting → live", said), said
        assert re.search(rf"{platform} got \d+\.\d s of \d+\.\d on air.*: h264 1280×720, aac", said), said
    # What was broken on purpose was seen, said why, and healed; the other one has no such line.
    assert re.search(r"Twitch +live → interrupted +destination_", said), said
    assert re.search(r"Twitch +interrupted → live", said), said
    assert "YouTube  live → interrupted" not in said
    assert saved(running) == []


def test_ctrl_c_leaves_nothing_on_air_and_nothing_behind(running: Up) -> None:
    process = demo("--seconds", "60", "--url", running.url, "--data-dir", str(running.data_dir))
    family: list[psutil.Process] = []
    with contextlib.ExitStack() as opened:
        opened.callback(process.kill)
        assert process.stdout is not None
        said = ""
        while "Twitch" not in said or said.count("→ live") < 2:
            line = process.stdout.readline()
            assert line, said
            said += line
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) == 3
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "everything removed" in rest
    assert "Traceback" not in rest
    assert holds_within(lambda: not living(family), 5)
    assert saved(running) == []
    assert holds_within(lambda: not relays(running), 12)


def relays(up: Up) -> list[psutil.Process]:
    found = []
    for process in up.family():
        with contextlib.suppress(psutil.Error):
            if is_relay(process):
                found.append(process)
    return found


def test_without_a_service_it_says_what_to_run() -> None:
    process = demo("--url", f"http://127.0.0.1:{free_port()}")
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "run `butai up`" in said
    assert "Traceback" not in said


def test_a_studio_without_files_gets_some_to_begin_with(running: Up) -> None:
    for _ in range(2):
        said = subprocess.run(
            [sys.executable, "-m", "butai.cli", "demo", "library", "--url", running.url, "--data-dir", str(running.data_dir)],
            env=environment({}), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert said.returncode == 0, said.stdout + said.stderr
        status, body, _ = ask("GET", f"{running.url}/api/assets?limit=50", headers=sign_in(running, "demo"))
        assert status == 200
        assert sorted(item["s3Key"] for item in json.loads(body)["items"]) == sorted(FILES)


def test_where_nothing_answers_it_says_what_to_start() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "butai.cli", "demo", "library", "--url", f"http://127.0.0.1:{free_port()}"],
        env=environment({}), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert said.returncode == 1
    assert "run `butai up`" in said.stdout
