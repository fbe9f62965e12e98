"""The servers that benchmarks measure, each as operators would start it: Postgres, the store, the API, the peers.

All are children that end with the benchmark, listen on loopback, and keep their data under `bench/.work`. Peers are
installed and built by themselves when that has not been done (`npm ci`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import seed as rows
from harness import HERE, Failed, tool_version
from psycopg import sql
from pydantic import SecretStr

from butai.config import IdentitySettings
from butai.database import migrate
from butai.embedded.folder import choose_port
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.process import Child, log_tail
from butai.embedded.seaweed import EmbeddedSeaweed
from butai.identity import NEXTAUTH_COOKIE, dev_sign_in_cookie
from butai.limits.callers import RateClass

WORK = HERE / ".work"
PEERS = HERE / "peers"

SECRET = "a-secret-for-benchmarks-only"

POOL = 10
"""Connections of each server to Postgres: pg's own default, and Butai's."""


_PLENTY = '{"burst": 1000000000, "per_second": 1000000}'
UNREACHED = {
    **{f"BUTAI_RATE_{kind.upper()}": _PLENTY for kind in RateClass},
    "BUTAI_QUOTA_BYTES": "0",
    "BUTAI_QUOTA_FILES": "0",
    "BUTAI_OPEN_UPLOADS": "0",
}
"""Settings of the API under load: one user from one address, who meets no limit. Its rates are still counted."""


@dataclass(frozen=True)
class Server:
    """A running server. `origin` is `http://127.0.0.1:port`; `pid` the root of its processes."""

    name: str
    origin: str
    pid: int
    log: Path


def postgres() -> EmbeddedPostgres:
    """The benchmarks' Postgres, sized as a database server of this machine would be; all variants share it."""
    WORK.mkdir(exist_ok=True)
    return EmbeddedPostgres(WORK / "postgres", settings={"shared_buffers": "1GB", "max_wal_size": "4GB"})


def seed(running: EmbeddedPostgres) -> None:
    """Fills the database unless it is filled."""
    if not rows.is_seeded(running.owner_url):
        print(f"filling {rows.ROWS:,} rows, once (two to four minutes) …", flush=True)
        rows.fill(running.owner_url, service_url=running.url)


@contextmanager
def seeded_postgres() -> Generator[EmbeddedPostgres]:
    """A running Postgres with a million assets."""
    with postgres() as running:
        seed(running)
        yield running


def pid_of(running: EmbeddedPostgres | EmbeddedSeaweed) -> int:
    """The process of an embedded server."""
    assert running.child is not None
    return running.child.pid


@contextmanager
def database(running: EmbeddedPostgres, name: str) -> Generator[str]:
    """The address of a migrated database beside the seeded one, empty, gone afterwards."""
    parts = urlsplit(running.url)
    url = parts._replace(path=f"/{name}").geturl()
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    with psycopg.connect(running.url, autocommit=True) as connection:
        connection.execute(drop)
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        migrate(url)
        yield url
    finally:
        with psycopg.connect(running.url, autocommit=True) as connection:
            connection.execute(drop)


