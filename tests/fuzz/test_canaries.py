"""Secrets that could be recognised anywhere, a round of everything that works and everything that breaks, and a look at
all that came out: logs, answers, arguments of processes, what commands print, every row of every table.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

import psutil
import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from butai.assets.keys import read_url
from butai.config import DatabaseSettings, Settings
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.seaweed import EmbeddedSeaweed
from butai.identity import sessions
from butai.sign_in.codes import make_code
from tests import files
from tests.canaries import leaks
from tests.conftest import NEXTAUTH_SECRET
from tests.databases import Databases
from tests.fakes.store_proxy import StoreProxy
from tests.forked import run_butai
from tests.fuzz.conftest import Target, attacked
from tests.processes import environment, free_port, process

VRM = files.vrm(1, 300, files.png())
AUTH_SECRET = "canary-auth-secret-7c2e"
LIVEKIT_SECRET = "canary-livekit-secret-91d4"
WRONG_PASSWORD = "canary-wrong-password-3b8a"
WRONG_STORE_SECRET = "canary-wrong-store-secret-e605"


def jwt(**claims: object) -> str:
    """A bearer token that nobody signed."""
    parts = (json.dumps(part).encode() for part in ({"alg": "RS256", "kid": "k"}, claims))
    return ".".join(
        base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (*parts, b"canary-signature-0d17" * 9)
    )


def test_a_leak_would_be_seen() -> None:
    secret = {"secret": "canary-5f0c/+=?"}
    for said in (
        secret["secret"],
        quote(secret["secret"]),
        json.dumps(secret),
        base64.b64encode(b"Basic:canary-5f0c/+=?:").decode(),
    ):
        assert leaks(secret, {"out": b"before" + said.encode() + b"after"}), said
    assert leaks(secret, {"out": b"canary, but not this one"}) == []


@contextlib.contextmanager
def database_away(postgres: EmbeddedPostgres, name: str) -> Generator[None]:
    """Nobody gets in, and whoever was in is thrown out."""
    with psycopg.connect(postgres.admin_url, autocommit=True) as admin:
        switch = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        admin.execute(switch.format(sql.Identifier(name), sql.SQL("false")))
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield
        finally:
            admin.execute(switch.format(sql.Identifier(name), sql.SQL("true")))


@contextlib.contextmanager
def renamed(url: str, table: str, column: str) -> Generator[None]:
    """A column that is not where the code looks for it: every statement that names it crashes."""
    there = sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}")
    gone = f"{column}_gone"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(there.format(*map(sql.Identifier, (table, column, gone))))
        try:
            yield
        finally:
            connection.execute(there.format(*map(sql.Identifier, (table, gone, column))))


def dump(url: str) -> dict[str, bytes]:
    """Every row of every table, as text."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        return {
            f"table {table}": "\n".join(
                row[0]
                for row in connection.execute(
                    sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(schema, table))
                )
            ).encode()
            for schema, table in tables
        }


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def refused_sessions(target: Target, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sessions that end with 401: expired, cut, altered, with something behind, sealed with another secret."""
    good = sessions.mint_nextauth4(target.settings.identity, {"sub": "alice"})
    monkeypatch.setattr(sessions, "time", SimpleNamespace(time=lambda: 1_000_000_000))
    expired = sessions.mint_nextauth4(target.settings.identity, {"sub": "alice"})
    monkeypatch.undo()
    other = target.settings.identity.model_copy(update={"nextauth_secret": SecretStr("another-secret")})
    middle = len(good) // 2
    altered = good[:middle] + ("A" if good[middle] != "A" else "B") + good[middle + 1 :]
    return [expired, good[:-9], altered, good + "x", sessions.mint_nextauth4(other, {"sub": "alice"})]


def works(target: Target, token: str, cookie: str, codes: list[str]) -> None:
    """A round of what works, by cookie and by API key. `codes`: takes the one-time codes, one used and one not."""
    key = {"X-API-Key": token}
    assert target.upload("vrm/a.vrm", VRM).status == 200
    asset = target.upload("vrm/a.vrm", files.vrm(2, 400, files.png())).json["data"]
    large = target.upload("vrm/large.vrm", files.vrm(3, 20 * 1024**2)).json["data"]
    assert target.upload("vrm/a_thumb.png", files.png()).status == 200
    thumbnail = f"/api/vrm-thumbnail?url={quote(read_url('vrm/a.vrm'), safe='')}"
    for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/sign-in"):
        assert target.ask("GET", path, user=None).status == 200
    code = make_code(target.settings.up.data_dir, "bob")
    codes.append(code)
    assert target.send_json("POST", "/api/session", {"code": code}, user=None).status == 303
    codes.append(make_code(target.settings.up.data_dir, "bob"))
    assert target.send_json("POST", "/api/session", {"code": code}, user=None).code == "sign_in_code_invalid"
    for headers in (key, {"Authorization": f"Bearer {token}"}, {"Cookie": cookie}):
        for path in (
            "/api/s3/resources?type=vrm",
            "/api/s3/resources?type=vrm&pageSize=1&q=a",
            read_url("vrm/a.vrm"),
            "/api/assets/changes",
            f"/api/assets/{asset['id']}",
            thumbnail,
        ):
            assert target.ask("GET", path, headers, user=None).status == 200, path
    for headers, status in (
        ({"Range": "bytes=0-9"}, 206),
        ({"Range": "bytes=999-"}, 416),
        ({"If-None-Match": "*"}, 304),
    ):
        assert target.ask("GET", read_url("vrm/a.vrm"), headers).status == status
    edited = target.send_json("PATCH", f"/api/assets/{asset['id']}", {"visibility": "public", "tags": ["a"]})
    assert edited.status == 200
    assert target.ask("DELETE", f"/api/assets/{large['id']}").status == 204
    assert target.ask("POST", f"/api/assets/{large['id']}/restore").status == 200
    wanted = {"fileName": "vrm/s.vrm", "fileType": "model/vrm"}
    signed = target.send_json("POST", "/api/s3/presigned-url", wanted).json["data"]
    assert target.ask("POST", signed["completeUrl"]).code == "asset_not_ready"
    with urlopen(Request(signed["url"], VRM, method="PUT")) as answer:
        assert answer.status == 200
    assert target.ask("POST", signed["completeUrl"]).status == 200


def fails(target: Target, postgres: EmbeddedPostgres, token: str, refused: list[dict[str, str]]) -> None:
    """A round of what fails: callers, uploads, the store in each way, the database, our own code."""
    for headers in refused:
        answer = target.ask("GET", "/api/s3/resources?type=vrm", headers, user=None)
        assert (answer.status, answer.code) in ((401, "auth_required"), (503, "unavailable")), (headers, answer)
    assert (
        target.ask("DELETE", "/api/assets/00000000-0000-0000-0000-000000000000", {"Origin": "http://evil"}).status
        == 403
    )
    assert target.upload("vrm/bad.vrm", b"not an avatar").code == "signature_mismatch"
    assert target.upload("vrm/sum.vrm", VRM, sha256="0" * 64).code == "checksum_mismatch"
    assert (
        target.ask("POST", "/api/s3/upload", {"Content-Type": "multipart/form-data; boundary=f"}, b"--f").status == 400
    )
    assert target.raw(b"POST /api/s3/upload HTTP/1.1\r\n\x00")[0].code == "http_invalid"
    with target.connect() as wire:
        wire.sendall(
            f"POST /api/s3/upload HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {token}\r\nContent-Length: 9999\r\n"
            "Content-Type: multipart/form-data; boundary=f\r\n\r\n--f".encode()
        )
    for how, codes in (
        ({"status": 403, "code": "AccessDenied"}, {"store_access_denied"}),
        ({"status": 403, "code": "SignatureDoesNotMatch"}, {"store_access_denied"}),
        ({"status": 500}, {"store_unavailable"}),
        ({"status": 504}, {"store_timeout"}),
        ({"cut_answer": 10, "cut_request": 10}, {"store_unavailable", "store_timeout", None}),
    ):
        fault = target.proxy.fault(None, **how)
        for key, content in (("vrm/f.vrm", VRM), ("vrm/f-large.vrm", files.vrm(4, 20 * 1024**2))):
            assert target.upload(key, content).code in codes, how
        assert target.attempt("GET", read_url("vrm/a.vrm")) in codes, how
        target.attempt("GET", f"/api/vrm-thumbnail?url={quote(read_url('vrm/a.vrm'), safe='')}")
        target.ask("GET", "/readyz", user=None)
        assert fault.met > 0, how
        target.proxy.heal()
    url = target.settings.database.url.get_secret_value()
    owners = urlunsplit(urlsplit(postgres.owner_url)._replace(path=urlsplit(url).path))
    for table, column, path in (
        ("assets", "item", "/api/s3/resources?type=vrm"),
        ("assets", "wanted_key", read_url("vrm/a.vrm")),
    ):
        with renamed(owners, table, column):
            assert target.ask("GET", path).status == 500
    with renamed(owners, "assets", "wanted_key"):
        assert target.upload("vrm/crash.vrm", VRM).status == 500
        # A form that sends its file first is in the index only when its bytes are in the store.
        fields = [("fileName", None, b"vrm/crash.vrm"), ("fileType", None, b"model/vrm")]
        assert target.send_form([("file", "f", VRM), *fields]).status == 500
    with renamed(owners, "api_keys", "secret_hash"):
        # Keys are believed for ten seconds; this one has not been seen.
        unknown = f"butai_{'0' * 16}_{'f' * 64}"
        assert target.ask("GET", "/api/s3/resources?type=vrm", {"X-API-Key": unknown}, user=None).status == 500
    with database_away(postgres, urlsplit(url).path.lstrip("/")):
        for path in ("/api/s3/resources?type=vrm", read_url("vrm/a.vrm"), "/readyz"):
            assert target.ask("GET", path).status == 503
        assert target.upload("vrm/f.vrm", VRM).code == "database_unavailable"
    target.wait_until_ready()


def commands(right: Settings, folder: Path, wrong: Settings, more: dict[str, str]) -> dict[str, bytes]:
    """What the commands print, with settings that work and with some that do not.

    They ask the store itself, not the proxy: the doctor tries whether it may list, which the proxy holds against us.
    """
    listing = folder / "listing.csv"
    listing.write_text("key,size\nvrm/a.vrm,5\n")
    outputs: dict[str, bytes] = {}
    for name, settings in (("right", right), ("wrong", wrong)):
        for arguments in (
            ("doctor",),
            ("doctor", "--json"),
            ("migrate",),
            ("apikey", "list"),
            ("apikey", "revoke", "0" * 16),
            ("import", "--listing", str(listing)),
            ("worker", "--nonsense"),
        ):
            done = run_butai(*arguments, env=environment(settings, **more))
            assert done.stdout + done.stderr, arguments
            outputs[f"butai {' '.join(arguments[:2])} ({name})"] = (done.stdout + done.stderr).encode()
    return outputs


@pytest.mark.slow
def test_no_secret_comes_out_anywhere(
    databases: Databases,
    seaweed: EmbeddedSeaweed,
    one_proxy: StoreProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issuer = f"http://127.0.0.1:{free_port()}"
    more = {
        "AUTH_SECRET": AUTH_SECRET,
        "LIVEKIT_URL": f"ws://127.0.0.1:{free_port()}",
        "LIVEKIT_API_KEY": "key",
        "LIVEKIT_API_SECRET": LIVEKIT_SECRET,
        "BUTAI_OIDC_ISSUER": issuer,
        "BUTAI_OIDC_AUDIENCE": "butai",
        "BUTAI_DEV_SIGN_IN": "true",
        "BUTAI_LOG_LEVEL": "debug",
    }
    # As an operator starts them: their arguments are looked at.
    with attacked(databases, seaweed, one_proxy, tmp_path, through=(), **more) as target:
        made = run_butai("apikey", "create", "--user", "alice", env=environment(target.settings, **more))
        assert made.returncode == 0
        (token,) = re.findall(r"butai_[0-9a-f]{16}_[0-9a-f]{64}", made.stdout)
        bearer = jwt(iss=issuer, aud="butai", exp=time.time() + 999, sub="alice")
        stale = refused_sessions(target, monkeypatch)
        unknown_key = f"butai_{'0' * 16}_{'e' * 64}"
        refused = [{"Cookie": f"next-auth.session-token={session}"} for session in stale]
        refused += [{"Cookie": f"__Secure-authjs.session-token.0={stale[0][:99]}; __Secure-authjs.session-token.1=x"}]
        refused += [{"X-API-Key": unknown_key}, {"X-API-Key": token[:-9]}, {"Authorization": f"Bearer {unknown_key}"}]
        refused += [{"Authorization": f"Bearer {bearer}"}, {"Authorization": "Basic Y2FuYXJ5OmNhbmFyeQ=="}]

        database = target.settings.database.url.get_secret_value()
        password = unquote(urlsplit(database).password or "")
        store_secret = target.settings.store.secret_access_key.get_secret_value()
        right = replace(
            target.settings, store=target.settings.store.model_copy(update={"endpoint": seaweed.store.endpoint})
        )
        wrong = replace(
            right,
            database=DatabaseSettings(url=SecretStr(database.replace(quote(password), WRONG_PASSWORD))),
            store=right.store.model_copy(update={"secret_access_key": SecretStr(WRONG_STORE_SECRET)}),
        )
        codes: list[str] = []
        worker_log = tmp_path / "worker.log"
        with process(target.settings, worker_log, "worker", through=(), **more, BUTAI_LOG_FORMAT="text") as worker:
            until(lambda: b"worker.started" in worker_log.read_bytes(), "the worker did not start")
            works(target, token, target.cookie("alice"), codes)
            fails(target, databases.server, token, refused)
            until(lambda: b"not currently accepting" in worker_log.read_bytes(), "the worker missed nothing")
            until(lambda: b"object.removed" in worker_log.read_bytes(), "the worker removed nothing")
            works(target, token, target.cookie("alice"), codes)
            assert worker.poll() is None
            assert target.ask("GET", "/metrics", user=None).status == 200
            family = [psutil.Process(os.getpid()), *psutil.Process(os.getpid()).children(recursive=True)]
            arguments: dict[str, bytes] = {}
            for child in family:
                # One of Postgres' own may have ended meanwhile.
                with contextlib.suppress(psutil.NoSuchProcess):
                    arguments[f"argv of {child.pid}"] = "\0".join(child.cmdline()).encode()
            assert f"argv of {worker.pid}" in arguments and f"argv of {target.process.pid}" in arguments
            outputs = commands(right, tmp_path, wrong, more)

        outputs |= arguments | dump(database)
        outputs["api key create's stderr"] = made.stderr.encode()
        outputs["the API's log"], outputs["the worker's log"] = target.log.read_bytes(), worker_log.read_bytes()
        answers = {
            f"answer {number} ({answer.status})": repr(answer.headers).encode() + b"\n" + answer.body
            for number, answer in enumerate(target.answers)
        }

    secrets = {
        "NEXTAUTH_SECRET": NEXTAUTH_SECRET,
        "AUTH_SECRET": AUTH_SECRET,
        "LIVEKIT_API_SECRET": LIVEKIT_SECRET,
        "the store's secret key": store_secret,
        "a wrong secret key": WRONG_STORE_SECRET,
        "the database's password": password,
        "a wrong password": WRONG_PASSWORD,
        "the API key": token.rpartition("_")[2],
        "an unknown API key": unknown_key.rpartition("_")[2],
        "half an API key": token[:-9].rpartition("_")[2],
        "a bearer token's signature": bearer.rpartition(".")[2],
        "a bearer token's claims": bearer.split(".")[1],
        **{f"sign-in code {number}": code for number, code in enumerate(codes)},
        **{f"the session of {user}": session for user, session in target.sessions.items()},
        **{f"a refused session, {number}": session for number, session in enumerate(stale)},
    }
    assert all(secrets.values())
    assert leaks(secrets, outputs | answers) == []

    # What an answer may hold, for the one who asked, and nothing else may: a signed URL, a session that was made.
    signatures = re.compile(rb"X-Amz-Signature=[0-9a-f]{64}|butai_[0-9a-f]{16}_[0-9a-f]{64}|eyJ[\w-]{20,}\.")
    assert [place for place, output in outputs.items() if signatures.search(output)] == []
    assert len([place for place, answer in answers.items() if signatures.search(answer)]) == 4  # two rounds of two

    # And all of that really happened.
    met = {answer.status for answer in target.answers}
    assert met >= {200, 204, 206, 303, 304, 400, 401, 403, 409, 416, 422, 500, 503, 504}
    said = outputs["the API's log"]
    for event in (
        *("store.access_denied", "store.refused", "identity.refused", "request.crashed", "upload.crashed"),
        *("upload.failed", "upload.completed", "http.refused", "Traceback", "UndefinedColumn"),
    ):
        assert event.encode() in said, event
    assert sum(place.startswith("table ") for place in outputs) > 8
    assert b"alice" in outputs["table assets"] and b"vrm/a.vrm" in outputs["table audit"]
    assert outputs["table api_keys"]
