"""What `butai up` tells the programs that it starts."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

from butai.cli import up_environment
from butai.cli.up_environment import make_environment, split_secrets
from butai.config import SECRETS_FILE, Settings, secret_names
from butai.embedded import folder as folders
from butai.embedded.supervisor import start_program
from tests.forked import run_butai
from tests.processes import free_port


def environment(folder: Path, host: str) -> dict[str, str]:
    return make_environment(Settings(), folder, (host, 8080), postgres=None, store=None, livekit=None)


@pytest.mark.parametrize(
    ("host", "given", "allowed"),
    [
        ("127.0.0.1", None, "true"),
        ("::1", None, "true"),
        ("0.0.0.0", None, "false"),
        ("192.168.1.5", None, "false"),
        ("0.0.0.0", "true", "true"),
    ],
)
def test_private_ingest_is_allowed_on_loopback_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, given: str | None, allowed: str
) -> None:
    monkeypatch.delenv("BUTAI_ALLOW_PRIVATE_INGEST", raising=False)
    if given is not None:
        monkeypatch.setenv("BUTAI_ALLOW_PRIVATE_INGEST", given)
    assert environment(tmp_path, host)["BUTAI_ALLOW_PRIVATE_INGEST"] == allowed


def given(monkeypatch: pytest.MonkeyPatch, file: Path | None, **values: str) -> None:
    """Sets these, in a file of secrets or in the environment."""
    if file is None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)
    else:
        file.write_text(json.dumps(values))
        monkeypatch.setenv(SECRETS_FILE, str(file))


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("lower", [False, True])
def test_what_is_set_is_kept_wherever_and_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_file: bool, lower: bool
) -> None:
    values = {
        "BUTAI_ALLOW_PRIVATE_INGEST": "false",
        "BUTAI_CAPACITY_RESERVE": "1.5",
        "BUTAI_DEV_SIGN_IN": "false",
        "BUTAI_OPERATORS": '["olga"]',
        "BUTAI_QUOTA_BYTES": "1000",
        "BUTAI_QUOTA_FILES": "7",
        "BUTAI_DATABASE_URL": "postgresql://u:p@h/b",
    }
    for name in values:
        monkeypatch.delenv(name, raising=False)
    written = {name.lower() if lower else name: value for name, value in values.items()}
    given(monkeypatch, tmp_path / "secrets.json" if in_file else None, **written)
    told = environment(tmp_path, "127.0.0.1")
    assert {name: told.get(name) for name in values} == values
    assert not told.keys() & {name.lower() for name in values}
    # A name that is no setting stays as it is.
    assert told["PATH"] and SECRETS_FILE not in told


@pytest.mark.parametrize("in_file", [False, True])
def test_operators_stay_as_they_are_set_where_sign_in_is_switched_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_file: bool
) -> None:
    file = tmp_path / "secrets.json" if in_file else None
    given(monkeypatch, file, BUTAI_DEV_SIGN_IN="true", BUTAI_OPERATORS='["olga"]')
    told = environment(tmp_path, "0.0.0.0")
    assert (told["BUTAI_DEV_SIGN_IN"], told["BUTAI_OPERATORS"]) == ("true", '["olga"]')


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", ("true", "0", "0", '["operator"]')), ("0.0.0.0", ("false", "0", "0", None))],
)
def test_an_empty_setting_of_a_file_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, expected: tuple[str | None, ...]
) -> None:
    names = ("BUTAI_DEV_SIGN_IN", "BUTAI_QUOTA_BYTES", "BUTAI_QUOTA_FILES", "BUTAI_OPERATORS")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    given(monkeypatch, tmp_path / "secrets.json", **dict.fromkeys(names, ""))
    told = environment(tmp_path, host)
    assert tuple(told.get(name) for name in names) == expected


def test_secrets_are_the_settings_that_are_kept_out_of_logs() -> None:
    assert secret_names() >= {
        "BUTAI_DATABASE_URL",
        "BUTAI_S3_SECRET_ACCESS_KEY",
        "NEXTAUTH_SECRET",
        "AUTH_SECRET",
        "LIVEKIT_API_SECRET",
        "BUTAI_SECRET_KEY",
        "BUTAI_ALERT_URLS",
        "BUTAI_YOUTUBE_STREAM_KEY",
    }
    assert "BUTAI_S3_ENDPOINT" not in secret_names()


def test_only_the_migration_gets_the_address_of_the_tables_owner() -> None:
    services, owners = "BUTAI_DATABASE_URL", "BUTAI_DATABASE_OWNER_URL"
    given = {services: "postgresql://a", owners: "postgresql://b", "BUTAI_PORT": "1"}
    environment, secrets, for_migration = split_secrets(given)
    assert environment == {"BUTAI_PORT": "1"}
    assert secrets == {services: "postgresql://a"}
    assert for_migration[owners] == "postgresql://b"


TOLD = """
import json, os, sys
from pathlib import Path
from butai.config import Settings
settings = Settings()
again = Settings()
print(json.dumps({
    "url": settings.database.url.get_secret_value(),
    "same": settings == again,
    "secret": settings.identity.nextauth_secret.get_secret_value(),
    "host": settings.http.host,
    "visible": Path("/proc/self/environ").read_text() + repr(sorted(os.environ.items())),
    "descriptors": [os.readlink(one) for one in Path("/proc/self/fd").iterdir() if one.exists()],
}))
"""


def test_a_program_of_up_has_its_secrets_and_shows_none(tmp_path: Path) -> None:
    secrets = {"BUTAI_DATABASE_URL": "postgresql://u:canary-1@h/b", "NEXTAUTH_SECRET": "canary-2"}
    log = tmp_path / "log"
    child = start_program([sys.executable, "-c", TOLD], {"BUTAI_HOST": "::1"}, secrets, log)
    assert child.wait(30) == 0, log.read_text()
    told = json.loads(log.read_text())
    assert (told["url"], told["secret"], told["host"]) == ("postgresql://u:canary-1@h/b", "canary-2", "::1")
    assert told["same"]
    assert "canary" not in told["visible"]
    assert SECRETS_FILE in told["visible"]
    assert [name for name in told["descriptors"] if "memfd" in name] == [], "another process could open it again"


def test_a_file_of_secrets_is_read_beside_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"
    file.write_text(json.dumps({"BUTAI_S3_SECRET_ACCESS_KEY": "from-file"}))
    code = "from butai.config import Settings; s = Settings().store; print(s.secret_access_key.get_secret_value(), s.bucket)"
    env = {SECRETS_FILE: str(file), "BUTAI_S3_SECRET_ACCESS_KEY": "from-env", "BUTAI_S3_BUCKET": "studio"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.split() == ["from-file", "studio"]


@pytest.mark.parametrize("content", [None, "no JSON", "[1]", '{"BUTAI_PORT": 1}'])
def test_a_file_of_secrets_that_cannot_be_read_ends_the_command(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "secrets.json"
    if content is not None:
        file.write_text(content)
    ended = run_butai("migrate", env={SECRETS_FILE: str(file)})
    assert ended.returncode == 1
    assert ended.stderr.startswith("butai: BUTAI_SECRETS_FILE: the file ")
    assert ended.stderr.count("\n") == 1


def test_the_port_of_the_ingest_is_that_of_rtmp_if_free_and_stays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BUTAI_INGEST_PORT", "BUTAI_INGEST_URL", "BUTAI_INGEST_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(folders, "_given", set[int]())
    monkeypatch.setattr(folders, "_told", deque[socket.socket]())
    # Not 1935 itself, which another program of this machine may have.
    usual = free_port()
    monkeypatch.setattr(up_environment, "_INGEST_PORT", usual)

    def told(folder: Path, host: str = "127.0.0.1") -> tuple[int, str, str]:
        found = environment(folder, host)
        return int(found["BUTAI_INGEST_PORT"]), found["BUTAI_INGEST_HOST"], found["BUTAI_INGEST_URL"]

    def starts_anew() -> None:
        folders._given.clear()
        while folders._told:
            folders._told.pop().close()

    starts_anew()
    with socket.create_server(("127.0.0.1", usual)):
        other, host, url = told(tmp_path)
        assert other != usual and (host, url) == ("127.0.0.1", f"rtmp://127.0.0.1:{other}")
    starts_anew()
    assert told(tmp_path)[0] == other, "encoders have it, though the usual one is free"
    second = tmp_path / "second"
    second.mkdir()
    starts_anew()
    assert told(second, "0.0.0.0") == (usual, "0.0.0.0", f"rtmp://127.0.0.1:{usual}")
    starts_anew()
    with socket.create_server(("127.0.0.1", usual)):
        assert told(second)[0] != usual, "for once"
    starts_anew()
    assert told(second)[0] == usual
    starts_anew()
    monkeypatch.setenv("BUTAI_INGEST_PORT", "0")
    assert told(second)[0] == usual, "any free one, which all are told"
    monkeypatch.setenv("BUTAI_INGEST_PORT", "19350")
    monkeypatch.setenv("BUTAI_INGEST_URL", "rtmps://ingest.example/app")
    found = environment(second, "127.0.0.1")
    assert (found["BUTAI_INGEST_PORT"], found["BUTAI_INGEST_URL"]) == ("19350", "rtmps://ingest.example/app")
