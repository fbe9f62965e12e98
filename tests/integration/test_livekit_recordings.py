"""Shows on a LiveKit that says again what a real one said: what our status says at each moment of it.

All recordings of one kind run side by side, each a LiveKit project of its own, three times as fast as they were made; once
with LiveKit's webhooks, once with none, once with late and disordered ones. Left out: `errors` and `room-absent`, whose
requests no broadcast makes, and `update-stream`, which adds one address twice (tests/unit/test_livekit_evidence.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from butai.config import LiveKitSettings, Settings
from butai.live.states import WIRE, OutputState
from tests.conftest import serving
from tests.fakes.livekit_egress import Replay
from tests.livekit_shows import SECRET, LiveKitShows
from tests.shows import shows, until

RECORDINGS = Path(__file__).parent.parent / "recordings"
SPEED = 3.0
WITHIN = 3.0
"""Seconds of LiveKit's in which the status must follow, beside half a second of ours for reading and writing rows.

The controller, the replays and the watching share one loop: what holds up its looks (a busy machine) holds up all, and is
allowed on top, as it was measured."""
OURS = 0.5
LOOK = 0.1
"""Seconds from one look to the next in which nothing is held up."""
NOTHING = LiveKitSettings(url="", api_key="", api_secret=SecretStr(""))
YT, TW = "rtmp://yt/app", "rtmp://tw/app"

Moment = tuple[float, str]


@dataclass
class Script:
    """`stop`: when it was stopped, in seconds of the recording. The rest: for each output, what the status must say from
    when on, up to its first failure: what follows is our own next attempt, which the recording knows nothing of."""

    youtube: list[Moment]
    twitch: list[Moment] | None = None
    stop: float | None = None
    missed: list[Moment] | None = None
    """Of the last output, when it was live for so short a time that no look fell into it: a second or so."""
    ends: str | None = None
    """The broadcast's end, when nobody stopped it."""
    source: list[str] = field(default_factory=list)
    """Phases of the host's media that must be seen, in this order."""


PARTICIPANT: dict[str, Script] = {
    "two-platforms-start-stop": Script(
        [(0, "starting"), (8.7, "live"), (13.4, "stopping"), (14.5, "ended")],
        [(0, "starting"), (8.7, "live"), (13.4, "stopping"), (14.5, "ended")],
        stop=13.4,
    ),
    "one-bad-key": Script(
        [(0, "starting"), (8.4, "live"), (13.4, "stopping"), (14.0, "ended")],
        [(0, "starting"), (4.6, "starting key_rejected")],
        stop=13.4,
    ),
    "one-refused": Script(
        [(0, "starting"), (8.2, "live"), (13.5, "stopping"), (14.4, "ended")],
        [(0, "starting"), (4.3, "starting destination_unreachable")],
        stop=13.5,
    ),
    "all-fail": Script(
        [(0, "starting"), (5.1, "starting key_rejected")], [(0, "starting"), (4.6, "starting destination_unreachable")]
    ),
    "dropped-midstream": Script(
        [(0, "starting"), (8.8, "live"), (20.2, "stopping"), (20.8, "ended")],
        [(0, "starting"), (8.8, "live"), (10.1, "interrupted destination_closed")],
        stop=20.2,
        missed=[(0, "starting")],
    ),
    "platform-gone-40s": Script(
        [(0, "starting"), (8.8, "live")],
        [(0, "starting"), (8.8, "live"), (9.2, "interrupted destination_closed")],
        missed=[(0, "starting"), (9.2, "starting destination_unreachable|interrupted destination_closed")],
    ),
    "platform-gone-5s": Script(
        [(0, "starting"), (9.8, "live")], [(0, "starting"), (9.7, "starting destination_unreachable")]
    ),
    "platform-stalled-60s": Script(
        [(0, "starting"), (10.7, "live")],
        [(0, "starting"), (10.7, "live"), (41.0, "interrupted destination_closed"), (51.0, "live")],
    ),
    "worker-killed": Script(
        [(0, "starting"), (8.6, "live"), (30.5, "interrupted egress_lost")],
        [(0, "starting"), (8.6, "live"), (30.5, "interrupted egress_lost")],
    ),
    "host-absent": Script([(0, "starting"), (30.4, "error no_media")], [(0, "starting"), (30.4, "error no_media")]),
    "host-leaves-and-returns": Script(
        [(0, "starting"), (9.2, "live")], [(0, "starting"), (9.2, "live")], source=["live"]
    ),
    "muted-then-room-deleted": Script(
        [(0, "starting"), (8.5, "live"), (17.1, "ended source_ended")],
        [(0, "starting"), (8.5, "live"), (17.1, "ended source_ended")],
        ends="source_ended",
    ),
    "participant-host-leaves-cleanly": Script(
        [(0, "starting"), (9.2, "live"), (10.7, "ended source_ended")],
        ends="source_ended",
        missed=[(0, "starting"), (10.7, "ended source_ended")],
    ),
}
MEDIA: dict[str, Script] = {
    "v2-media-one-egress-each": Script([(0, "starting"), (9.6, "live")], [(0, "starting"), (9.9, "live")]),
    "v2-media-host-leaves-10s": Script(
        [(0, "starting"), (9.1, "live"), (30.1, "stopping"), (30.7, "ended")], stop=30.1
    ),
    "v2-media-host-leaves-75s": Script(
        [(0, "starting"), (9.1, "live"), (31.0, "ended source_ended")], ends="source_ended"
    ),
    "v2-media-nobody-then-host": Script([(0, "starting"), (31.0, "error no_media")]),
}
"""With these, a host who has left shows by the room; recordings have no participants' list, so it is not asserted here."""

