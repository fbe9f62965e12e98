"""When a controller pings its relays after its process did not run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from butai.config import LiveKitSettings, LiveSettings
from butai.live.egress.relay import egress as module
from butai.live.egress.relay.egress import RelayEgress
from butai.live.projects import Projects
from butai.live.reconcile.timing import Timing

TIMING = Timing()


@pytest.mark.parametrize(
    ("pause", "waits"),
    [
        (TIMING.relay.stood_still_after - 0.1, [TIMING.ping_every, TIMING.ping_every]),
        # Relays take no line right after a pause, and the leases have to be renewed first.
        (40.0, [TIMING.ping_every, TIMING.relay.stale_for * 1.5, TIMING.ping_every]),
    ],
)
async def test_after_a_pause_pings_wait_until_relays_take_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: float, waits: list[float]
) -> None:
    now, slept = 1000.0, list[float]()

    async def sleep(seconds: float) -> None:
        nonlocal now
        # The process stands still during the first wait only.
        now += seconds + (0 if slept else pause)
        slept.append(seconds)
        if slept == waits:
            raise asyncio.CancelledError

    egress = RelayEgress(
        tmp_path, Projects(LiveKitSettings(), LiveSettings()), bytes.decode, controller="c1", timing=TIMING
    )
    monkeypatch.setattr(module, "_now", lambda: now)
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await egress._ping_all()
    assert slept == waits
