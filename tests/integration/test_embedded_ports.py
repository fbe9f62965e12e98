"""Every port and socket that a program of `butai up` opens: without a credential nothing is read, listed, changed or named."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from butai.assets.storage import sigv4
from butai.embedded.livekit import EmbeddedLiveKit
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.process import Child
from butai.embedded.seaweed import EmbeddedSeaweed, weed_binary
from tests.embedded_servers import temporary_folder

HEALTH_WORDS = {
    "s3 /status": b"",
    "s3 /healthz": b"",
    "livekit /": b"OK",
}
"""The only answers with 200 to a request without a credential, byte for byte."""

PATHS = (
    "/",
    "/status",
    "/healthz",
    "/metrics",
    "/debug/pprof/",
    "/cluster/status",
    "/dir/status",
    "/dir/assign",
    "/dir/lookup?volumeId=1",
    "/col/delete?collection=media",
    "/vol/status",
    "/vol/vacuum",
    "/submit",
    "/ui/index.html",
    "/stats/counter",
    "/buckets/",
    "/buckets/media/",
    "/media?list-type=2",
    "/api/s3/buckets",
    "/?Action=ListUsers",
    "/rtc/validate",
    "/twirp/livekit.RoomService/ListRooms",
)

H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""How a gRPC client without TLS begins: the preface and an empty SETTINGS frame (RFC 9113, 3.4)."""


@pytest.fixture(scope="module")
def store() -> Iterator[EmbeddedSeaweed]:
    with temporary_folder("ports") as folder, EmbeddedSeaweed(folder / "store") as server:
        yield server


@pytest.fixture(scope="module")
def livekit() -> Iterator[EmbeddedLiveKit]:
    with temporary_folder("ports") as folder, EmbeddedLiveKit(folder / "livekit") as server:
        yield server


