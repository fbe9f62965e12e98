"""Butai behind nginx as docs/nginx.conf sets it up: the API decides, nginx carries the bodies.

Whatever a client can see must be what the API alone would have answered, so most tests ask both and compare.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import ipaddress
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp
import msgspec
import psycopg
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from butai.assets.storage import sigv4
from butai.assets.storage.client import Store
from butai.config import HttpSettings, LiveKitSettings, LiveSettings, Rate, RateSettings, Settings
from butai.embedded.seaweed import EmbeddedSeaweed
from butai.web.problems import BareError, Envelope, Problem
from tests import files
from tests.conftest import Api, serving
from tests.fakes.store_proxy import Fault, StoreProxy
from tests.processes import free_port

CONFIGURATION = Path(__file__).parents[2] / "docs" / "nginx.conf"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin") or "nginx"
STUDIO = "https://studio.example"
BODY = files.vrm(1, 300_000)

# What two answers to one request may differ in.
PASSING = {"date", "server", "connection", "keep-alive", "x-request-id", "transfer-encoding"}


@dataclass
class Front:
    """One library, reached through nginx and straight; `temp` is where nginx would put bodies on disk, `plain` its port
    without TLS."""

    nginx: Api
    straight: Api
    temp: Path
    plain: int

    async def same(self, url: str, user: str | None = None, **how: Any) -> tuple[int, bytes, dict[str, str]]:
        """Asks both. Their answers must be equal; this one came through nginx."""
        through = await self.nginx.read(url, user, **how)
        alone = await self.straight.read(url, user, **how)
        assert through[0] == alone[0], (through[:2], alone[:2])
        assert through[1] == alone[1]
        assert _shown(through[2]) == _shown(alone[2])
        return through


def _shown(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in PASSING}


def configuration(listen: int, plain: int, certificates: Path, api: str, store: str) -> str:
    """docs/nginx.conf as an operator would fill it in. Addresses are `host:port`."""
    text = CONFIGURATION.read_text()
    for pattern, value, times in (
        (r"(?<=\n    listen )80(?=;)", f"127.0.0.1:{plain}", 1),
        (r"(?<=\n    listen )443(?= ssl;)", f"127.0.0.1:{listen}", 1),
        (r"/etc/ssl(?=/studio\.example\.(?:pem|key);)", str(certificates), 2),
        (r"(?<=\n    server )127\.0\.0\.1:8080(?=;)", api, 1),
        (r"(?<= )127\.0\.0\.1:9000(?=; # the store)", store, 2),
        (r"# \"https://www\.studio\.example\"(?= \$http_origin;)", f'"{STUDIO}"', 1),
    ):
        text, count = re.subn(pattern, value, text)
        assert count == times, pattern
    return text


def certify(folder: Path) -> ssl.SSLContext:
    """A certificate of 127.0.0.1 where the configuration expects it, and a client's context that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "studio.example")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = signed.public_bytes(serialization.Encoding.PEM)
    (folder / "studio.example.pem").write_bytes(pem)
    (folder / "studio.example.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return ssl.create_default_context(cadata=pem.decode())


@contextlib.asynccontextmanager
async def nginx(folder: Path, site: str, port: int) -> AsyncGenerator[Path]:
    """nginx with one site, as a child of this process. Gives the folder of its temporary files."""
    temp = folder / "temp"
    temp.mkdir(parents=True)
    (folder / "site.conf").write_text(site)
    kinds = "".join(
        f"    {kind}_temp_path {temp / kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\nuser {getpass.getuser()};\nworker_processes 1;\npid {folder}/nginx.pid;\n"
        f"error_log {folder}/error.log info;\nevents {{ worker_connections 256; }}\n"
        f"http {{\n    access_log {folder}/access.log;\n{kinds}    include {folder}/site.conf;\n}}\n"
    )
    with (folder / "output.log").open("wb") as out:
        child = subprocess.Popen(
            [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")],
            stdout=out,
            stderr=out,
        )
    try:
        async with asyncio.timeout(60):
            while True:
                assert child.poll() is None, (folder / "output.log").read_text()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    break
        yield temp
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    said = (folder / "error.log").read_text()
    assert not re.findall(r"\[(?:alert|crit|emerg)\].*", said), said


@contextlib.asynccontextmanager
async def fronted(settings: Settings, folder: Path, burst: int = 3000) -> AsyncGenerator[Front]:
    """The API in both ways of delivery on one library, and nginx before the one that needs it. `burst`: what one address may
    ask at once."""
    open_to = HttpSettings(cors_origins=(STUDIO,))
    accel = HttpSettings(cors_origins=(STUDIO,), read_delivery="accel")
    port, plain = free_port(), free_port()
    tls = certify(folder)
    async with (
        serving(replace(settings, http=open_to)) as straight,
        serving(replace(settings, http=accel)) as behind,
        aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(ssl=tls)) as client,
    ):
        site = configuration(port, plain, folder, urlsplit(behind.url).netloc, urlsplit(settings.store.endpoint).netloc)
        site, count = re.subn(r"burst=3000\b", f"burst={burst}", site)
        assert count == 1
        async with nginx(folder / "nginx", site, port) as temp:
            yield Front(Api(f"https://127.0.0.1:{port}", behind.settings, client), straight, temp, plain)


@pytest.fixture
async def front(settings: Settings, tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(settings, tmp_path) as found:
        yield found


async def stored(front: Front, key: str = "vrm/a.vrm", body: bytes = BODY, *, public: bool = True) -> dict[str, Any]:
    """A file of alice's, uploaded through nginx."""
    status, answer = await front.nginx.upload("alice", key, body)
    assert status == 200, answer
    if public:
        path = f"/api/assets/{answer['data']['id']}"
        assert (await front.nginx.call("PATCH", path, "alice", json={"visibility": "public"}))[0] == 200
    return answer["data"]


def watch(proxy: StoreProxy) -> list[web.BaseRequest]:
    """The requests that reach the store from now on."""
    seen: list[web.BaseRequest] = []

    def look(request: web.BaseRequest) -> bool:
        seen.append(request)
        return False

    proxy.faults.append(Fault(look))
    return seen


async def test_a_whole_file_is_carried_by_nginx_and_looks_as_if_the_api_had(front: Front, proxy: StoreProxy) -> None:
    data = await stored(front)
    seen = watch(proxy)
    status, body, headers = await front.nginx.read(data["url"])
    assert (status, body) == (200, BODY)
    assert [(request.method, request.headers.get("Range")) for request in seen] == [("GET", None)]
    assert headers["content-type"] == "model/gltf-binary"
    assert headers["cache-control"] == "public, max-age=3600"
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    await front.same(data["url"] + "&proxy=1&v=7")
    await front.same(data["url"], "bob", headers={"Origin": STUDIO})


async def test_a_single_range_is_what_nginx_asks_the_store_for(front: Front, proxy: StoreProxy) -> None:
    data = await stored(front)
    seen = watch(proxy)
    for asked in ("bytes=0-0", "bytes=10-99", "bytes=-7", "bytes=299000-", "bytes=5-99999999"):
        seen.clear()
        status, body, _ = await front.same(data["url"], headers={"Range": asked})
        assert status == 206, asked
        assert len(body) < len(BODY)
        from_nginx, from_api = (request.headers["Range"] for request in seen)
        assert from_nginx == from_api


CONDITIONS = (
    ({"Range": "bytes=999999999-"}, 416),
    ({"Range": "bytes=-0"}, 416),
    ({"Range": "bytes=0-1,5-6"}, 200),
    ({"Range": "lines=0-1"}, 200),
    ({"Range": "bytes=0-4", "If-Range": '"an older one"'}, 200),
    ({"If-None-Match": '"an older one"'}, 200),
    ({"If-None-Match": "*"}, 304),
    ({"If-None-Match": "*", "Range": "bytes=0-4"}, 304),
    ({"If-Modified-Since": "Sat, 29 Oct 2033 19:43:31 GMT"}, 200),
    ({"If-Match": '"an older one"'}, 200),
    ({"Accept-Encoding": "gzip, br, zstd"}, 200),
)


async def test_conditions_and_odd_ranges_are_judged_by_the_api_alone(front: Front) -> None:
    data = await stored(front)
    for sent, status in CONDITIONS:
        answer = await front.same(data["url"], headers=sent)
        assert answer[0] == status, sent
        assert status != 200 or answer[1] == BODY, sent


async def test_a_known_etag_is_304_and_a_fresh_if_range_a_part(front: Front) -> None:
    data = await stored(front)
    etag = (await front.nginx.read(data["url"]))[2]["etag"]
    assert (await front.same(data["url"], headers={"If-None-Match": etag}))[:2] == (304, b"")
    status, body, _ = await front.same(data["url"], headers={"If-Range": etag, "Range": "bytes=3-8"})
    assert (status, body) == (206, BODY[3:9])


async def test_head_tells_the_length_without_asking_the_store(front: Front, proxy: StoreProxy) -> None:
    data = await stored(front)
    seen = watch(proxy)
    for sent in ({}, {"Range": "bytes=10-19"}):
        status, body, headers = await front.same(data["url"], method="HEAD", headers=sent)
        assert (status, body) == ((206, b"") if sent else (200, b""))
        assert headers["content-length"] == ("10" if sent else str(len(BODY)))
    assert seen == []


async def test_private_files_stay_private(front: Front) -> None:
    data = await stored(front, public=False)
    status, body, headers = await front.same(data["url"], "alice")
    assert (status, body) == (200, BODY)
    assert headers["cache-control"] == "private, no-cache"
    assert headers["cross-origin-resource-policy"] == "same-site"
    assert (await front.same(data["url"], "bob"))[0] == 404
    assert (await front.same(data["url"]))[0] == 401
    path = f"/api/assets/{data['id']}"
    assert (await front.nginx.call("PATCH", path, "alice", json={"visibility": "public"}))[0] == 200
    assert (await front.same(data["url"]))[1] == BODY
    assert (await front.nginx.call("PATCH", path, "alice", json={"visibility": "private"}))[0] == 200
    assert (await front.same(data["url"]))[0] == 401


async def test_the_store_hears_nothing_of_the_client_and_the_client_nothing_of_the_store(
    front: Front, proxy: StoreProxy
) -> None:
    data = await stored(front, public=False)
    seen = watch(proxy)
    sent = {"X-Api-Key-Of-Mine": "canary", "Origin": STUDIO, "Accept-Encoding": "gzip", "User-Agent": "canary"}
    status, body, headers = await front.nginx.read(data["url"], "alice", headers=sent)
    assert (status, body) == (200, BODY)
    (request,) = seen
    assert {name.lower() for name in request.headers} <= {"host", "range"}
    leaked = [name for name in headers if re.match(r"x-amz|seaweed|x-butai|x-accel|last-modified", name)]
    assert leaked == []
    # Nor what the store's own answer would have said.
    assert headers["access-control-allow-origin"] == STUDIO
    assert "Amz" not in str(headers)


async def test_the_stores_place_in_nginx_cannot_be_reached_from_outside(front: Front, settings: Settings) -> None:
    data = await stored(front)
    with psycopg.connect(settings.database.url.get_secret_value()) as connection:
        row = connection.execute("SELECT object_key FROM assets WHERE id = %s", (data["id"],)).fetchone()
    assert row is not None
    async with Store(settings.store) as store:
        signed = urlsplit(store.sign("GET", row[0]))
    for path in (
        f"/_butai_store{signed.path}?{signed.query}",
        f"/_butai_store/{settings.store.bucket}/",
        "/_butai_store/",
        "/_butai_store",
        "/%5fbutai_store/",
        "//_butai_store/",
        f"/x/..%2f_butai_store{signed.path}?{signed.query}",
    ):
        status, body, _ = await front.nginx.read(path, "alice")
        assert status == 404, path
        assert BODY not in body


async def test_a_client_cannot_tell_nginx_what_to_fetch(front: Front) -> None:
    data = await stored(front)
    sent = {"X-Accel-Redirect": "/_butai_store/media/", "X-Butai-Range": "bytes=0-0"}
    assert (await front.same(data["url"], headers=sent))[1] == BODY


REFUSALS: tuple[tuple[dict[str, Any], int, bytes], ...] = (
    ({"status": 404, "code": "NoSuchKey"}, 410, b"asset_missing"),
    ({"status": 416, "code": "InvalidRange"}, 410, b"asset_missing"),
    ({"status": 403, "code": "AccessDenied"}, 503, b"store_"),
    ({"status": 500}, 503, b"store_unavailable"),
    ({"status": 503, "code": "SlowDown"}, 503, b"store_unavailable"),
    ({"status": 307, "code": "TemporaryRedirect"}, 503, b"store_unavailable"),
)


async def test_what_the_store_refuses_is_said_as_the_api_says_it_and_kept_by_no_cache(
    front: Front, proxy: StoreProxy
) -> None:
    data = await stored(front)
    for fault, status, code in REFUSALS:
        met = proxy.fault("GET", **fault)
        # As it came over the wire: a client's library would join two headers of one name.
        url, headers = front.nginx.url + data["url"], {"Origin": STUDIO}
        async with front.nginx.client.get(url, headers=headers, allow_redirects=False) as answer:
            said = await answer.read()
            shown = {(name.lower(), value) for name, value in answer.headers.items()}
            assert answer.status == status, fault
        through = met.met
        alone = await front.straight.read(data["url"], headers=headers)
        assert 0 < through < met.met
        assert alone[0] == status
        assert code in said
        assert code in alone[1]
        assert {value for name, value in shown if name == "cache-control"} == {"no-store"}
        assert ("content-type", "application/json") in shown
        # nginx keeps Accept-Ranges of the answer that it had from the API first; that says nothing wrong.
        assert {name for name, _ in shown} - PASSING - {"accept-ranges"} == set(_shown(alone[2]))
        proxy.heal()
    assert (await front.same(data["url"]))[1] == BODY


async def test_a_store_that_breaks_off_never_gives_half_a_file_for_a_whole_one(front: Front, proxy: StoreProxy) -> None:
    body = files.vrm(1, 3_000_000)
    data = await stored(front, body=body)
    fault = proxy.fault("GET", cut_answer=1_000_000)
    with pytest.raises(aiohttp.ClientPayloadError):
        await front.nginx.read(data["url"])
    assert fault.met == 1


async def test_a_reader_who_leaves_is_not_read_for(front: Front, proxy: StoreProxy) -> None:
    body = files.vrm(1, 60 * 1024**2)
    data = await stored(front, body=body)
    async with front.nginx.client.get(front.nginx.url + data["url"]) as answer:
        await answer.content.readexactly(100_000)
        answer.close()
    async with asyncio.timeout(60):
        while not proxy.cut:
            await asyncio.sleep(0.02)
    assert proxy.cut[-1] < len(body)


async def test_a_large_upload_streams_through_and_reads_back(front: Front, proxy: StoreProxy) -> None:
    body = files.vrm(1, 60 * 1024**2)
    half = len(body) // 2
    began = len(proxy.seen)

    async def parts_arrived() -> None:
        async with asyncio.timeout(60):
            while not any(seen.method == "PUT" for seen in proxy.seen[began:]):
                await asyncio.sleep(0.01)

    async def sending() -> AsyncIterator[bytes]:
        yield body[:half]
        # The store has a part of a file whose other half has not been sent yet.
        await parts_arrived()
        yield body[half:]

    form = aiohttp.FormData()
    for name, value in (("fileName", "vrm/big.vrm"), ("fileType", "model/vrm")):
        form.add_field(name, value)
    form.add_field("file", sending(), filename="big.vrm")
    headers = front.nginx.cookie("alice")
    async with front.nginx.client.post(f"{front.nginx.url}/api/s3/upload", data=form, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        data = (await answer.json())["data"]
    status, back, headers = await front.nginx.read(data["url"], "alice")
    assert (status, back) == (200, body)
    assert headers["content-length"] == str(len(body))
    assert [path for path in front.temp.rglob("*") if path.is_file()] == []
    said = (front.temp.parent / "error.log").read_text()
    assert "is buffered to a temporary file" not in said


async def test_refusals_of_uploads_come_through_as_the_api_says_them(front: Front) -> None:
    too_large = b"\x89PNG\r\n\x1a\n" + bytes(11 * 1024**2)
    status, answer = await front.nginx.upload("alice", "vrm/a_thumb.png", too_large)
    assert (status, answer["error"]["code"]) == (413, "file_too_large")
    status, answer = await front.nginx.upload("alice", "vrm/a.vrm", b"GIF89a" + bytes(100))
    assert (status, answer["error"]["code"]) == (422, "signature_mismatch")
    status, answer = await front.nginx.call("POST", "/api/s3/upload", data=b"")
    assert (status, answer["success"]) == (401, False)


async def test_an_upload_that_is_cut_off_is_told_to_the_api(front: Front, settings: Settings) -> None:
    half_sent = asyncio.Event()

    async def sending() -> AsyncIterator[bytes]:
        yield files.vrm(1, 1_000_000)[:500_000]
        half_sent.set()
        await asyncio.sleep(60)

    form = aiohttp.FormData()
    form.add_field("fileName", "vrm/cut.vrm")
    form.add_field("fileType", "model/vrm")
    form.add_field("file", sending(), filename="cut.vrm")
    headers = front.nginx.cookie("alice")

    async def post() -> None:
        async with front.nginx.client.post(f"{front.nginx.url}/api/s3/upload", data=form, headers=headers):
            raise AssertionError("answered")

    def state() -> tuple[str, str | None] | None:
        row = connection.execute("SELECT status, error_code FROM assets WHERE wanted_key = 'vrm/cut.vrm'").fetchone()
        return (row[0], row[1]) if row else None

    with psycopg.connect(settings.database.url.get_secret_value(), autocommit=True) as connection:
        task = asyncio.create_task(post())
        await half_sent.wait()
        async with asyncio.timeout(60):
            while state() != ("uploading", None):
                await asyncio.sleep(0.02)
            task.cancel()
            while state() != ("failed", "client_disconnected"):
                await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await task


NAMES = (
        "two words.bvh", "a+b.bvh", "100%.bvh", "%2541.bvh", "舞台 é.bvh", "a&b=c;d.bvh", "what?.bvh", "#1.bvh",
        "a'b(c)[d]{e}|f^g`h~i!j$k*l,m:n@o\"p<q>.bvh", "..a...bvh", "X-Amz-Date=1.bvh",
)  # fmt: skip


async def test_objects_that_were_there_before_us_are_read_by_whatever_name(
    front: Front, settings: Settings, proxy: StoreProxy
) -> None:
    # Butai's own objects have plain names; those that `butai import` finds in a bucket are kept where they are.
    data = await stored(front, "animations/plain.bvh", files.BVH)
    for name in NAMES:
        await _move(settings, data["id"], f"{settings.store.prefix}old bucket/{name}")
        proxy.heal()
        seen = watch(proxy)
        status, body, _ = await front.same(data["url"])
        assert (status, body) == (200, files.BVH), name
        # Spelled as it was signed: AWS takes a bare + for a space.
        from_nginx, from_api = (request.raw_path.partition("?")[0] for request in seen)
        assert from_nginx == from_api, name


async def _move(settings: Settings, asset_id: str, object_key: str) -> None:
    """Gives an asset's object another name in the store, and in the index."""
    async with Store(settings.store) as store:
        with psycopg.connect(settings.database.url.get_secret_value(), autocommit=True) as connection:
            row = connection.execute("SELECT object_key FROM assets WHERE id = %s", (asset_id,)).fetchone()
            assert row is not None
            await store.copy(row[0], object_key)
            await store.delete(row[0])
            connection.execute("UPDATE assets SET object_key = %s WHERE id = %s", (object_key, asset_id))


async def test_what_others_wrote_on_their_objects_does_not_change_the_answer(
    front: Front, settings: Settings, seaweed: EmbeddedSeaweed
) -> None:
    data = await stored(front)
    key = f"{settings.store.prefix}theirs"
    said = {
        "content-type": "text/html",
        "content-disposition": "attachment; filename=evil.html",
        "cache-control": "public, max-age=31536000",
        "content-encoding": "gzip",
        "content-language": "tlh",
        "expires": "Wed, 21 Oct 2065 07:28:00 GMT",
    }
    store = seaweed.store
    url = sigv4.presign(
        "PUT", f"{store.endpoint}/{store.bucket}/{sigv4.encode_path(key)}", store.credentials, store.region, expires=60
    )
    async with front.nginx.client.put(url, data=BODY, headers=said) as answer:
        assert answer.status == 200, await answer.text()
    with psycopg.connect(settings.database.url.get_secret_value(), autocommit=True) as connection:
        connection.execute("UPDATE assets SET object_key = %s WHERE id = %s", (key, data["id"]))
    assert (await front.same(data["url"]))[1] == BODY


async def test_lists_errors_and_sign_in_checks_pass_through(front: Front) -> None:
    data = await stored(front)
    (item,) = await front.nginx.items("alice")
    assert item["url"] == data["url"]
    for path in ("/api/s3/resources?type=vrm", "/api/s3/read-object?key=../x", "/api/s3/read-object", "/api/assets/x"):
        await front.same(path, "alice")
        await front.same(path)
    # Behind a proxy everybody seems to call from loopback: the development sign-in is not for them.
    assert (await front.nginx.read("/dev/sign-in?user=mallory"))[0] == 404
    assert (await front.nginx.read("/sign-in"))[0] == 404
    # The page's own origin is the address that the browser sees, port and all.
    own = {"Origin": front.nginx.url}
    assert (await front.nginx.call("PATCH", f"/api/assets/{data['id']}", "alice", json={}, headers=own))[0] == 200
    other = {"Origin": "http://127.0.0.1:1"}
    assert (await front.nginx.call("PATCH", f"/api/assets/{data['id']}", "alice", json={}, headers=other))[0] == 403


async def test_what_is_asked_in_the_clear_is_sent_to_tls_under_the_configured_name(front: Front) -> None:
    for host in ("studio.example", "evil.example"):
        url = f"http://127.0.0.1:{front.plain}/library?q=a"
        async with front.straight.client.get(url, headers={"Host": host}, allow_redirects=False) as answer:
            assert answer.status == 308
            assert answer.headers["Location"] == "https://studio.example/library?q=a"


async def test_the_host_is_passed_on_and_judged_by_the_api(front: Front) -> None:
    for headers, status in (
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example", "X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"}, 421),
        ({"Host": "localhost"}, 200),
    ):
        for path in ("/openapi.json", "/metrics"):
            assert (await front.nginx.read(path, headers=headers))[0] == status, (path, headers)


async def test_a_websocket_is_upgraded(settings: Settings, tmp_path: Path) -> None:
    livekit = LiveKitSettings(url=f"ws://127.0.0.1:{free_port()}", api_key="devkey", api_secret=SecretStr("s" * 36))
    live = LiveSettings(secret_key=SecretStr("ab" * 32))
    async with fronted(replace(settings, livekit=livekit, live=live), tmp_path) as front:
        status, room = await front.nginx.call("POST", "/api/live/rooms", "alice", json={})
        assert status == 200, room
        url = f"{front.nginx.url.replace('https', 'wss')}/api/live/events/ws?room_id={room['room_id']}"
        headers = front.nginx.cookie("alice") | {"Origin": front.nginx.url}
        async with front.nginx.client.ws_connect(url, headers=headers) as channel:
            assert (await channel.receive_json())["type"] == "status"


async def test_the_headers_of_the_api_come_through(front: Front) -> None:
    data = await stored(front)
    for path in ("/healthz", "/openapi.json", data["url"], "/nothing"):
        headers = (await front.nginx.read(path))[2]
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["referrer-policy"] == "same-origin", path


async def test_an_address_that_asks_too_much_at_once_is_told_when_to_ask_again(
    settings: Settings, tmp_path: Path
) -> None:
    async with fronted(settings, tmp_path, burst=3) as front:

        async def ask() -> tuple[int, str | None, bytes]:
            async with front.nginx.client.get(f"{front.nginx.url}/healthz") as answer:
                return answer.status, answer.headers.get("Retry-After"), await answer.read()

        answers = await asyncio.gather(*(ask() for _ in range(300)))
        refused = [answer for answer in answers if answer[0] == 429]
        assert {status for status, _, _ in answers} == {200, 429}
        assert all(after == "5" and b"rate_limited" in body for _, after, body in refused)


FORMS: tuple[tuple[str, type[msgspec.Struct]], ...] = (
    ("/api/assets", Problem),
    ("/api/s3/resources?type=vrm", Envelope),
    ("/api/vrm-thumbnail?url=x", BareError),
)


async def test_what_nginx_refuses_by_itself_has_the_form_and_the_origins_of_the_api(
    settings: Settings, tmp_path: Path
) -> None:
    few = RateSettings(anonymous=Rate(burst=1, per_second=0.01))
    async with fronted(replace(settings, rates=few), tmp_path, burst=1) as front:

        async def refused(api: Api, path: str, origin: str) -> tuple[dict[str, str], Any]:
            """One of the refusals of many requests that come at once; those of nginx say 5 seconds."""

            async def ask() -> tuple[int, dict[str, str], Any]:
                async with api.client.get(api.url + path, headers={"Origin": origin}) as answer:
                    headers = {name.lower(): value for name, value in answer.headers.items()}
                    return answer.status, headers, await answer.json(content_type=None)

            answers = await asyncio.gather(*(ask() for _ in range(40)))
            by_nginx = api is front.nginx
            return next(
                (headers, body)
                for status, headers, body in answers
                if status == 429 and (headers["retry-after"] == "5") == by_nginx
            )

        for path, form in FORMS:
            for origin, open_to in ((STUDIO, STUDIO), ("https://evil.example", None)):
                own, own_body = await refused(front.straight, path, origin)
                headers, body = await refused(front.nginx, path, origin)
                assert msgspec.convert(body, form)
                assert body.keys() == own_body.keys()
                assert body.get("title") == own_body.get("title")
                assert (body["error"] if "success" in body else body)["code"] == "rate_limited"
                assert headers["content-type"] == own["content-type"]
                assert own.get("access-control-allow-origin") == open_to
                for name in ("access-control-allow-origin", "access-control-allow-credentials"):
                    assert headers.get(name) == (own.get(name) if open_to else None), name
                for exposed in (headers, own) if open_to else (headers,):
                    assert "retry-after" in exposed["access-control-expose-headers"].split(", ")
                assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
                if form is Problem:
                    assert UUID(body["instance"]).hex == headers["x-request-id"]