KINDS: dict[str, tuple[dict[str, Script], dict[str, Any]]] = {
    "participant": (PARTICIPANT, {"livekit_source": "participant", "livekit_shared": True}),
    "media": (MEDIA, {"livekit_source": "media"}),
}


@dataclass
class Played:
    """One recording's show, as it was seen."""

    name: str
    script: Script
    replay: Replay
    broadcast_id: UUID | None = None
    begun: float = 0.0
    changes: dict[str, list[Moment]] = field(default_factory=lambda: {YT: [], TW: []})
    sources: list[str] = field(default_factory=list)
    end_code: str | None = None
    ended: bool = False
    stopped: bool = False
    held_up: float = 0.0
    """Seconds of ours by which looks came late up to now, all together."""
    held_up_at: dict[str, list[float]] = field(default_factory=lambda: {YT: [], TW: []})
    """That, at each change."""

    @property
    def first_request(self) -> float:
        return self.replay.recording.requests[0].t

    @property
    def now(self) -> float:
        """In seconds of the recording."""
        return (time.monotonic() - self.begun) * SPEED + self.first_request

    @property
    def wanted(self) -> dict[str, list[Moment]]:
        script = self.script
        wanted = {YT: script.youtube, **({TW: script.twitch} if script.twitch is not None else {})}
        last = YT if script.twitch is None else TW
        second = [said for _, said in self.changes[last][1:2]]
        if script.missed is not None and second and second != ["live"]:
            wanted[last] = script.missed
        return wanted

    @property
    def stoppable(self) -> bool:
        """Whether all that must be seen before the stop was seen, or it is far too late."""
        stop = self.script.stop or 0.0
        before = {url: sum(at < stop for at, _ in moments) for url, moments in self.wanted.items()}
        return self.now > stop + 30 or all(len(self.changes[url]) >= number for url, number in before.items())

    @property
    def complete(self) -> bool:
        over = all(len(self.changes[url]) >= len(wanted) for url, wanted in self.wanted.items())
        return over and (self.ended or (self.script.stop is None and self.script.ends is None))


