"""What `butai up` tells the programs that it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from butai.cli import up
from butai.config import Settings


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
        ("0.0.0.0", None, "false"),  # noqa: S104 - what an operator may set
        ("192.168.1.5", None, "false"),
        ("0.0.0.0", "true", "true"),  # noqa: S104
    ],
)
def test_private_ingest_is_allowed_on_loopback_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, given: str | None, allowed: str
) -> None:
    monkeypatch.delenv("BUTAI_ALLOW_PRIVATE_INGEST", raising=False)
    if given is not None:
        monkeypatch.setenv("BUTAI_ALLOW_PRIVATE_INGEST", given)
    assert environment(tmp_path, host)["BUTAI_ALLOW_PRIVATE_INGEST"] == allowed
