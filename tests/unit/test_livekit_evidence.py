"""What we make of LiveKit's word, moment by moment, on all that a real one said (tests/recordings)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol.egress import EgressInfo, EgressStatus

from butai.live.egress.livekit.evidence import (
    RULES,
    Seen,
    due,
    from_json,
    heard,
    host_heard,
    judge,
    lost,
    present,
    redacted,
    shown,
)

RECORDINGS = Path(__file__).parent.parent / "recordings"
LOOK_EVERY = 0.25
YT, TW, BAD, NOBODY = ":1935/yt/{yt-...001}", ":1936/tw/{tw-...002}", ":1936/tw/{b...d}", ":1999/tw/{tw-...003}"

Change = tuple[float, str, str, str]

SAID: dict[str, list[Change]] = {
    "two-platforms-start-stop": [
        (5.0, YT, "publishing", ""),
        (5.0, TW, "publishing", ""),
        (8.75, YT, "live", ""),
        (8.75, TW, "live", ""),
        (14.5, YT, "ended", ""),
        (14.5, TW, "ended", ""),
    ],
    "one-bad-key": [
        (4.5, YT, "publishing", ""),
        # It looks started for a moment.
        (4.5, BAD, "publishing", ""),
        (4.75, BAD, "failed", "key_rejected"),
        (8.5, YT, "live", ""),
        (14.0, YT, "ended", ""),
    ],
    "one-refused": [
        (4.5, NOBODY, "failed", "destination_unreachable"),
        (4.5, YT, "publishing", ""),
        (8.25, YT, "live", ""),
        (14.5, YT, "ended", ""),
    ],
    "all-fail": [
        (4.75, NOBODY, "failed", "destination_unreachable"),
        (4.75, BAD, "publishing", ""),
        (5.25, BAD, "failed", "key_rejected"),
    ],
    "dropped-midstream": [
        (5.0, YT, "publishing", ""),
        (5.0, TW, "publishing", ""),
        (9.0, YT, "live", ""),
        (9.0, TW, "live", ""),
        (10.25, TW, "stalled", "destination_closed"),
        (20.25, TW, "live", ""),
        (21.0, YT, "ended", ""),
        (21.0, TW, "ended", ""),
    ],
    "platform-gone-40s": [
        (5.0, YT, "publishing", ""),
        (5.0, TW, "publishing", ""),
        (9.0, YT, "live", ""),
        (9.0, TW, "live", ""),
        (9.25, TW, "failed", "destination_closed"),
        (70.0, YT, "ended", ""),
    ],
    "platform-gone-5s": [
        (6.0, YT, "publishing", ""),
        (6.0, TW, "publishing", ""),
        # Before it had streamed for four seconds: never live for us.
        (9.75, TW, "failed", "destination_unreachable"),
        (10.0, YT, "live", ""),
        (30.25, YT, "ended", ""),
    ],
    "platform-stalled-60s": [
        (6.75, YT, "publishing", ""),
        (6.75, TW, "publishing", ""),
        (10.75, YT, "live", ""),
        (10.75, TW, "live", ""),
        # Stalled since second 11 or so. LiveKit's first sign comes 31 s later, and then none until the stop.
        (41.0, TW, "stalled", "destination_closed"),
        (51.0, TW, "live", ""),
        (85.0, TW, "stalled", "destination_closed"),
        (86.5, YT, "ended", ""),
        (86.5, TW, "ended", ""),
    ],
    "worker-killed": [
        (4.75, YT, "publishing", ""),
        (4.75, TW, "publishing", ""),
        # And so for ever: only a look at the room's participants tells.
        (8.75, YT, "live", ""),
        (8.75, TW, "live", ""),
    ],
    "host-absent": [(30.5, YT, "failed", "no_media"), (30.5, TW, "failed", "no_media")],
    "host-leaves-and-returns": [
        (5.5, YT, "publishing", ""),
        (5.5, TW, "publishing", ""),
        (9.25, YT, "live", ""),
        (9.25, TW, "live", ""),
    ],
    "muted-then-room-deleted": [
        (4.5, YT, "publishing", ""),
        (4.5, TW, "publishing", ""),
        (8.5, YT, "live", ""),
        (8.5, TW, "live", ""),
        (17.25, YT, "ended", "source_ended"),
        (17.25, TW, "ended", "source_ended"),
    ],
    "participant-host-leaves-cleanly": [
        (5.5, YT, "publishing", ""),
        (9.25, YT, "live", ""),
        (10.75, YT, "ended", "source_ended"),
    ],
    "update-stream": [
        (4.25, YT, "publishing", ""),
        (7.75, TW, "publishing", ""),
        (8.25, YT, "live", ""),
        (11.5, TW, "live", ""),
        # Added again beside itself, which we never do: the newest row of an address counts.
        (11.75, TW, "failed", "already_publishing"),
        (17.0, BAD, "failed", "key_rejected"),
        (27.0, YT, "ended", ""),
    ],
    "v2-media-one-egress-each": [
        (6.0, YT, "publishing", ""),
        (6.25, TW, "publishing", ""),
        (9.75, YT, "live", ""),
        (10.0, TW, "live", ""),
        (19.0, TW, "ended", ""),
    ],
    "v2-media-host-leaves-10s": [(5.25, YT, "publishing", ""), (9.25, YT, "live", ""), (30.75, YT, "ended", "")],
    "v2-media-host-leaves-75s": [
        (5.25, YT, "publishing", ""),
        (9.25, YT, "live", ""),
        (31.0, YT, "ended", "source_ended"),
    ],
    "v2-media-nobody-then-host": [(31.25, YT, "failed", "no_media")],
    # Refused requests only: there is no egress to speak of.
    "errors": [],
    "room-absent": [],
}


def test_every_recording_is_here() -> None:
    assert SAID.keys() == {path.stem for path in RECORDINGS.glob("*.jsonl")}


@pytest.mark.parametrize("name", SAID)
def test_what_is_shown_at_each_moment(name: str) -> None:
    changes: list[Change] = []
    seen: dict[tuple[str, str], Seen] = {}
    for t, now, info in looks(name):
        for url in sorted({stream.url for stream in info.stream_results}):
            key = info.egress_id, url
            before = seen.get(key, Seen())
            seen[key] = after = heard(before, info, [url], now)
            if (after.phase, after.code) != (before.phase, before.code):
                changes.append((t, url.removeprefix("rtmp://127.0.0.1"), after.phase, str(after.code)))
                assert after.at <= now + 0.001
            text = json.dumps(after.as_json())
            assert "rtmp://" not in text and not re.search(r"\{\w*-?\.\.\.", text), "pieces of a key"
            assert from_json(json.loads(text)) == after
    assert sorted(changes) == sorted(SAID[name])


def looks(name: str) -> Iterator[tuple[float, float, EgressInfo]]:
    """Each quarter of a second, the newest word about each egress: seconds of the recording, the clock, the word."""
    said = list(words(name))
    if not said:
        return
    latest: dict[str, EgressInfo] = {}
    for number in range(int((said[-1][0] + 15) / LOOK_EVERY)):
        t = number * LOOK_EVERY
        while said and said[0][0] <= t:
            info = said.pop(0)[1]
            latest[info.egress_id] = info
        for info in latest.values():
            yield t, begun(name) + t, info


def words(name: str) -> Iterator[tuple[float, EgressInfo]]:
    for line in (RECORDINGS / f"{name}.jsonl").open():
        row: dict[str, Any] = json.loads(line)
        if row["kind"] in ("poll", "response"):
            body = row.get("body") or {}
            for item in body.get("items", [body]):
                if "egressId" in item:
                    yield row["t"], ParseDict(item, EgressInfo(), ignore_unknown_fields=True)


def begun(name: str) -> float:
    """The recording's second 0 by LiveKit's clock."""
    return next(info.updated_at / 1e9 - t for t, info in words(name) if info.updated_at)


# What LiveKit does not say


def live(now: float = 1000.0, room: str = "r") -> Seen:
    info = EgressInfo(
        egress_id="EG_1", room_name=room, status=EgressStatus.EGRESS_ACTIVE, updated_at=int((now - 10) * 1e9)
    )
    info.stream_results.add(url="u", started_at=int((now - 10) * 1e9))
    seen = heard(heard(Seen(), info, ["u"], now - 9.9), info, ["u"], now)
    assert seen.phase == "live"
    return seen


def test_a_worker_is_dead_when_its_participant_is_missed_twice() -> None:
    once = present(live(), 1001, there=False)
    assert (once.phase, once.absent) == ("live", 1)
    assert present(once, 1002, there=True).absent == 0
    twice = present(once, 1002, there=False)
    assert (twice.phase, twice.code, twice.at) == ("failed", "egress_lost", 1002)
    assert present(twice, 1003, there=True) == twice
    assert present(Seen(), 1001, there=False) == Seen(), "nobody is missed before the stream has begun"
    page = live(room="")
    assert present(present(page, 1001, there=False), 1002, there=False) == page, "a page of its own is in no room"


def test_nothing_is_called_live_because_nobody_looked() -> None:
    info = EgressInfo(egress_id="EG_1", status=EgressStatus.EGRESS_ACTIVE, updated_at=int(1000e9))
    info.stream_results.add(url="u", started_at=int(1000e9))
    seen = heard(Seen(), info, ["u"], 1000.5)
    assert seen.phase == "publishing"
    assert due(seen) == 1000 + RULES.settles
    assert judge(seen, 1003.9).phase == "publishing"
    assert judge(seen, 1004).phase == "live"


def test_a_clock_far_from_ours_is_not_believed() -> None:
    info = EgressInfo(egress_id="EG_1", status=EgressStatus.EGRESS_ACTIVE, updated_at=int(1000e9))
    info.stream_results.add(url="u", started_at=int(1000e9))
    for now in (900.0, 1100.0):
        seen = heard(Seen(), info, ["u"], now)
        assert judge(seen, now + 3.9).phase == "publishing"
        assert judge(seen, now + 4).phase == "live"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (400, "invalid_destination"),
        (403, "egress_crashed"),
        (404, "no_media"),
        (408, "egress_lost"),
        (412, "egress_lost"),
        (413, "egress_lost"),
        (500, "egress_crashed"),
        (503, "egress_unavailable"),
        (0, "egress_crashed"),
    ],
)
def test_each_number_has_its_code(number: int, code: str) -> None:
    info = EgressInfo(
        egress_id="EG_1",
        status=EgressStatus.EGRESS_FAILED,
        error_code=number,
        error="rtmp://h/a/{abc...xyz} went wrong\nbadly",
    )
    seen = heard(Seen(), info, ["u"], 1000)
    assert (seen.phase, seen.code, seen.detail) == ("failed", code, "[address] went wrong badly")


@pytest.mark.parametrize(
    "address", ["rtmp://h/a/{abc...xyz}", "RTMPS://h/a/key", "http://x/key", "srt://h?streamid=key"]
)
def test_no_address_of_any_kind_is_kept(address: str) -> None:
    # LiveKit leaves pieces of the key in RTMP's addresses, and the whole of it in others.
    assert redacted(f"invalid url {address}: invalid scheme") == "invalid url [address] invalid scheme"


def test_aborted_and_at_its_limit_it_is_lost() -> None:
    for status in (EgressStatus.EGRESS_ABORTED, EgressStatus.EGRESS_LIMIT_REACHED):
        assert heard(Seen(), EgressInfo(status=status), ["u"], 1).code == "egress_lost"


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("rtmp://127.0.0.1:1936/tw/bad", "rtmp://127.0.0.1:1936/tw/{b...d}"),
        ("rtmp://h/app/tw-key-0002", "rtmp://h/app/{tw-...002}"),
        ("rtmps://b.example:443/live2?backup=1/abcd-efgh", "rtmps://b.example:443/live2?backup=1/{abc...fgh}"),
        ("rtmp://h/app/abcdef", "rtmp://h/app/{ab...ef}"),
        ("rtmp://h/app/ab", "rtmp://h/app/{...}"),
        ("http://h/x", "http://h/x"),
    ],
)
def test_an_address_is_shown_as_livekit_shows_it(url: str, wanted: str) -> None:
    assert shown(url) == wanted


INFOS = {
    name: [info for _, info in words(name)]
    for name in ("dropped-midstream", "one-bad-key", "platform-stalled-60s", "muted-then-room-deleted")
}


@given(st.data())
def test_late_doubled_and_reordered_words_bring_nothing_back(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(INFOS)))
    infos = data.draw(st.lists(st.sampled_from(range(len(INFOS[name]))), min_size=1, max_size=30))
    url = data.draw(st.sampled_from(sorted({stream.url for stream in INFOS[name][0].stream_results})))
    now, seen, newest = begun(name) + 200, Seen(), 0.0
    for number in infos:
        now += data.draw(st.floats(0, 5))
        before, seen = seen, heard(seen, INFOS[name][number], [url], now)
        newest = max(newest, seen.updated_at)
        assert seen.updated_at == newest
        assert seen.retries >= before.retries and seen.at >= before.at
        if before.over:
            assert (seen.phase, seen.code, seen.at) == (before.phase, before.code, before.at)
    assert host_heard(lost(seen, "x", now), now, live=False).over
