"""The house is as its plan says: folders, names, pure modules."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "butai"

MOST_AT_THE_ROOT = 8
"""Modules beside the folders: more than fit one look are found by nobody."""

SAY_NOTHING = {"utils", "helpers", "common", "core", "base", "manager", "misc"}


def modules(folder: Path = SOURCE) -> Iterator[Path]:
    """All modules but migrations, whose names are numbers."""
    return (path for path in sorted(folder.rglob("*.py")) if "migrations" not in path.parts)


def test_few_modules_stand_at_the_root() -> None:
    names = [path.name for path in SOURCE.glob("*.py") if path.name != "__init__.py"]
    assert len(names) <= MOST_AT_THE_ROOT, names


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [path for path in modules() if path.stem in SAY_NOTHING or path.parent.name in SAY_NOTHING] == []


def test_each_sentence_of_the_mission_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 15))
    for number, cell in rows:
        named = re.findall(r"`([^`]+)`", cell)
        assert named, number
        for name in named:
            assert (SOURCE / name).is_file(), f"sentence {number}: there is no {name}"


def test_a_public_class_has_a_name_of_its_own() -> None:
    """But for those that docs/vocabulary.md lists, with the reason."""
    text = (ROOT / "docs" / "vocabulary.md").read_text().partition("## Names that stand for two things")[2]
    allowed = {name for row in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    places: dict[str, list[str]] = defaultdict(list)
    for part in ("assets", "live", "relay"):
        for path in modules(SOURCE / part):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(path.relative_to(SOURCE)))
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert {name: where for name, where in twice.items() if name not in allowed} == {}


def test_what_calls_itself_pure_is_held_to_it() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    held = set(next(one["source_modules"] for one in contracts if one["name"].startswith("Pure")))
    says = set[str]()
    for path in modules():
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        if re.search(r"\bPure\b(?! ASGI)", docstring):
            says.add(".".join(path.relative_to(ROOT / "src").with_suffix("").parts))
    assert says - held == set()
