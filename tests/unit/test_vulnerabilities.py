"""`make vulnerabilities` says what is known, what could not be asked, and never that all is well without an answer.

The programs are stand-ins that print recorded answers: pip-audit 2.10.1 and npm 11 of a database on loopback, govulncheck of
its own test data (`binary_call_json.ct`, golang.org/x/vuln 1.9.0).
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "vulnerabilities.py"

PIP_GOOD = {"dependencies": [{"name": "uv", "version": "0.13.9", "vulns": []}], "fixes": []}
PIP_BAD = {
    "dependencies": [
        {
            "name": "uv",
            "version": "0.13.9",
            "vulns": [{"id": "CVE-2026-0001", "fix_versions": ["0.13.10"], "aliases": ["GHSA-aaaa-bbbb-cccc"]}],
        }
    ],
    "fixes": [],
}
SKIPPED = {"name": "uv", "skip_reason": "Dependency not found on PyPI and could not be audited: uv (0.13.9)"}
PIP_SKIPPED = {"dependencies": [SKIPPED], "fixes": []}
PIP_HALF = {"dependencies": [SKIPPED, {"name": "idna", "version": "3.20", "vulns": []}], "fixes": []}

_NPM_COUNTS = {"dependencies": {"prod": 2, "dev": 0, "optional": 0, "peer": 0, "peerOptional": 0, "total": 1}}
NPM_GOOD = {"auditReportVersion": 2, "vulnerabilities": {}, "metadata": _NPM_COUNTS}
NPM_BAD = {
    "auditReportVersion": 2,
    "vulnerabilities": {
        "left-pad": {
            "name": "left-pad",
            "severity": "high",
            "via": [
                {
                    "source": 1,
                    "name": "left-pad",
                    "title": "Pads without end",
                    "url": "https://github.com/advisories/GHSA-xxxx-yyyy-zzzz",
                    "severity": "high",
                    "range": "<1.3.1",
                }
            ],
            "fixAvailable": False,
        },
        "pads": {"name": "pads", "severity": "high", "via": ["left-pad"], "fixAvailable": False},
    },
    "metadata": _NPM_COUNTS,
}
NPM_REFUSED = {
    "message": "405 Method Not Allowed - POST https://registry.example/-/npm/v1/security/advisories/bulk",
    "method": "POST",
    "statusCode": 405,
    "body": "",
    "error": {"summary": "", "detail": ""},
}

_GO_SBOM = {
    "SBOM": {"go_version": "go1.18", "modules": [{"path": "golang.org/vuln", "version": "v0.3.1"}], "roots": ["x"]}
}
_GO_OSV = {"osv": {"id": "GO-9999-9999", "summary": "A fake vulnerability in golang.org/x/vuln"}}
_MODULE = {"module": "golang.org/vuln", "version": "v0.3.1"}


def go_finding(**of_frame: str) -> dict[str, Any]:
    """A finding of govulncheck's, at the level that its frame tells."""
    return {"finding": {"osv": "GO-9999-9999", "fixed_version": "v0.3.3", "trace": [{**_MODULE, **of_frame}]}}


GO_GOOD = [_GO_SBOM]
GO_UNUSED = [_GO_SBOM, _GO_OSV, go_finding(), go_finding(package="golang.org/vuln")]
GO_BAD = [*GO_UNUSED, go_finding(package="golang.org/vuln", function="main")]


@dataclass
class Checkout:
    """A folder with the script, a file of requirements, a lock of npm and a livekit-server; and a path of stand-ins."""

    root: Path
    programs: Path = field(init=False)

    def __post_init__(self) -> None:
        self.programs = self.root / "programs"
        for name in ("scripts", "requirements", "console/node_modules/other", ".tools/bin", "programs"):
            (self.root / name).mkdir(parents=True)
        (self.root / "scripts" / SCRIPT.name).write_bytes(SCRIPT.read_bytes())
        for name in ("requirements/run.txt", "console/package-lock.json", ".tools/bin/livekit-server"):
            (self.root / name).write_text("")
        # A package's own lock is no pin of this project's.
        (self.root / "console/node_modules/other/package-lock.json").write_text("")

    def answers(self, program: str, *printed: object, status: int = 0, error: str = "") -> None:
        """Makes a program that prints JSON values, a text on stderr, and ends with a status. Its arguments are kept."""
        path = self.programs / program
        answer, said = self.root / f"{program}.out", self.root / f"{program}.err"
        answer.write_text("".join(json.dumps(one, indent=2) + "\n" for one in printed))
        said.write_text(error)
        path.write_text(
            f'#!/bin/sh\necho "$@" >>{self.root}/{program}.called\n/bin/cat {said} >&2\n/bin/cat {answer}\nexit {status}\n'
        )
        path.chmod(0o755)

    def asked(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(self.root / "scripts" / SCRIPT.name)],
            env={"PATH": str(self.programs)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def called_with(self, program: str) -> list[str]:
        return (self.root / f"{program}.called").read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """All three programs, which know of nothing."""
    made = Checkout(tmp_path)
    made.answers("pip-audit", PIP_GOOD)
    made.answers("npm", NPM_GOOD)
    made.answers("govulncheck", *GO_GOOD)
    return made


def test_each_file_is_asked_about_once_and_nothing_known_is_0(checkout: Checkout) -> None:
    ended = checkout.asked()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        "requirements/run.txt: 0 known in 1 packages",
        "console/package-lock.json: 0 known in 1 packages",
        ".tools/bin/livekit-server: 0 known in 1 packages",
    ]
    (pip,) = checkout.called_with("pip-audit")
    assert "--require-hashes --disable-pip" in pip
    assert f"--requirement={checkout.root}/requirements/run.txt" in pip
    (npm,) = checkout.called_with("npm")
    assert npm == f"audit --json --package-lock-only --prefix={checkout.root}/console"
    assert checkout.called_with("govulncheck") == [
        f"-mode=binary -format=json {checkout.root}/.tools/bin/livekit-server"
    ]


