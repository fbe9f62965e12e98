"""Steps that the documents give for a server are in an order in which each finds what it needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def steps(document: str, before: str) -> list[str]:
    """The commands of the first block of shell commands after this text, without their comments."""
    block = re.search(r"```sh\n(.*?)```", (DOCS / document).read_text().split(before, 1)[1], re.DOTALL)
    assert block is not None
    return [line.split("  #")[0].strip() for line in block[1].splitlines()]


def test_a_restored_service_starts_once_settings_store_and_database_are_back() -> None:
    found = steps("operations.md", "**Restoring: ")
    order = (
        r"systemctl stop (?=.*butai-api)(?=.*butai-worker)(?=.*butai-controller)",
        r"install .*secrets\.json.* /etc/butai/",
        r"rclone copy backup:media studio:media",
        r"pg_restore ",
        r"BUTAI_SECRETS_FILE=/etc/butai/migrate\.json butai migrate",
        r"butai patrol run",
        r"systemctl start .*butai-controller",
        r"systemctl start .*butai-api",
    )
    places = [[number for number, step in enumerate(found) if re.match(pattern, step)] for pattern in order]
    assert [len(place) for place in places] == [1] * len(order)
    assert places == sorted(places)


@pytest.mark.parametrize("name", ["run", "build"])
def test_what_a_server_installs_has_hashes(name: str) -> None:
    assert f"/opt/butai/bin/pip install --require-hashes -r requirements/{name}.txt" in steps(
        "security.md", "## A server"
    )


def test_a_server_builds_the_package_of_the_console_and_with_what_is_pinned() -> None:
    found = steps("security.md", "## A server")
    package = "/opt/butai/bin/pip install --no-deps --no-build-isolation ."
    assert [step for step in found if "pip install" in step and "--require-hashes" not in step] == [package]
    pinned = "/opt/butai/bin/pip install --require-hashes -r requirements/build.txt"
    assert found.index("make console") < found.index(package)
    assert found.index(pinned) < found.index(package)
