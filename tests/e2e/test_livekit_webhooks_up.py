"""`butai up` has its LiveKit tell its API what happens; with the relay as engine it is told in the timeline too."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stage import eventually
from tests.e2e.test_live_up import on_air
from tests.e2e.test_up import Up
from tests.platforms import Platform


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="butai-up-"))
    yield path
    shutil.rmtree(path)


async def test_a_show_on_one_machine_has_livekits_words_in_its_timeline(folder: Path) -> None:
    with Platform("tw") as platform, Up(folder / "data") as up:
        async with on_air(up.ready(), platform) as (show, _, _):

            async def told(name: str) -> list[dict[str, Any]]:
                found = await show.call("GET", f"/api/live/broadcasts/{show.session}/timeline")
                return [one for one in found["data"] if (one["event"], one["actor"]) == (name, "livekit")]

            async def engine_came() -> bool:
                return bool(await told("participant.joined"))

            await eventually(engine_came, 10)
            (relay,) = await told("participant.joined")
            assert (relay["detail"]["identity"], relay["detail"]["engine"]) == (f"egress-{show.session}", True)
        logs = {name: (up.data_dir / "logs" / f"{name}.log").read_text() for name in ("livekit", "api")}
        assert '"path":"/api/live/webhook","status":200' in logs["api"] and "webhook.refused" not in logs["api"]
        assert "failed to send webhook" not in logs["livekit"], logs["livekit"]
