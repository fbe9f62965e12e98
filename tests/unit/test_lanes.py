"""Each module of tests is in the lane that its work asks for."""

from __future__ import annotations

import re

import pytest
from xdist import is_xdist_worker

from tests.lanes import MEDIA, ROOT, SLOW, is_media

WORKS_WITH_MEDIA = re.compile(
    r"^from tests\.(platforms|studio_host|egress_worlds|e2e\.(browsers|stage)) import", re.MULTILINE
)
IN_THEIR_OWN_TIME = {
    "e2e/test_browser.py",  # pages without pictures
    "e2e/test_console_operations.py",  # a show that is looked at, and whose pictures are not
    "e2e/test_console_preview.py",  # pictures that are waited for
    "e2e/test_console_uploads.py",
    "integration/test_doctor_ingest.py",  # an authority, too
    "integration/test_ingest_encoders.py",  # encoders at their own pace, which are waited for
    "integration/test_live_api.py",  # platforms that are asked, and sent nothing
    "integration/test_rtmp_kept_connections.py",  # an authority, too
    "integration/test_rtmp_preflight.py",
    "integration/test_rtmp_publisher.py",  # mostly waiting: 2 s of a processor in 29
    "integration/test_rtmp_real_servers.py",  # packets that were made before
    "integration/test_rtmp_servers.py",  # mostly waiting: 6 s in 78
    "unit/test_relay_encoder.py",  # pictures one by one
    "unit/test_relay_picture.py",
    "unit/test_rtmp_addresses_in_turn.py",  # an authority's certificates
    "unit/test_relay_reachability.py",  # the same
}


def test_what_works_with_media_is_in_the_media_group_or_needs_no_clock() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("test_*.py")
        if WORKS_WITH_MEDIA.search(path.read_text()) and not is_media(path)
    }
    assert found == IN_THEIR_OWN_TIME


def test_no_pattern_is_stale() -> None:
    for pattern in (*MEDIA, *SLOW):
        assert list(ROOT.glob(f"{pattern}.py")), pattern


def test_the_groups_reach_the_scheduler(request: pytest.FixtureRequest) -> None:
    """Where xdist and pytest do not fit together, groups are passed over in silence: pytest-dev/pytest-xdist#1386."""
    assert request.node.nodeid.endswith("@unit-lanes") == is_xdist_worker(request)
