"""Platforms that fail on demand: a real nginx with its RTMP module, in a process of its own on loopback.

What the platform's side records (which publishers it accepts, when they connected and disconnected) is kept in
`Platform.visits`; how many bytes arrived comes from the module's own statistics, what arrived from its recordings.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs
from xml.etree import ElementTree

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.processes import free_port

MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")

_CONFIGURATION = """
load_module {module};
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 256; }}
rtmp {{
    server {{
        listen 127.0.0.1:{rtmp};
        chunk_size 4096;
        timeout 60s;
        ping {ping};
        ping_timeout {ping_timeout};
        application live {{
            live on;
            record all;
            record_path {folder}/recordings;
            record_unique on;
            on_publish http://127.0.0.1:{hook}/publish;
            on_publish_done http://127.0.0.1:{hook}/publish_done;
        }}
    }}
}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{http};
        location /stat {{ rtmp_stat all; }}
        location /control {{ rtmp_control all; }}
    }}
}}
"""


@dataclass(frozen=True)
class Visit:
    """One call of the platform's own back office: `what` is `publish`, `refused` or `publish_done`."""

    what: str
    name: str
    arguments: dict[str, str]
    at: float


@dataclass
class Platform:
    """One platform. `with Platform("yt") as p:`; `refuse` holds the keys that it does not let in."""

    name: str
    refuse: set[str] = field(default_factory=set)
    visits: list[Visit] = field(default_factory=list)
    ping: str = "1m"
    """After which time, and each time again, it asks a publisher whether it lives; as long as nginx's own."""
    ping_timeout: str = "30s"
    """For how long it waits for the answer; the same."""

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix=f"butai-platform-{self.name}-"))
        (self.folder / "recordings").mkdir()
        self.port, self._http = free_port(), free_port()
        self._hook = _BackOffice(self)
        threading.Thread(target=self._hook.serve_forever, daemon=True).start()
        self._child: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._hook.shutdown()
        self._hook.server_close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """Its ingest address, without a key."""
        return f"rtmp://127.0.0.1:{self.port}/live"

    def start(self) -> None:
        """Also after `kill`, on the same ports."""
        configuration = self.folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                module=MODULE,
                user="user root;" if os.geteuid() == 0 else "",
                folder=self.folder,
                rtmp=self.port,
                http=self._http,
                hook=self._hook.server_port,
                ping=self.ping,
                ping_timeout=self.ping_timeout,
            )
        )
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        with (self.folder / "nginx.out").open("ab") as out:
            self._child = subprocess.Popen(
                [nginx, "-p", self.folder, "-c", configuration, "-e", self.folder / "error.log"], stdout=out, stderr=out
            )
        deadline = time.monotonic() + 15
        while True:
            with contextlib.suppress(OSError):
                self._ask("/stat")
                return
            assert self._child.poll() is None, (self.folder / "nginx.out").read_text()
            assert time.monotonic() < deadline, "nginx does not answer"
            time.sleep(0.02)

    def kill(self) -> None:
        """Simulates a power cut: no connection is closed in order, and no server listens any more."""
        if self._child is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            master = psutil.Process(self._child.pid)
            # The master first: it would start another worker.
            for one in (master, *master.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        self._child.wait(10)
        self._child = None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._child is not None and self._child.poll() is None

    def stall(self) -> None:
        """It reads nothing any more; connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """After `stall`."""
        self._signal(signal.SIGCONT)

    def drop(self, key: str) -> None:
        """Closes the connection that publishes with this key."""
        said = self._ask(f"/control/drop/publisher?app=live&name={key}")
        assert said.strip() == b"1", f"nobody was dropped: {said!r}"

    def bytes_in(self, key: str) -> int:
        """Bytes of the running publish under this key; 0 without one."""
        for stream in ElementTree.fromstring(self._ask("/stat")).iter("stream"):
            if stream.findtext("name") == key and stream.find("publishing") is not None:
                return int(stream.findtext("bytes_in") or 0)
        return 0

    def recordings(self, key: str) -> list[Path]:
        """What arrived under this key, a file for each publish, oldest first."""
        found = (self.folder / "recordings").glob(f"{key}-*.flv")
        return sorted(found, key=lambda path: path.stat().st_mtime)

    def published(self, key: str, what: str = "publish") -> list[Visit]:
        """The visits of one kind under a key."""
        return [visit for visit in list(self.visits) if visit.name == key and visit.what == what]

    def _signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        workers = psutil.Process(self._child.pid).children()
        assert workers
        for worker in workers:
            worker.send_signal(number)

    def _ask(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._http}{path}", timeout=5) as answer:
            return answer.read()


class _BackOffice(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, platform: Platform) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                given = {name: values[0] for name, values in parse_qs(body).items()}
                key, what = given.get("name", ""), self.path.strip("/")
                refused = what == "publish" and key in platform.refuse
                platform.visits.append(Visit("refused" if refused else what, key, given, time.time()))
                self.send_response(403 if refused else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


def probe(source: Path | str) -> dict[str, dict[str, Any]]:
    """What ffprobe says of a file's streams, by their type (`video`, `audio`)."""
    done = subprocess.run(
        ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", str(source)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    found = json.loads(done.stdout)
    return {stream["codec_type"]: stream for stream in found["streams"]} | {"format": found["format"]}


def until(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
    """The first true value of `condition`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.02)
    return value


# TLS in front of a platform


class Authority:
    """A certificate authority of our own, whose `file` a client can be configured to trust."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Butai test authority")])
        self._certificate = self._sign(self._name, self._key, None)
        self.file = folder / "authority.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, *names: str) -> ssl.SSLContext:
        """A server's context with a certificate for these names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = self._sign(subject, key, names)
        path = self._folder / f"{names[0]}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, names: tuple[str, ...] | None
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
        )
        if names is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        return builder.sign(self._key, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@contextlib.contextmanager
def tls_front(port: int, context: ssl.SSLContext) -> Generator[int]:
    """A port that speaks TLS and hands what it hears to `port`, as a platform's edge does."""
    loop = asyncio.new_event_loop()
    ready, ports = threading.Event(), []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pipe(reader, inner_writer), pipe(inner_reader, writer))

    async def serve() -> None:
        server = await asyncio.start_server(carry, "127.0.0.1", 0, ssl=context)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()

    loop.set_exception_handler(lambda *_: None)
    thread = threading.Thread(target=lambda: (loop.create_task(serve()), loop.run_forever()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
