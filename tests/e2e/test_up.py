"""`butai up` as a person uses it: what it says, answers and stops, and what it does when its parts are killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.e2e.ups import (
    Machine,
    Up,
    ask,
    commands,
    connections,
    environment,
    livekit_url,
    living,
    name,
    printed_commands,
    read_back,
    serves,
    sign_in,
    upload,
)
from tests.files import vrm
from tests.waiting import holds_within


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="butai-up-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A path too long for sockets: what is said of a folder holds for this one, too."""
    path = Path(tempfile.mkdtemp(prefix="butai-up-"))
    made = Machine(path / ("deep-" * 20) / "data")
    yield made
    made.end()
    shutil.rmtree(path)


@pytest.fixture
def running(machine: Machine) -> Up:
    return machine.up()


def test_it_tells_where_everything_is_and_all_of_it_answers(running: Up) -> None:
    url = running.url
    for path in ("/healthz", "/readyz", "/docs", "/metrics", "/"):
        assert ask("GET", url + path)[0] == 200, path
    for text in ("postgres", "store", "Docs", "Metrics", "Sign in", f"{url}/sign-in#", str(running.data_dir)):
        assert text in running.said
    assert ask("GET", livekit_url(running))[:2] == (200, b"OK")
    assert f"demo live --url {url}" in running.said
    assert "Traceback" not in running.said


@pytest.mark.skipif(shutil.which("curl") is None, reason="the printed example is for curl")
def test_the_commands_that_it_prints_upload_and_list_a_file(running: Up, folder: Path) -> None:
    (folder / "avatar.vrm").write_bytes(vrm(1))
    commands = printed_commands(running.said)
    assert len(commands) == 3
    answers = [
        subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=True).stdout
        for command in commands
    ]
    assert json.loads(answers[1])["success"] is True
    listed = json.loads(answers[2])["data"]
    assert [item["name"] for item in listed]
    assert any("avatar" in item["s3Key"] for item in listed)


def test_what_is_not_configured_comes_with_the_line_that_configures_it(running: Up) -> None:
    for line in ("export NEXTAUTH_SECRET=", "export LIVEKIT_URL=", "export BUTAI_OIDC_ISSUER="):
        assert line in running.said


