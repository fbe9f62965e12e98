"""What `butai up` prints once it is ready."""

from __future__ import annotations

from pathlib import Path

import pytest

from butai.cli.banner import Running, introduction
from butai.config import Settings


@pytest.mark.parametrize(
    ("built", "console", "docs"),
    [(True, "http://127.0.0.1:8080/", "/docs"), (False, "is not built: make console", "/openapi.json")],
)
def test_pages_are_named_where_there_are_any(tmp_path: Path, built: bool, console: str, docs: str) -> None:
    running = Running(
        url="http://127.0.0.1:8080", folder=tmp_path, logs=tmp_path, code="", console_built=built, livekit_url=""
    )
    lines = introduction(Settings(), running, 1.0).splitlines()
    assert f"  Console    {console}" in lines
    assert f"  Docs       http://127.0.0.1:8080{docs}" in lines
