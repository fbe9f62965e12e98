"""A service in a process of its own that a whole file of tests may do its worst to, and sockets to do it with."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from butai.config import (
    AssetSettings,
    DatabaseSettings,
    HttpSettings,
    IdentitySettings,
    LogSettings,
    Settings,
    StoreSettings,
    UpSettings,
)
from butai.embedded.seaweed import EmbeddedSeaweed
from butai.identity import NEXTAUTH_COOKIE, dev_sign_in_cookie
from tests.conftest import NEXTAUTH_SECRET
from tests.databases import Databases
from tests.fakes.store_proxy import StoreProxy
from tests.fuzz.hostile_bytes import VRM
from tests.processes import Child, free_port, process


@dataclass(frozen=True)
class Answer:
    """One HTTP answer as it came over the wire. Header names are lower-case; each may stand there several times."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The stable code of an error, in whichever form its path has."""
        if self.status < 400 or not self.body:
            return None
        body = self.json
        return body["error"]["code"] if isinstance(body.get("error"), dict) else body["code"]


class CutOff(Exception):
    """The connection ended in the midst of an answer."""


def parse_answers(raw: bytes, *, heads: bool = False) -> list[Answer]:
    """All answers in what a connection said, interim ones (1xx) too. `heads`: they are to HEAD and have no bodies.

    Raises `CutOff`.
    """
    found: list[Answer] = []
    while raw:
        head, separator, raw = raw.partition(b"\r\n\r\n")
        if not separator:
            raise CutOff(head[:200])
        lines = head.decode("latin-1").split("\r\n")
        assert lines[0].startswith("HTTP/1.1 "), lines[0]
        status = int(lines[0].split(" ")[1])
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        named = dict(headers)
        body = b""
        if not heads and status >= 200 and status not in (204, 304):
            if named.get("transfer-encoding") == "chunked":
                while True:
                    size, _, raw = raw.partition(b"\r\n")
                    length = int(size, 16)
                    body, raw = body + raw[:length], raw[length + 2 :]
                    if not length:
                        break
            else:
                length = int(named["content-length"])
                body, raw = raw[:length], raw[length:]
                if len(body) < length:
                    raise CutOff(head[:200])
        found.append(Answer(status, headers, body))
    return found


@dataclass
class Target:
    """The service under attack."""

    port: int
    settings: Settings
    process: Child
    log: Path
    proxy: StoreProxy
    answers: list[Answer] = field(default_factory=list)
    """Everything it ever said."""
    sessions: dict[str, str] = field(default_factory=dict)
    """The session of each user who was signed in."""

    def cookie(self, user: str) -> str:
        if user not in self.sessions:
            self.sessions[user] = dev_sign_in_cookie(self.settings.identity, user)
        return f"{NEXTAUTH_COOKIE}={self.sessions[user]}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def raw(self, *pieces: bytes, pause: float = 0, keep_open: bool = True, heads: bool = False) -> list[Answer]:
        """Sends bytes as they are and reads until the service closes, or (`keep_open=False`) we do, to show our end.

        A service that answers and closes in the midst of what we send is fine.
        """
        said = bytearray()
        with self.connect() as wire:
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    wire.sendall(piece)
                    if pause:
                        time.sleep(pause)
                if not keep_open:
                    wire.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while chunk := wire.recv(65536):
                    said += chunk
        answers = parse_answers(bytes(said), heads=heads)
        self.answers += answers
        return answers

    def ask(
        self,
        method: str,
        path: str | bytes,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        user: str | None = "alice",
    ) -> Answer:
        """One request, whose target and values go out as they are, and its answer."""
        sent = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"}
        if user:
            sent["Cookie"] = self.cookie(user)
        if body:
            sent["Content-Length"] = str(len(body))
        sent |= headers or {}
        target = path.encode() if isinstance(path, str) else path
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        head = method.encode() + b" " + target + b" HTTP/1.1\r\n" + lines.encode("utf-8", "surrogateescape") + b"\r\n"
        answers = self.raw(head, body, heads=method == "HEAD")
        if not answers:
            raise CutOff(head[:200])
        return answers[-1]

    def attempt(self, method: str, path: str) -> str | None:
        """The code of the error that a request ends with; None when it succeeds or is cut off."""
        try:
            return self.ask(method, path).code
        except CutOff:
            return None

    def send_json(self, method: str, path: str, value: Any, *, user: str | None = "alice") -> Answer:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ask(method, path, {"Content-Type": "application/json"}, body, user=user)

    def upload(
        self, key: str, content: bytes, *, filename: str = "f", user: str | None = "alice", **more: str
    ) -> Answer:
        fields = {"fileName": key, "fileType": "application/octet-stream"} | more
        return self.send_form(
            [*((name, None, value.encode()) for name, value in fields.items()), ("file", filename, content)], user=user
        )

    def send_form(self, parts: list[tuple[str, str | None, bytes]], *, user: str | None = "alice") -> Answer:
        """A form of (name, filename, content), none of them escaped."""
        body = bytearray()
        for name, filename, content in parts:
            named = "" if filename is None else f'; filename="{filename}"'
            body += f'--frontier\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode()
            body += content + b"\r\n"
        body += b"--frontier--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=frontier"}
        return self.ask("POST", "/api/s3/upload", kind, bytes(body), user=user)

    def rss(self) -> int:
        """Its memory now, in bytes."""
        return psutil.Process(self.process.pid).memory_info().rss

    def wait_until_ready(self) -> None:
        """Two minutes at most."""
        deadline = time.monotonic() + 120
        while True:
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-2000:]
            with contextlib.suppress(ConnectionError, CutOff):
                if self.ask("GET", "/readyz", user=None).status == 200:
                    return
            time.sleep(0.05)

    def assert_well(self) -> None:
        """It lives, serves, and has met nothing that it did not expect."""
        assert self.process.poll() is None
        assert self.ask("GET", "/readyz", user=None).json["ready"] is True
        for line in self.log.read_text().splitlines():
            assert "Traceback" not in line and "crashed" not in line, line