@pytest.mark.parametrize(
    ("program", "printed", "status", "line"),
    [
        ("pip-audit", [PIP_BAD], 1, "uv 0.13.9: CVE-2026-0001 GHSA-aaaa-bbbb-cccc, mended in 0.13.10"),
        (
            "npm",
            [NPM_BAD],
            1,
            "left-pad <1.3.1: high, Pads without end (https://github.com/advisories/GHSA-xxxx-yyyy-zzzz)",
        ),
        (
            "govulncheck",
            GO_BAD,
            0,
            "golang.org/vuln v0.3.1: GO-9999-9999, A fake vulnerability in golang.org/x/vuln, mended in v0.3.3",
        ),
    ],
    ids=["pip-audit", "npm", "govulncheck"],
)
def test_a_known_vulnerability_is_said_once_and_is_1(
    checkout: Checkout, program: str, printed: list[object], status: int, line: str
) -> None:
    checkout.answers(program, *printed, status=status)
    ended = checkout.asked()
    assert (ended.returncode, ended.stderr) == (1, "")
    assert [said for said in ended.stdout.splitlines() if said.startswith("  ")] == [f"  {line}"]


def test_a_vulnerable_module_whose_functions_are_not_in_the_program_is_no_finding(checkout: Checkout) -> None:
    checkout.answers("govulncheck", *GO_UNUSED)
    assert checkout.asked().returncode == 0


def test_what_could_not_be_asked_is_said_and_the_rest_counts(checkout: Checkout) -> None:
    checkout.answers("npm", NPM_REFUSED, status=1, error="npm error audit endpoint returned an error\n")
    (checkout.programs / "govulncheck").unlink()
    ended = checkout.asked()
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[1:] == [
        f"console/package-lock.json: could not be asked: {NPM_REFUSED['message']}",
        ".tools/bin/livekit-server: could not be asked: govulncheck is not installed",
    ]
    checkout.answers("pip-audit", PIP_BAD, status=1)
    assert checkout.asked().returncode == 1


def test_packages_that_the_database_does_not_know_are_named(checkout: Checkout) -> None:
    checkout.answers("pip-audit", PIP_HALF)
    ended = checkout.asked()
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[:2] == [
        "requirements/run.txt: 0 known in 1 packages",
        "  could not be asked about 1: uv",
    ]


@pytest.mark.parametrize("pip", [PIP_SKIPPED, None], ids=["all skipped", "no answer"])
def test_no_answer_at_all_is_2_however_well_the_programs_end(checkout: Checkout, pip: object) -> None:
    if pip is None:
        checkout.answers("pip-audit", status=1, error="Traceback …\nConnectionError: no such host\n")
    else:
        checkout.answers("pip-audit", pip)
    checkout.answers("npm", NPM_REFUSED, status=1)
    checkout.answers("govulncheck", {"config": {}}, status=1, error="govulncheck: fetching: no such host\n")
    ended = checkout.asked()
    assert (ended.returncode, ended.stderr) == (2, "")
    first, _, third, last = ended.stdout.splitlines()
    why = "the database knows none of its 1 packages" if pip else "ConnectionError: no such host"
    assert first == f"requirements/run.txt: could not be asked: {why}"
    assert third == ".tools/bin/livekit-server: could not be asked: govulncheck: fetching: no such host"
    assert last == "No database answered: nothing is known about any version."


def test_without_a_livekit_server_it_says_so(checkout: Checkout) -> None:
    (checkout.root / ".tools/bin/livekit-server").unlink()
    ended = checkout.asked()
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[2] == (
        ".tools/bin/livekit-server: could not be asked: it is not built (make livekit)"
    )
