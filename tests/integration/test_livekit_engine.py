"""Broadcasts on LiveKit Egress, against a real Postgres and the stand-in, with no webhooks: polling alone is the truth."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from tests.fakes.livekit_egress import Accept, Refuse, Unreachable
from tests.livekit_shows import LiveKitShows, livekit_shows
from tests.shows import KEY, until

A, B = f"rtmp://a/app/{KEY}", f"rtmp://b/app/{KEY}"


@pytest.fixture
async def stage(database_url: str) -> AsyncIterator[LiveKitShows]:
    async with livekit_shows(database_url) as made:
        yield made


async def test_goes_live_on_two_and_ends_when_stopped(stage: LiveKitShows) -> None:
    async with stage.controller():
        begun = time.monotonic()
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        outputs = await stage.reach(broadcast_id, a="live", b="live")
        print(f"live after {(time.monotonic() - begun) * stage.speed:.1f} s of LiveKit's")
        for row in outputs.values():
            assert row["confirmation"] == "transport" and row["attempt"] == 1 and row["error_code"] is None
        assert set(stage.standin.running) >= {A, B}
        await stage.stop(broadcast_id)
        ended = await stage.ended(broadcast_id)
        assert ended["end_code"] is None
        await stage.reach(broadcast_id, a="ended", b="ended")
    assert not any(stage.standin.running.values())
    assert stage.standin.high_water[A] == stage.standin.high_water[B] == 1
    assert len(stage.standin.starts) == 2
