"""Every code that a user of the console can meet has a text in each of its languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from butai.errors import Code
from butai.live.texts import HOST_CODES

ROOT = Path(__file__).parents[2]
WORDS = ROOT / "console/src/i18n"

WITHOUT_TEXT = {
    "the service's own words name the value that was wrong": "invalid_request MISSING_PARAMETERS",
    "answered to programs other than the console": (
        "webhook_refused host_not_allowed sign_in_code_invalid tus_version_unsupported range_not_satisfiable http_invalid"
        " head_too_large method_not_allowed idempotency_mismatch header_unsupported content_coding_unsupported"
    ),
    "of what the console does not offer": (
        "project_unknown invitation_not_found ingress_not_found ingress_unavailable encoder_not_found"
        " ingest_not_configured"
    ),
    "of a bucket's listing, in the report of `butai import`, which is read in a terminal": (
        "unchanged outside_prefix own_object folder old_version delete_marker archived coded empty key_taken duplicate"
        " trashed removed being_removed already_in_use changed recovered unreadable absent denied_or_absent not_tried"
    ),
    "of a patrol run or a job, which operators see by the code itself": "interrupted worker_died",
    "of an alert, whose title is LiveKit's own answer": "no_workers",
    "shown as the warning of a public file": "licence_forbids_redistribution",
}
"""Codes that need no text in the console, by the reason."""


def texts(language: str) -> dict[str, set[str]]:
    """The keys of each table of texts by codes."""
    found: dict[str, set[str]] = {}
    for name, table, end in (
        (f"problems-{language}.ts", f"problems{language.title()}", "\n};"),
        (f"assets-{language}.ts", "  reasons: {", "\n  },"),
        (f"operations-{language}.ts", "  codes: {", "\n  }"),
        (f"operations-{language}.ts", "  alertWords: {", "\n  }"),
    ):
        whole = (WORDS / name).read_text()
        begin = whole.index(table)
        # Alerts' titles come from the service in English.
        if (language, name, table) == ("en", "operations-en.ts", "  alertWords: {"):
            continue
        found[table] = set(
            re.findall(r"^ {2,4}(\w+):", whole[begin : whole.index(end, begin)].partition("\n")[2], re.MULTILINE)
        )
    return found


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_code_has_a_text_or_a_reason_to_have_none(language: str) -> None:
    tables = texts(language)
    assert all(len(table) > 5 for table in tables.values())
    said = set[str]().union(*tables.values(), texts("zh")["  alertWords: {"], {code.value for code in HOST_CODES})
    exempt = set(" ".join(WITHOUT_TEXT.values()).split())
    codes = {code.value for code in Code}
    assert exempt <= codes, "codes that are no more"
    assert codes - said - exempt == set()
    assert said & exempt == set(), "codes that have a text after all"


def test_each_text_is_for_a_code() -> None:
    ours = {"unreachable", "unexpected_answer"}
    codes = {code.value for code in Code} | ours
    assert set[str]().union(*texts("en").values(), *texts("zh").values()) - codes == set()


def test_the_console_has_chinese_punctuation_in_chinese_and_names_operators() -> None:
    for path in WORDS.glob("*.ts"):
        text = path.read_text()
        assert "administrator" not in text.lower(), path.name
        assert not re.findall(r".{0,8}[\u4e00-\u9fff][,;:.!?].{0,8}", text), path.name
