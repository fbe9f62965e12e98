"""The catalogue of stable codes: whole, documented, and the only place that spells them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from butai import errors
from butai.errors import ButaiError, Code
from butai.live.reconcile import retry
from butai.live.texts import HOST_CODES

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/butai"


def modules(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders or (".",):
        for path in sorted((SOURCE / folder).rglob("*.py")):
            if "migrations" not in path.parts and SOURCE / "errors" not in path.parents:
                yield path.relative_to(SOURCE), ast.parse(path.read_text())


def classes(kind: type[ButaiError] = ButaiError) -> Iterator[type[ButaiError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from classes(child)


def docstrings(tree: ast.Module) -> set[int]:
    """The ids of strings that are statements: documentation, which may name codes."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def test_no_code_is_spelled_outside_the_catalogue() -> None:
    # Codes of one word are ordinary words as well, such as `removed`, which is a state of an object too.
    spelled = {code.value: code.name for code in Code if "_" in code.value}
    found = []
    for path, tree in modules():
        documentation = docstrings(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                quoted = set(re.findall(r"'([a-z]+(?:_[a-z]+)+)'", node.value))  # in SQL
                found += [
                    f"{path}:{node.lineno}: Code.{spelled[word]}" for word in {node.value, *quoted} if word in spelled
                ]
    assert not found, found


def test_each_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in classes()]
    assert len(codes) == len(set(codes))
    assert all(isinstance(code, Code) for code in codes)
    assert all(kind.title == kind.code.meaning for kind in classes())


def test_no_two_codes_share_a_meaning() -> None:
    meanings = [code.meaning.casefold() for code in Code]
    assert len(meanings) == len(set(meanings))
    assert len({code.value for code in Code}) == len(Code)


def test_every_code_is_used() -> None:
    source = "\n".join(path.read_text() for path in SOURCE.rglob("*.py"))
    assert [code.name for code in Code if f"Code.{code.name}" not in source.replace(f'{code.name} = "', "")] == []


def test_every_code_is_in_the_documents() -> None:
    page = (ROOT / "docs/errors.md").read_text()
    assert [code.value for code in Code if f"| `{code}` |" not in page] == []


def test_the_studio_contract_has_each_code_beside_its_status() -> None:
    errors_of_it = (ROOT / "docs/studio-contract.md").read_text().partition("\n## Errors\n")[2]
    rows = re.findall(r"^\| (\d{3}) \| (.+) \|$", errors_of_it, re.MULTILINE)
    told = {code: int(status) for status, cell in rows for code in re.findall(r"`(\w+)`", cell)}
    statuses = {kind.code.value: kind.status for kind in classes()}
    assert told and {code: statuses.get(code) for code in told} == told
    limits_of_callers = {"quota_exceeded", "rate_limited", "taken_down", "too_many_connections", "user_suspended"}
    assert limits_of_callers - told.keys() == set()


def test_hosts_have_words_for_every_code_of_an_engine_and_of_the_controller() -> None:
    folders = ("relay", "live/reconcile", "live/egress", "live/broadcasts")
    named = {
        node.attr
        for _, tree in modules(*folders)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Code"
    }
    assert len(named) > 15
    assert {name for name in named if name.isupper()} <= {code.name for code in HOST_CODES}


def test_a_code_of_another_process_is_checked_and_an_unknown_one_is_told() -> None:
    with structlog.testing.capture_logs() as told:
        assert Code.received("key_rejected") is Code.KEY_REJECTED
        assert not told
        assert Code.received("key_rejcted") is Code.INTERNAL
    assert told == [{"event": "code.unknown", "log_level": "error", "received": "key_rejcted"}]


@pytest.mark.parametrize("name", ["PERMANENT", "ONCE"])
def test_the_rules_of_retrying_name_codes_that_hosts_have_words_for(name: str) -> None:
    assert getattr(retry, name) <= HOST_CODES


def test_an_error_without_a_detail_says_what_its_code_means() -> None:
    assert errors.NotHost().code is Code.NOT_HOST
    assert errors.NotHost().detail == Code.NOT_HOST.meaning
