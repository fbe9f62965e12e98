"""What `make` installs is pinned with hashes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["audit", "build", "dev", "installer", "run"])
def test_each_requirement_has_a_version_and_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert lines
    assert [line for line in lines if "==" not in line or not re.search(r"--hash=sha256:[0-9a-f]{64}", line)] == []


def test_make_installs_nothing_else() -> None:
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
    assert len(lines) == 3
    for line in lines:
        assert "--require-hashes -r requirements/" in line or "--build-constraints requirements/build.txt -e ." in line