@contextmanager
def store() -> Generator[EmbeddedSeaweed]:
    """The embedded store, empty, its files gone afterwards."""
    folder = WORK / "store"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with EmbeddedSeaweed(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def api(
    database_url: str, stored: EmbeddedSeaweed | None = None, name: str = "api", **settings: str
) -> Generator[Server]:
    """The API as `butai api` starts it: one process, all middleware, the access log on (JSON, into a file).

    `settings`: further settings by their environment names. Without `stored`, no store is there.
    """
    port = choose_port()
    env = _service_env(database_url, stored, settings)
    with _running(
        name, [sys.executable, "-m", "butai.cli", "api", "--port", str(port)], env, port, "/healthz"
    ) as server:
        yield server


@contextmanager
def worker(database_url: str, stored: EmbeddedSeaweed, name: str = "worker", **settings: str) -> Generator[int]:
    """A worker as `butai worker` starts it; yields its process id. At the end, jobs that run have ten seconds."""
    log = WORK / f"{name}.log"
    log.unlink(missing_ok=True)
    env = _service_env(database_url, stored, settings)
    child = Child([sys.executable, "-m", "butai.cli", "worker"], env=env, log=log)
    try:
        yield child.pid
    finally:
        child.stop(signal.SIGTERM, timeout=30)


def _service_env(database_url: str, stored: EmbeddedSeaweed | None, settings: Mapping[str, str]) -> dict[str, str]:
    """The settings of the API and of a worker."""
    env = {
        "PATH": os.environ["PATH"],
        "BUTAI_DATABASE_URL": database_url,
        "BUTAI_S3_ENDPOINT": "http://127.0.0.1:9",
        "NEXTAUTH_SECRET": SECRET,
        **UNREACHED,
        **settings,
    }
    if stored is not None:
        where = stored.store
        env |= {
            "BUTAI_S3_ENDPOINT": where.endpoint,
            "BUTAI_S3_BUCKET": where.bucket,
            "BUTAI_S3_REGION": where.region,
            "BUTAI_S3_ACCESS_KEY_ID": where.credentials.access_key_id,
            "BUTAI_S3_SECRET_ACCESS_KEY": where.credentials.secret_access_key,
        }
    return env


@contextmanager
def bare(database_url: str) -> Generator[Server]:
    """The list route without middleware (`bare.py`)."""
    port = choose_port()
    env = {"PATH": os.environ["PATH"], "BUTAI_DATABASE_URL": database_url, "BUTAI_S3_ENDPOINT": "http://127.0.0.1:9"}
    argv = [sys.executable, str(HERE / "bare.py"), str(port)]
    with _running("bare", argv, env, port, "/api/s3/resources?type=vrm&pageSize=1") as server:
        yield server


def cookie(user: str) -> dict[str, str]:
    """Headers that sign `user` in, as a studio's front end sends them."""
    settings = IdentitySettings(NEXTAUTH_SECRET=SecretStr(SECRET))  # pyright: ignore[reportCallIssue]
    return {"Cookie": f"{NEXTAUTH_COOKIE}={dev_sign_in_cookie(settings, user)}"}


@contextmanager
def fastify(database_url: str, ready: str) -> Generator[Server]:
    """The peer fastify-pg. `ready`: a path that answers 200 when it serves."""
    folder = _installed("fastify-pg")
    port = choose_port()
    env = _node_env(database_url, port)
    with _running("fastify-pg", ["node", "server.js"], env, port, ready, folder) as server:
        yield server


@contextmanager
def next_prisma(database_url: str, ready: str) -> Generator[Server]:
    """The peer next-prisma, its production build."""
    folder = _installed("next-prisma", build=["npm", "run", "--silent", "build"])
    port = choose_port()
    env = _node_env(database_url, port)
    argv = ["node", "node_modules/next/dist/bin/next", "start", "--hostname", "127.0.0.1", "--port", str(port)]
    with _running("next-prisma", argv, env, port, ready, folder) as server:
        yield server


@contextmanager
def nginx(api_origin: str, store_endpoint: str) -> Generator[Server]:
    """nginx with the configuration that operators are given (`docs/nginx.conf`), on ports of ours."""
    port = choose_port()
    folder = WORK / "nginx"
    folder.mkdir(parents=True, exist_ok=True)
    given = (HERE.parent / "docs" / "nginx.conf").read_text()
    for theirs, ours in (
        ("server 127.0.0.1:8080;", f"server {urlsplit(api_origin).netloc};"),
        ("127.0.0.1:9000; # the store", f"{urlsplit(store_endpoint).netloc};"),
        # In the clear, as the API alone is measured, and without limits for one address, which is where all load comes from.
        ("listen 80;", f"listen 127.0.0.1:{choose_port()};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port};"),
        ("ssl_certificate ", "# "),
        ("ssl_certificate_key ", "# "),
        ("limit_conn butai_connections ", "# "),
        ("limit_req zone=", "# "),
    ):
        assert theirs in given, theirs
        given = given.replace(theirs, ours)
    (folder / "butai.conf").write_text(given)
    # What a distribution's nginx.conf has around it, with nothing outside this folder.
    scratch = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes auto; pid {folder}/nginx.pid; error_log stderr warn;\n"
        f"events {{ worker_connections 1024; }}\n"
        f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_timeout 65;\n{scratch}"
        f"include {folder}/butai.conf; }}\n"
    )
    argv = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    env = {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
    with _running("nginx", argv, env, port, "/healthz", stop=signal.SIGQUIT) as server:
        yield server


def peer_versions(name: str, *packages: str) -> dict[str, str]:
    """What is installed of a peer."""
    modules = PEERS / name / "node_modules"
    found = {package: json.loads((modules / package / "package.json").read_text())["version"] for package in packages}
    return {"node": tool_version("node", "--version"), **found}


def fetch(url: str, headers: Mapping[str, str] | None = None) -> bytes:
    """A body. Raises `Failed` for anything but 200."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers or {})), timeout=30) as answer:
            body = answer.read()
            if answer.status != 200:
                raise Failed(f"{url}: {answer.status}")
            return body
    except OSError as error:
        raise Failed(f"{url}: {error}") from error


def _node_env(database_url: str, port: int) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "NODE_ENV": "production",
        "NEXT_TELEMETRY_DISABLED": "1",
        "DATABASE_URL": database_url,
        "POOL": str(POOL),
        "PORT": str(port),
    }


@contextmanager
def _running(
    name: str,
    argv: list[str],
    env: Mapping[str, str],
    port: int,
    ready: str,
    cwd: Path | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Generator[Server]:
    WORK.mkdir(exist_ok=True)
    log = WORK / f"{name}.log"
    log.unlink(missing_ok=True)
    child = Child(argv, env=env, log=log, cwd=cwd)
    try:
        server = Server(name, f"http://127.0.0.1:{port}", child.pid, log)
        _wait_for(server, ready, child)
        yield server
    finally:
        child.stop(stop, timeout=15)


def _wait_for(server: Server, path: str, child: Child, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(server.origin + path, timeout=5):
                return
        except urllib.error.HTTPError as error:
            raise Failed(f"{server.name} answers {error.code}: {error.read(500).decode(errors='replace')}") from error
        except OSError:
            if child.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{server.name} does not start:\n{log_tail(server.log, lines=15)}") from None
        time.sleep(0.05)


def _installed(name: str, build: list[str] | None = None) -> Path:
    """A peer's folder, installed and built as its files now say."""
    folder = PEERS / name
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and inside.parts[0] not in ("node_modules", ".next", "generated", ".built"):
            digest.update(f"{inside}\0".encode() + path.read_bytes())
    stamp = folder / "node_modules" / ".butai-bench"
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return folder
    env = {**os.environ, "NEXT_TELEMETRY_DISABLED": "1", "CHECKPOINT_DISABLE": "1"}
    for argv in (["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], build):
        if argv:
            print(f"{name}: {' '.join(argv)} …", flush=True)
            ended = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
            if ended.returncode:
                raise Failed(f"{name}: {' '.join(argv)} failed:\n{(ended.stdout + ended.stderr)[-3000:]}")
    stamp.write_text(digest.hexdigest())
    return folder
