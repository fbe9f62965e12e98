"""Butai behind nginx as docs/nginx.conf sets it up, and reached straight."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import ipaddress
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from butai.config import HttpSettings, Settings
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
        assert compared(through[2]) == compared(alone[2])
        return through


def compared(headers: dict[str, str]) -> dict[str, str]:
    """Without those of `PASSING`."""
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