def ports(child: Child | None) -> list[int]:
    """All TCP ports that a program and its children listen on; of loopback, all of them."""
    assert child is not None
    family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    found = {
        connection.laddr
        for process in family
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {address.ip for address in found} <= {"127.0.0.1", "::1"}
    return sorted(address.port for address in found)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None


def asked(url: str, method: str = "GET") -> tuple[int, bytes] | None:
    """Status and body; None where there is no answer in HTTP."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=trusting))
    request = urllib.request.Request(url, method=method, data=b"x" if method in ("POST", "PUT") else None)
    try:
        with opener.open(request, timeout=5) as answer:
            return answer.status, answer.read(10_000)
    except urllib.error.HTTPError as error:
        # A refusal; the server may hang up before its text is read, since it did not take the body.
        return error.code, b""
    except (OSError, urllib.error.URLError, ssl.SSLError, ValueError):
        return None


def wrong_answers(name: str, port: int) -> list[str]:
    """What this port tells or does without a credential."""
    found: list[str] = []
    for scheme in ("http", "https"):
        if asked(f"{scheme}://127.0.0.1:{port}/") is None:
            # It speaks no such protocol: whatever the path, there is no answer.
            continue
        for path in PATHS:
            for method in ("GET", "POST", "DELETE"):
                answer = asked(f"{scheme}://127.0.0.1:{port}{path}", method)
                if answer is None or answer[0] >= 400:
                    continue
                if HEALTH_WORDS.get(f"{name} {path.partition('?')[0]}") == answer[1]:
                    continue
                found.append(f"{name} {scheme} {method} {path}: {answer[0]} {answer[1][:80]!r}")
    return found


def test_no_port_of_the_store_answers_without_a_credential(store: EmbeddedSeaweed) -> None:
    held = store.store
    url = sigv4.presign("PUT", f"{held.endpoint}/media/kept.txt", held.credentials, held.region, expires=60)
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT", data=b"kept")) as answer:
        assert answer.status == 200
    given = {int(store._state[name]): name for name in ("master", "volume", "filer", "s3", "admin")}
    # The five servers, each with its gRPC port. S3 is ready before the last of them listens.
    expected = given.keys() | {port + 10000 for port in given}
    deadline = time.monotonic() + 30
    while set(open_ports := ports(store.child)) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(open_ports) == expected
    wrong = [one for port in open_ports for one in wrong_answers(given.get(port, "grpc"), port)]
    assert wrong == []
    url = sigv4.presign("GET", f"{held.endpoint}/media/kept.txt", held.credentials, held.region, expires=60)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"kept"


def test_no_grpc_port_of_the_store_speaks_without_the_certificate(store: EmbeddedSeaweed) -> None:
    given = {int(store._state[name]) for name in ("master", "volume", "filer", "s3", "admin")}
    for port in set(ports(store.child)) - given:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
            plain.sendall(H2_PREFACE)
            plain.settimeout(10)
            said = b""
            try:
                while chunk := plain.recv(4096):
                    said += chunk
            except ConnectionError:
                pass
            # A TLS alert or nothing; a gRPC server would send its own SETTINGS frame (type 4).
            assert said[3:4] != b"\x04", (port, said)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with (  # noqa: PT012 - with TLS 1.3 the refusal comes with the first read
            socket.create_connection(("127.0.0.1", port), timeout=60) as raw,
            pytest.raises((ssl.SSLError, ConnectionError)),
            context.wrap_socket(raw, server_hostname="localhost") as wrapped,
        ):
            wrapped.sendall(H2_PREFACE)
            while wrapped.recv(4096):
                pass
            raise ConnectionError("hung up without a word")


def test_the_store_s_own_shell_is_refused_without_the_certificate(store: EmbeddedSeaweed, tmp_path: Path) -> None:
    state = store._state
    tls = store.data_dir / "tls"

    def shell(extra: dict[str, str]) -> str:
        ended = subprocess.run(
            [weed_binary(), "shell", f"-master=127.0.0.1:{state['master']}", f"-filer=127.0.0.1:{state['filer']}"],
            input=b"fs.ls /buckets\ncollection.list\nexit\n",
            capture_output=True,
            timeout=15,
            check=False,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **extra},
        )
        return (ended.stdout + ended.stderr).decode(errors="replace")

    with_it = {
        "WEED_GRPC_CA": str(tls / "ca.pem"),
        "WEED_GRPC_CLIENT_CERT": str(tls / "cert.pem"),
        "WEED_GRPC_CLIENT_KEY": str(tls / "key.pem"),
    }
    # The question is a good one: with the certificate it is answered.
    assert "media" in shell(with_it)
    try:
        said = shell({})
    except subprocess.TimeoutExpired as hung:
        said = ((hung.stdout or b"") + (hung.stderr or b"")).decode(errors="replace")
    assert "media" not in said.replace("127.0.0.1", "")


def test_certificates_and_sockets_are_for_one_user_alone(store: EmbeddedSeaweed) -> None:
    tls = store.data_dir / "tls"
    assert tls.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in tls.iterdir()} == {
        "ca.pem": 0o600,
        "cert.pem": 0o600,
        "key.pem": 0o600,
    }
    assert store.child is not None
    command = " ".join(psutil.Process(store.child.pid).cmdline())
    assert "PRIVATE KEY" not in command
    sockets = [
        Path(str(connection.laddr))
        for connection in psutil.Process(store.child.pid).net_connections(kind="unix")
        if connection.laddr and connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
    ]
    # To connect to a unix socket takes the right to write.
    assert [path for path in sockets if path.exists() and path.stat().st_mode & 0o022] == []


def test_livekit_answers_a_health_word_and_nothing_else(livekit: EmbeddedLiveKit) -> None:
    open_ports = ports(livekit.child)
    assert open_ports
    assert [one for port in open_ports for one in wrong_answers("livekit", port)] == []


def test_postgres_wants_a_password(postgres: EmbeddedPostgres) -> None:
    named = conninfo_to_dict(postgres.url)
    for user in (str(named["user"]), "postgres"):
        with pytest.raises(psycopg.OperationalError, match=r"password|no pg_hba"):
            psycopg.connect(make_conninfo(host="127.0.0.1", port=named["port"], dbname=named["dbname"], user=user))
