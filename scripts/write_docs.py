"""Writes the documents that come from the code: docs/openapi.json, docs/settings.md and docs/errors.md.

`make docs` writes them; `make check` calls this with `--check`, which fails when one is out of date.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

from pydantic import SecretStr

from butai.api import document
from butai.config import Settings
from butai.errors import ButaiError, Code

DOCS = Path(__file__).parent.parent / "docs"


def openapi() -> str:
    """The OpenAPI document."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def settings() -> str:
    """Every setting with its default and its reason, from the docstrings of `butai.config`."""
    lines = [
        "# Settings",
        "",
        "All from the environment, or from the JSON file that `BUTAI_SECRETS_FILE` names ([security.md](security.md)).",
        "`make docs` writes this page from `src/butai/config`.",
    ]
    read = Settings()
    for kind in (type(getattr(read, section.name)) for section in fields(read)):
        lines += ["", f"## {kind.__name__.removesuffix('Settings')}", "", (kind.__doc__ or "").strip(), ""]
        lines += ["| variable | default | meaning |", "|---|---|---|"]
        for name, field in kind.model_fields.items():
            variable = field.validation_alias or f"{kind.model_config.get('env_prefix', '')}{name}".upper()
            default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
            shown = "" if default in ("", ()) else f"`{default}`"
            lines.append(f"| `{variable}` | {shown} | {' '.join((field.description or '').split())} |")
    return "\n".join(lines) + "\n"


def errors() -> str:
    """The tree of error classes, and every stable code with its meaning, from `butai.errors`."""
    statuses: dict[Code, int] = {}

    def branch(kind: type[ButaiError], depth: int) -> list[str]:
        statuses[kind.code] = kind.status
        retry = f", Retry-After {kind.retry_after}" if kind.retry_after else ""
        name = f"{'  ' * depth}{kind.__name__}"
        lines = [f"{name:<32}{kind.status} {kind.code}{retry}"]
        return lines + [line for child in kind.__subclasses__() for line in branch(child, depth + 1)]

    tree = branch(ButaiError, 0)
    return "\n".join(
        [
            "# Errors",
            "",
            "Clients match codes; texts may change. `make docs` writes this page from `src/butai/errors`.",
            "",
            "```text",
            *tree,
            "```",
            "",
            "| code | HTTP status | meaning |",
            "|---|---|---|",
            *(f"| `{code}` | {statuses.get(code, '')} | {code.meaning} |" for code in sorted(Code)),
            "",
            "A code without a status is no answer: it stands on a row, in an event, in an alert, or in an import's report;",
            "or HTTP itself calls for it (405, 408, 431). A job's `error_code`, and a part of `/api/health`, may also be the",
            "class name of an exception, where the error is none of these.",
            "",
        ]
    )


def main() -> int:
    """Writes, or with `--check` compares. Returns the exit code."""
    stale = []
    for name, text in (("openapi.json", openapi()), ("settings.md", settings()), ("errors.md", errors())):
        path = DOCS / name
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != text:
                stale.append(name)
        else:
            path.write_text(text)
    if stale:
        print(f"out of date: {', '.join(stale)}; run: make docs", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
