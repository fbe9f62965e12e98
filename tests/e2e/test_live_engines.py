"""Both engines in one installation: a LiveKit without egress workers does not affect a relay's broadcast."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Start
from tests.e2e.show import Show
from tests.e2e.stage import Stage
from tests.waiting import eventually, rising


@pytest.fixture
def livekit_for_new_shows(stage: Stage) -> Iterator[None]:
    """`BUTAI_EGRESS=livekit` from the block's beginning; the controller is not restarted."""
    stage.end("api")
    stage._more["BUTAI_EGRESS"] = "livekit"
    stage.start("api")
    yield
    stage.end("api")
    del stage._more["BUTAI_EGRESS"]
    stage.start("api")


async def test_a_livekit_without_workers_is_told_and_leaves_the_relays_show_alone(
    on_air: Start, stage: Stage, request: pytest.FixtureRequest
) -> None:
    async with on_air() as it, rising(it.youtube_bytes), rising(it.twitch_bytes):
        since = time.time()
        request.getfixturevalue("livekit_for_new_shows")
        async with Show(stage) as other:
            key = f"never{uuid.uuid4().hex[:12]}"
            await other.host_on()
            begun = time.time()
            await other.start(await other.destination("youtube", it.youtube.url, key))
            told = await other.until(lambda: other.code("youtube") == "egress_unavailable", 40)
            print(f"told after {told - begun:.1f} s")
            error = other.now.outputs["youtube"]["error"]
            assert error["retryable"] and error["next_attempt_at"] and error["message"] and error["action"]
            assert other.state("youtube") == "starting"
            await other.stop()
            assert not it.youtube.published(key)
        await eventually(lambda: it.show.now.at > since + 2, 10)
        assert it.show.changes_of("youtube", since) == it.show.changes_of("twitch", since) == []
