"""Files of the package that modules find by their own place: they are where they are looked for."""

from __future__ import annotations

import re
from pathlib import Path

from butai.cli import up
from butai.database import MIGRATIONS
from butai.operations import console

ROOT = Path(__file__).parents[2]


def test_the_console_is_served_from_where_it_is_built() -> None:
    built = re.search(r'outDir: "([^"]+)"', (ROOT / "console" / "vite.config.ts").read_text())
    assert built is not None
    assert (ROOT / "console" / built[1]).resolve() == console.DIST.resolve()


def test_butai_up_looks_for_the_console_where_it_is_served_from() -> None:
    assert up._CONSOLE.parent == console.DIST
    assert (ROOT / "console" / up._CONSOLE.name).exists()


def test_butai_up_compares_a_database_with_the_newest_migration() -> None:
    newest = max(path.name for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))
    assert newest.startswith(f"{up._head_revision()}_")
