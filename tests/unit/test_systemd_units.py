"""The systemd units of docs/systemd confine the services, and leave them what they need."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "systemd"
UNITS = ("api", "worker", "controller")

LEAST_SAFE = 20
"""The exposure that `systemd-analyze security` may find at most, in tenths; of 10.0 for a service without any confinement."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def path_of(name: str) -> Path:
    return FOLDER / f"butai-{name}.service"


def settings(name: str) -> dict[str, list[str]]:
    """The settings of the section Service, each with its values in their order."""
    found: dict[str, list[str]] = {}
    section = path_of(name).read_text().partition("[Service]")[2].partition("[Install]")[0]
    for line in section.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Asks systemd's own program; no systemd has to run."""
    argv = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@functools.cache
def members(group: str) -> frozenset[str]:
    """The system calls of a group of systemd's, such as `@system-service`."""
    ended = analyze("syscall-filter", group)
    assert ended.returncode == 0, ended.stderr
    words = [line.split("#")[0].strip() for line in ended.stdout.splitlines()[1:]]
    return frozenset[str]().union(*(members(word) if word.startswith("@") else {word} for word in words if word))


def allowed(name: str) -> frozenset[str]:
    """The system calls that a unit permits: its lines add to each other and take off, in their order (systemd.exec(5))."""
    permitted = members("@default")
    for line in settings(name)["SystemCallFilter"]:
        for word in line.removeprefix("~").split():
            named = members(word) if word.startswith("@") else frozenset({word})
            permitted = permitted - named if line.startswith("~") else permitted | named
    return permitted


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_little_exposure(name: str) -> None:
    ended = analyze("security", "--offline=yes", f"--threshold={LEAST_SAFE}", str(path_of(name)))
    assert ended.returncode == 0, ended.stdout


@needs_systemd
def test_systemd_takes_the_units_without_a_word(tmp_path: Path) -> None:
    copies = [tmp_path / path_of(name).name for name in UNITS]
    for name, copy in zip(UNITS, copies, strict=True):
        # It wants the program to be there.
        text = path_of(name).read_text()
        assert "\nExecStart=/opt/butai/bin/butai " in text
        copy.write_text(text.replace("/opt/butai/bin/butai", "/bin/true"))
    ended = analyze("verify", "--man=no", *map(str, copies))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@needs_systemd
def test_a_decoder_may_confine_itself() -> None:
    # What the filter refuses it goes without, so nothing else would tell.
    assert {"landlock_create_ruleset", "landlock_restrict_self", "prctl", "prlimit64"} <= allowed("worker")
    assert not {"ptrace", "mount", "bpf", "setuid", "init_module", "kexec_load"} & allowed("worker")


@pytest.mark.parametrize("name", UNITS)
def test_each_service_has_a_user_of_its_own_and_its_secrets_in_a_file(name: str) -> None:
    unit = settings(name)
    assert unit["User"] == [f"butai-{name}"]
    assert unit["ExecStart"] == [f"/opt/butai/bin/butai {name}"]
    assert unit["LoadCredential"] == ["butai:/etc/butai/secrets.json"]
    assert "BUTAI_SECRETS_FILE=%d/butai" in unit["Environment"]
    assert [unit[key] for key in ("CapabilityBoundingSet", "NoNewPrivileges", "ProtectSystem", "UMask")] == [
        [""],
        ["yes"],
        ["strict"],
        ["0077"],
    ]


def test_the_units_differ_in_what_their_services_need() -> None:
    api, worker, controller = map(settings, UNITS)
    same = api.keys() & worker.keys() & controller.keys()
    assert {key for key in same if not api[key] == worker[key] == controller[key]} == {
        "ExecStart",
        "User",
        "Environment",
        "SystemCallFilter",
        "RestrictAddressFamilies",
    }
    # Relays outlive their controller, and are found again by sockets in a folder that outlives it too.
    (folder,) = controller["RuntimeDirectory"]
    assert f"BUTAI_RELAY_FOLDER=/run/{folder}" in controller["Environment"]
    assert (controller["KillMode"], controller["RuntimeDirectoryPreserve"]) == (["process"], ["yes"])
    # A decoder or a relay that the kernel kills for memory stops no service.
    assert worker["OOMPolicy"] == controller["OOMPolicy"] == ["continue"]
    # Relays are found by /proc/locks, and the addresses for WebRTC by netlink.
    assert "ProcSubset" not in controller
    assert "AF_NETLINK" in controller["RestrictAddressFamilies"][0]