@contextlib.contextmanager
def attacked(
    databases: Databases,
    seaweed: EmbeddedSeaweed,
    proxy: StoreProxy,
    folder: Path,
    *,
    through: Sequence[str] | None = None,
    **more: str,
) -> Generator[Target]:
    """A service of its own with a database of its own, behind the proxy. `through`: as for `process`; `more`: further
    environment."""
    proxy.heal()
    store = seaweed.store
    log, port = folder / "api.log", free_port()
    with databases.fresh() as database_url:
        settings = Settings(
            database=DatabaseSettings(url=SecretStr(database_url)),
            store=StoreSettings(
                endpoint=proxy.endpoint,
                bucket=store.bucket,
                prefix=f"{uuid.uuid4().hex}/",
                access_key_id=SecretStr(store.credentials.access_key_id),
                secret_access_key=SecretStr(store.credentials.secret_access_key),
            ),
            http=HttpSettings(),
            identity=IdentitySettings(NEXTAUTH_SECRET=SecretStr(NEXTAUTH_SECRET), dev_sign_in=True),  # pyright: ignore[reportCallIssue]
            assets=AssetSettings(open_uploads=0),  # it begins hundreds
            log=LogSettings(),
            up=UpSettings(data_dir=folder / "data"),
        )
        with process(settings, log, "api", "--port", str(port), through=through, **more) as child:
            target = Target(port, settings, child, log, proxy)
            target.wait_until_ready()
            yield target
    proxy.heal()


@pytest.fixture(scope="module")
def target(
    databases: Databases, seaweed: EmbeddedSeaweed, one_proxy: StoreProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """One service for all tests of a file; uploads there may stand still for two seconds."""
    more = {"BUTAI_UPLOAD_IDLE_TIMEOUT": "2", "BUTAI_DEV_SIGN_IN": "true"}
    with attacked(databases, seaweed, one_proxy, tmp_path_factory.mktemp("fuzz"), **more) as target:
        yield target
        target.assert_well()
        assert target.answers
        for answer in target.answers:
            assert answer.header("x-injected") is None, answer
            assert answer.status < 500, answer


@pytest.fixture(scope="module")
def avatar(target: Target) -> str:
    """One avatar of alice's, `vrm/a.vrm`: its id. What is asked for badly must not be refused for want of it."""
    answer = target.upload("vrm/a.vrm", VRM)
    assert answer.status == 200, answer
    return answer.json["data"]["id"]
