"""Asks the advisory databases about all pinned versions: Python packages, npm packages, the livekit-server that Go built.

Called by `make vulnerabilities`, not by `make check`: its answer changes without a change here, and it needs databases of
others. Exit status: 0 when no database that answered knows of a vulnerability, 1 when one does, 2 when none could be asked.
What could not be asked is said; a package that a database does not know counts as such.

Formats: pip-audit's `--format json`; `npm audit --json`, report version 2; govulncheck's `-format json`
(golang.org/x/vuln/internal/govulncheck).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS = 600
"""Time for one program. pip-audit asks for a package at a time."""


class NotAsked(Exception):
    """No answer was had; the text says why."""


@dataclass
class Answer:
    """`findings`: one line each. `unknown`: packages that the database does not know, or did not answer for."""

    asked: int
    findings: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def main() -> int:
    """Asks about each, prints what was found and what could not be asked, and returns the exit status."""
    answered, findings = 0, 0
    for about, ask in questions():
        try:
            answer = ask()
        except NotAsked as error:
            print(f"{about}: could not be asked: {error}")
            continue
        answered += 1
        findings += len(answer.findings)
        print(f"{about}: {len(answer.findings)} known in {answer.asked} packages")
        for line in answer.findings:
            print(f"  {line}")
        if answer.unknown:
            print(f"  could not be asked about {len(answer.unknown)}: {', '.join(answer.unknown)}")
    if findings:
        return 1
    if not answered:
        print("No database answered: nothing is known about any version.")
        return 2
    return 0


def questions() -> Iterator[tuple[str, Callable[[], Answer]]]:
    """What is asked about, each by its file."""
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        yield f"requirements/{path.name}", lambda path=path: python_packages(path)
    locks = (path for path in ROOT.rglob("package-lock.json") if "node_modules" not in path.parts)
    for path in sorted(locks):
        yield str(path.relative_to(ROOT)), lambda path=path: npm_packages(path.parent)
    yield ".tools/bin/livekit-server", lambda: go_program(ROOT / ".tools/bin/livekit-server")


def python_packages(requirements: Path) -> Answer:
    """What PyPI knows about the packages of a file of requirements with hashes. Raises `NotAsked`."""
    found = the_object(
        run(
            *(
                "pip-audit",
                "--require-hashes",
                "--disable-pip",
                "--progress-spinner=off",
                "--desc=off",
                "--format=json",
            ),
            f"--requirement={requirements}",
        ),
        "dependencies",
    )
    answer = Answer(0)
    for package in found["dependencies"]:
        # pip-audit ends well with packages that it could not ask about.
        if "skip_reason" in package:
            answer.unknown.append(package["name"])
            continue
        answer.asked += 1
        for one in package["vulns"]:
            names = " ".join([one["id"], *one.get("aliases", ())])
            fixed = ", ".join(one["fix_versions"]) or "no version"
            answer.findings.append(f"{package['name']} {package['version']}: {names}, mended in {fixed}")
    if not answer.asked:
        raise NotAsked(f"the database knows none of its {len(answer.unknown)} packages")
    return answer


def npm_packages(folder: Path) -> Answer:
    """What npm's registry knows about the packages of a folder's lock. Raises `NotAsked`."""
    found = the_object(run("npm", "audit", "--json", "--package-lock-only", f"--prefix={folder}"), "auditReportVersion")
    # A package is listed for each of its own, and by name for what it depends on.
    known = {
        f"{one['name']} {one['range']}: {one['severity']}, {one['title']} ({one['url']})"
        for package in found["vulnerabilities"].values()
        for one in package["via"]
        if isinstance(one, dict)
    }
    return Answer(found["metadata"]["dependencies"]["total"], sorted(known))


def go_program(program: Path) -> Answer:
    """What Go's database knows about the modules in a program, of the functions that it contains. Raises `NotAsked`."""
    if not program.exists():
        raise NotAsked("it is not built (make livekit)")
    ended = run("govulncheck", "-mode=binary", "-format=json", str(program))
    texts, messages = ended.stdout.strip(), list[dict[str, Any]]()
    while texts:
        try:
            message, end = json.JSONDecoder().raw_decode(texts)
        except ValueError:
            raise NotAsked(why(ended)) from None
        messages.append(message)
        texts = texts[end:].lstrip()
    # In this format findings are no failure.
    if ended.returncode or not any("SBOM" in one for one in messages):
        raise NotAsked(why(ended))
    modules = next(one["SBOM"]["modules"] for one in messages if "SBOM" in one)
    summaries = {one["osv"]["id"]: one["osv"].get("summary", "") for one in messages if "osv" in one}
    known = {
        f"{trace['module']} {trace.get('version', '')}: {one['osv']}, {summaries.get(one['osv'], '')}, "
        f"mended in {one.get('fixed_version') or 'no version'}"
        for one in (message["finding"] for message in messages if "finding" in message)
        for trace in one["trace"][:1]
        if "function" in trace
    }
    return Answer(len(modules), sorted(known))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a program. Raises `NotAsked` when there is none, or when it takes too long."""
    if shutil.which(command[0]) is None:
        raise NotAsked(f"{command[0]} is not installed")
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NotAsked(f"{command[0]} did not end within {SECONDS} s") from None


def the_object(ended: subprocess.CompletedProcess[str], must_have: str) -> dict[str, Any]:
    """The JSON object that a program printed; its exit status is 1 for findings too. Raises `NotAsked` for anything else."""
    try:
        found = json.loads(ended.stdout)
    except ValueError:
        found = None
    if not isinstance(found, dict) or must_have not in found:
        raise NotAsked(found["message"] if isinstance(found, dict) and "message" in found else why(ended))
    return found


def why(ended: subprocess.CompletedProcess[str]) -> str:
    """The last line that a program wrote about its failure."""
    return next(reversed(ended.stderr.strip().splitlines()), f"exit status {ended.returncode}, and no answer")


if __name__ == "__main__":
    sys.exit(main())
