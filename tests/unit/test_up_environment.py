"""What `butai up` tells the programs that it starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from butai.cli import up
from butai.config import SECRETS_FILE, Settings, secret_names
from butai.embedded.supervisor import start_program


def environment(folder: Path, host: str) -> dict[str, str]:
    stack = up._Stack.__new__(up._Stack)
    stack._folder, stack._settings, stack._host, stack._port = folder, Settings(), host, 8080
    stack._postgres = stack._store = stack._livekit = None
    return stack._environment()


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
    argv = [sys.executable, "-m", "butai.cli", "migrate"]
    env = {SECRETS_FILE: str(file)}
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("butai: BUTAI_SECRETS_FILE: the file ")
    assert ended.stderr.count("\n") == 1