@pytest.mark.parametrize("webhooks", ["on", "lost", "late"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_status_follows_what_was_true(
    live_settings: Settings, tmp_path: Path, kind: str, webhooks: str
) -> None:
    scripts, settings = KINDS[kind]
    file = tmp_path / "projects.json"
    file.write_text("{}")
    live = live_settings.live.model_copy(update={"livekit_projects_file": file})
    async with contextlib.AsyncExitStack() as opened:
        api = await opened.enter_async_context(serving(replace(live_settings, livekit=NOTHING, live=live)))
        hook = [f"{api.url}/api/live/webhook"] if webhooks != "lost" else []
        played: list[Played] = []
        for name, script in scripts.items():
            replay = Replay(RECORDINGS / f"{name}.jsonl", key=f"key-{name}", secret=SECRET, webhooks=hook, speed=SPEED)
            if webhooks == "late":
                replay.webhook_policy(delay=5.0, reorder=True)
            played.append(Played(name, script, await opened.enter_async_context(replay)))
        file.write_text(
            json.dumps(
                {
                    one.name: {"url": one.replay.url, "keys": [{"api_key": f"key-{one.name}", "api_secret": SECRET}]}
                    for one in played
                }
            )
        )
        stage = opened.enter_context(
            shows(live_settings.database.url.get_secret_value(), LiveKitShows, livekit_projects_file=file, **settings)
        )
        assert isinstance(stage, LiveKitShows)
        stage.speed, stage.livekit = SPEED, NOTHING
        await opened.enter_async_context(stage.controller())
        await asyncio.gather(*(play(stage, one) for one in played))
        rows = await stage.do(
            "SELECT to_jsonb(o)::text AS row FROM outputs o UNION ALL SELECT to_jsonb(e)::text FROM live_events e "
            "UNION ALL SELECT to_jsonb(l)::text FROM livekit_egresses l"
        )
        heard = await stage.do("SELECT count(*) AS n FROM livekit_webhooks")
    assert (heard[0]["n"] > 0) == (webhooks != "lost")
    for row in rows:
        assert "..." not in row["row"] and "rtmp://127.0.0.1" not in row["row"], "pieces of an address of LiveKit's"
    for one in played:
        check(one)


async def play(stage: LiveKitShows, one: Played) -> None:
    urls = [YT] if one.script.twitch is None else [YT, TW]
    keys = {YT: "yt-key-0001", TW: "bad" if one.name == "one-bad-key" else "tw-key-0002"}
    one.broadcast_id = await stage.begin(*urls, keys=keys, project=one.name, grace=300)

    async def asked() -> bool:
        return bool(one.replay.starts or sum(one.replay.calls[name] for name in one.replay.calls if "Start" in name))

    await until(asked)
    # The look itself may be late.
    one.begun = one.replay.first_asked or time.monotonic()
    await asyncio.gather(watch(stage, one), stop(stage, one))


async def stop(stage: LiveKitShows, one: Played) -> None:
    if one.script.stop is None:
        return
    await asyncio.sleep(max((one.script.stop - one.first_request) / SPEED - (time.monotonic() - one.begun), 0))
    # Held up, the status may be behind, and the recording goes no further before it is asked to stop.
    while not one.stoppable:
        await asyncio.sleep(0.02)
    assert one.broadcast_id
    await stage.stop(one.broadcast_id)
    one.stopped = True


async def watch(stage: LiveKitShows, one: Played) -> None:
    """Until all that must be seen has been seen, or it is far too late."""
    last = max(moments[-1][0] for moments in one.wanted.values())
    async with await stage.connect() as connection:
        looked = time.monotonic()
        while not one.complete and one.now < last + 60:
            one.held_up += max(time.monotonic() - looked - LOOK, 0.0)
            looked = time.monotonic()
            cursor = await connection.execute(
                """SELECT o.ingest_url, o.state, o.error_code, b.source_phase, b.ended_at, b.end_code
                   FROM outputs o JOIN broadcasts b ON b.id = o.broadcast_id WHERE b.id = %s""",
                (one.broadcast_id,),
            )
            for row in await cursor.fetchall():
                said = f"{WIRE[OutputState(row['state'])]} {row['error_code'] or ''}".strip()
                changes = one.changes[row["ingest_url"]]
                # A broadcast that ends by itself passes through `stopping`, too quick to be seen each time.
                if (said != "stopping" or one.stopped) and (not changes or changes[-1][1] != said):
                    changes.append((one.now, said))
                    one.held_up_at[row["ingest_url"]].append(one.held_up)
                if not one.sources or one.sources[-1] != row["source_phase"]:
                    one.sources.append(row["source_phase"])
                one.ended, one.end_code = row["ended_at"] is not None, row["end_code"]
            await asyncio.sleep(0.02)


def check(one: Played) -> None:
    for url, wanted in one.wanted.items():
        seen = one.changes[url][: len(wanted)]
        told = f"{one.name} {url}: wanted {wanted}, seen {one.changes}, held up {one.held_up:.2f} s"
        assert len(seen) == len(wanted), told
        assert all(said in right.split("|") for (_, said), (_, right) in zip(seen, wanted, strict=True)), told
        for (at, said), (truth, _), held_up in list(zip(seen, wanted, one.held_up_at[url], strict=False))[1:]:
            found_out = 10.0 if "egress_lost" in said else WITHIN
            assert truth - 1 < at < truth + found_out + (OURS + held_up) * SPEED, told
    if one.script.ends is not None:
        assert one.end_code == one.script.ends, one
