"""The findings of `butai doctor`, and how they are printed. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from butai.log import REDACTED, Redactor

CHECK_SECONDS = 5.0
"""Most seconds for one request to another machine: a slower one is as good as down."""


class Level(StrEnum):
    """The severity of a finding. Only `broken` makes the command fail."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


_MARKS = {Level.OK: "✓", Level.WARNING: "!", Level.BROKEN: "✗"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `advice` says what to do; it is empty when all is well."""

    area: str
    check: str
    level: Level
    message: str
    advice: str = ""


class Findings:
    """The results of one area's checks, kept even when a later check raises. No text holds one of `secrets`."""

    def __init__(self, area: str, secrets: Iterable[str]) -> None:
        self.area = area
        self.found: list[Finding] = []
        self._secrets = [secret for secret in secrets if secret]
        self._redact = Redactor(self._secrets)

    def ok(self, check: str, message: str) -> None:
        """Adds a passed check."""
        self._add(check, Level.OK, message, "")

    def warn(self, check: str, message: str, advice: str) -> None:
        """Adds a finding that an operator should know, though the service works."""
        self._add(check, Level.WARNING, message, advice)

    def broken(self, check: str, message: str, advice: str) -> None:
        """Adds a finding that makes the service fail."""
        self._add(check, Level.BROKEN, message, advice)

    def _add(self, check: str, level: Level, message: str, advice: str) -> None:
        # Advice shows what a URL with a password looks like, which a redactor would take for one.
        for secret in self._secrets:
            advice = advice.replace(secret, REDACTED) if len(secret) >= 6 else advice
        self.found.append(Finding(self.area, check, level, self._redact(message), advice))


def as_text(findings: Sequence[Finding]) -> str:
    """The findings for a terminal: a block for each area, a line for each finding, and its advice below."""
    lines: list[str] = []
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            lines += ["", area] if lines else [area]
        lines.append(f"  {_MARKS[finding.level]} {finding.check}: {finding.message}")
        if finding.advice:
            lines.append(f"      → {finding.advice}")
    broken, warnings = (sum(finding.level is level for finding in findings) for level in (Level.BROKEN, Level.WARNING))
    if broken or warnings:
        lines += ["", f"{broken} broken, {warnings} to look at, {len(findings) - broken - warnings} well."]
    else:
        lines += ["", "All is well."]
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    """The findings as JSON: `ok` is false exactly when the command fails."""
    ok = all(finding.level is not Level.BROKEN for finding in findings)
    return json.dumps({"ok": ok, "findings": [asdict(finding) for finding in findings]}, indent=1, ensure_ascii=False)