def test_secrets_are_on_no_command_line_and_in_closed_files(running: Up) -> None:
    folder = running.data_dir
    secrets = [json.loads((folder / "up.json").read_text())["nextauth_secret"]]
    for state_file in ("postgres/postgres.json", "store/weed.json", "livekit/livekit.json"):
        state = json.loads((folder / state_file).read_text())
        secrets += [value for key, value in state.items() if "secret" in key or "password" in key or "JWT" in key]
    assert len(secrets) == 11
    said = running.said + " ".join(" ".join(words) for words in commands(running.family()))
    for log in (folder / "logs").iterdir():
        said += log.read_text(errors="replace")
        assert stat.S_IMODE(log.stat().st_mode) == 0o600, log
    assert {log.name for log in (folder / "logs").iterdir()} >= {
        "api.log",
        "worker.log",
        "postgres.log",
        "store.log",
        "livekit.log",
        "controller.log",
        "up.log",
    }
    assert not [secret for secret in secrets if secret in said]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_sign_in_links_work_once_and_are_in_no_log_and_on_no_command_line(running: Up) -> None:
    argv = [sys.executable, "-m", "butai.cli", "sign-in", "operator", "--data-dir", str(running.data_dir)]
    printed = subprocess.run(argv, env=environment({}), capture_output=True, text=True, check=True).stdout
    links = [found[0] for found in (re.findall(r"http\S+/sign-in#\S+", text) for text in (running.said, printed))]
    assert all(link.startswith(f"{running.url}/sign-in#") for link in links)
    codes = [link.partition("#")[2] for link in links]
    kind = {"Content-Type": "application/json"}
    for code, user in zip(codes, ("demo", "operator"), strict=True):
        body = json.dumps({"code": code}).encode()
        status, _, headers = ask("POST", f"{running.url}/api/session", body, kind)
        assert status == 303
        cookie = {"Cookie": headers["set-cookie"].split(";")[0]}
        session = json.loads(ask("GET", f"{running.url}/api/session", headers=cookie)[1])
        assert (session["user_id"], session["operator"]) == (user, user == "operator")
        assert ask("POST", f"{running.url}/api/session", body, kind)[0] == 403
    said = " ".join(" ".join(words) for words in commands(running.family()))
    for log in (running.data_dir / "logs").iterdir():
        said += log.read_text(errors="replace")
    assert not [code for code in codes if code in said]
    for path in (running.data_dir / "sign-in", *(running.data_dir / "sign-in").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_only_loopback_is_listened_on(running: Up) -> None:
    addresses = {
        connection.laddr.ip
        for process in [psutil.Process(running.process.pid), *running.family()]
        for connection in connections(process)
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    }
    assert addresses == {"127.0.0.1"}


@pytest.mark.parametrize("role", ["api", "postgres", "weed"])
def test_a_killed_part_serves_again(running: Up, role: str) -> None:
    # A part that was killed before may still be coming back.
    assert holds_within(lambda: serves(running), 120)
    victim = running.child(role)
    victim.kill()
    assert holds_within(lambda: not living([victim]), 30)
    log = running.data_dir / "logs" / "api.log"
    assert holds_within(lambda: serves(running), 120), log.read_text()[-3000:]
    assert running.child(role).pid != victim.pid
    assert "killed by SIGKILL" in running.said


@pytest.mark.parametrize("role", ["worker", "controller", "ingest"])
def test_a_killed_background_process_is_started_again(running: Up, role: str) -> None:
    assert holds_within(lambda: running.runs(role), 60)
    victim = running.child(role)
    victim.kill()
    assert holds_within(lambda: not living([victim]), 30)
    assert holds_within(lambda: running.runs(role), 60)


def test_a_killed_livekit_is_back_at_the_same_address(running: Up) -> None:
    victim = running.child("livekit-server")
    victim.kill()
    assert holds_within(lambda: not living([victim]), 30)

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return ask("GET", livekit_url(running))[:2] == (200, b"OK")
        return False

    assert holds_within(answers, 60)
    assert running.child("livekit-server").pid != victim.pid


def test_a_second_start_on_the_same_folder_is_one_clear_line(running: Up) -> None:
    with Up(running.data_dir) as second:
        assert second.ended() == 1
        assert second.said.startswith("butai: butai up already runs on ")
        assert str(running.process.pid) in second.said
        assert second.said.count("\n") == 1
    assert ask("GET", running.url + "/readyz")[0] == 200


def test_a_taken_port_is_one_clear_line_that_says_by_whom(running: Up, folder: Path) -> None:
    port = str(urlsplit(running.url).port)
    with Up(folder / "data", "--port", port) as second:
        assert second.ended() == 1
        assert f"butai: port {port} is taken by" in second.said
        assert f"(process {running.child('api').pid})" in second.said
        assert second.said.count("\n") == 1
        assert "--port" in second.said


def test_a_long_data_folder_puts_the_relays_sockets_into_a_closed_folder_elsewhere(running: Up) -> None:
    assert holds_within(lambda: running.runs("controller"), 60)
    place = Path(running.child("controller").environ()["BUTAI_RELAY_FOLDER"])
    assert len(str(place)) <= 60
    assert not place.is_relative_to(running.data_dir.parents[1])
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    # Nobody is on air here.
    assert holds_within(lambda: [path.name for path in place.iterdir()] == ["ingest.sock"], 60)
    (place / "ingest.sock").unlink()
    place.rmdir()


def test_after_it_is_killed_nothing_lives_and_the_next_start_has_everything(machine: Machine) -> None:
    body = vrm(2, padding=3_000_000)
    up = machine.up()
    assert upload(up.url, sign_in(up), "vrm/kept.vrm", body) == 200
    assert holds_within(lambda: up.runs("worker"), 60)
    family = up.family()
    names = {name(process) for process in family}
    assert {"weed", "postgres", "livekit-server"} <= names
    assert len(family) >= 8
    up.process.kill()
    up.process.wait()
    # Nobody is there who could end them: they end by themselves.
    assert holds_within(lambda: not living(family), 60), commands(living(family))
    # In a terminal, for the next test.
    up = machine.up(terminal=True)
    assert read_back(up.url, sign_in(up), "vrm/kept.vrm") == (200, body)


def test_ctrl_c_in_a_terminal_stops_what_it_started_in_order_and_nothing_else(machine: Machine) -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        up = machine.up(terminal=True)
        assert holds_within(lambda: up.runs("worker"), 60)
        family = up.family()
        postgres, api, own = machine.written("postgres.log"), machine.written("api.log"), machine.written("up.log")
        assert up.keyboard is not None
        os.write(up.keyboard, b"\x03")
        assert up.ended() == 0
        assert not living(family)
        assert "Stopping" in up.said
        assert "Stopped." in up.said
        assert "Traceback" not in up.said
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    # Each was asked to stop, none was interrupted by the terminal, and the database went last.
    assert "received fast shutdown request" in postgres()
    assert "Application shutdown complete" in api()
    events = [json.loads(line) for line in own().splitlines()]
    assert [event["event"] for event in events][-3:] == ["livekit.stopped", "store.stopped", "postgres.stopped"]
    api_ended = [json.loads(line)["at"] for line in api().splitlines() if "Finished server" in line]
    assert api_ended[0] < events[-3]["at"] < events[-2]["at"] < events[-1]["at"]


def test_a_second_ctrl_c_does_not_wait_for_an_upload_in_flight(machine: Machine) -> None:
    up = machine.up()
    cookie = sign_in(up)
    family, api = up.family(), machine.written("api.log")
    with socket.create_connection(("127.0.0.1", urlsplit(up.url).port or 0)) as slow:
        head = "\r\n".join(f"{name}: {value}" for name, value in cookie.items())
        slow.sendall(
            f"POST /api/s3/upload HTTP/1.1\r\nHost: {urlsplit(up.url).netloc}\r\n{head}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n--b\r\n".encode()
        )
        assert holds_within(lambda: ask("GET", up.url + "/readyz")[0] == 200, 60)
        up.process.send_signal(signal.SIGINT)
        assert holds_within(lambda: "Stopping" in up.said, 60)
        # It has been asked, and waits for the upload.
        assert holds_within(lambda: "Waiting for connections to close" in api(), 60), api()
        assert up.process.poll() is None, "the upload in flight is not waited for, so this test shows nothing"
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 0
    assert not living(family)
    # The API was not given the time to end in order.
    assert "Application shutdown complete" not in api()


def test_without_livekit_server_it_says_what_to_install_and_the_library_works(folder: Path, machine: Machine) -> None:
    hidden = folder / "hidden"
    hidden.mkdir()
    # As if it had never been built.
    (hidden / "sitecustomize.py").write_text(
        "import os\n"
        "real = os.access\n"
        "def access(path, *rest, **more):\n"
        "    return not str(path).endswith(('livekit-server', 'go/bin/server')) and real(path, *rest, **more)\n"
        "os.access = access\n"
    )
    path = os.pathsep.join(filter(None, [str(hidden), os.environ.get("PYTHONPATH")]))
    machine.end()
    with Up(machine.data_dir, given={"PYTHONPATH": path}) as up:
        up.ready()
        assert serves(up)
        (line,) = [line for line in up.said.splitlines() if line.startswith("  LiveKit")]
        assert "going live is off" in line
        assert "make livekit" in line
        assert "export LIVEKIT_URL=" in line
        assert "demo live" not in up.said
        assert not up.runs("controller")
