"""The controller against a real Postgres and relays that only report."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from uuid import UUID, uuid4

import psutil
import pytest

from butai.config import RetrySettings
from tests.shows import KEY, Shows, shows, until


@pytest.fixture
def stage(database_url: str) -> Iterator[Shows]:
    with shows(database_url) as made:
        yield made


async def test_goes_live_on_two_and_ends_when_stopped(stage: Shows) -> None:
    async with stage.controller():
        begun = time.monotonic()
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        outputs = await stage.reach(broadcast_id, a="live", b="live")
        print(f"live after {time.monotonic() - begun:.2f} s")
        for row in outputs.values():
            assert row["confirmation"] == "transport"
            assert row["attempt"] == 1 and row["live_since"] == row["first_live_at"] is not None
            assert row["error_code"] is None
        broadcast = await stage.broadcast(broadcast_id)
        assert broadcast["source_phase"] == "live" and broadcast["engine_ref"]

        async def figures() -> bool:
            rows = await stage.do("SELECT * FROM output_metrics")
            return len(rows) == 2 and all(row["data"]["bitrate_kbps"] == 2400.0 for row in rows)

        await until(figures)
        await stage.stop(broadcast_id)
        ended = await stage.ended(broadcast_id)
        assert ended["end_code"] is None and ended["lease_holder"] is None
        await stage.reach(broadcast_id, a="ended", b="ended")
        await stage.stop(broadcast_id)
    heard = [line["what"] for line in stage.heard(broadcast_id)]
    assert heard.count("configure") == heard.count("stop") == 1
    assert sorted(stage.starts(broadcast_id)) == [("a", 1), ("b", 1)]
    events = await stage.events(broadcast_id)
    moves = [
        (e["event"], e["from_state"], e["to_state"]) for e in events if e["output_id"] == outputs["rtmp://a/app"]["id"]
    ]
    assert moves == [
        ("output.started", "pending", "starting"),
        ("output.accepted", "starting", "live"),
        ("output.stop_asked", "live", "stopping"),
        ("output.ended", "stopping", "ended"),
    ]
    # Whether the engine's own end is seen before the broadcast's is a matter of milliseconds.
    assert [e["event"] for e in events if e["output_id"] is None and e["event"] != "engine.ended"] == [
        "engine.started",
        "source.live",
        "broadcast.ended",
    ]


async def test_one_that_cannot_be_reached_is_tried_until_its_budget_is_spent_and_the_other_stays_live(
    stage: Shows,
) -> None:
    stage.script(b=[["failed", "destination_unreachable"]])
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        outputs = await stage.reach(broadcast_id, a="live", b="failed")
        row = outputs["rtmp://b/app"]
        assert (row["error_code"], row["error_cause"]) == ("retries_exhausted", "destination_unreachable")
        assert row["attempt"] == 4 and row["tries"] == 4 and row["next_attempt_at"] is None
        starts = [line for line in stage.heard(broadcast_id, "start") if line["url"] == "rtmp://b/app"]
        gaps = [after["at"] - before["at"] for before, after in itertools.pairwise(starts)]
        for gap, longest in zip(gaps, (0.2, 0.4, 0.8), strict=True):
            assert gap >= longest / 2 / stage.pace - 0.01, gaps
        events = [e for e in await stage.events(broadcast_id) if e["output_id"] == outputs["rtmp://a/app"]["id"]]
        assert [e["event"] for e in events] == ["output.started", "output.accepted"]

        # The platform is well again, and the host says: now.
        stage.script()
        await stage.retry(row["id"])
        outputs = await stage.reach(broadcast_id, a="live", b="live")
        row = outputs["rtmp://b/app"]
        assert row["attempt"] == 5 and row["error_code"] is None and row["retry_asked_at"] is None


async def test_a_refused_key_is_tried_once_more_and_then_given_up(stage: Shows) -> None:
    stage.script(b=[["failed", "key_rejected"]])
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        outputs = await stage.reach(broadcast_id, a="live", b="failed")
    assert outputs["rtmp://b/app"]["error_code"] == "key_rejected"
    starts = [line["at"] for line in stage.heard(broadcast_id, "start") if line["url"] == "rtmp://b/app"]
    assert len(starts) == 2 and starts[1] - starts[0] >= 3.0 / stage.pace


async def _saved(stage: Shows, broadcast_id: UUID, url: str) -> UUID:
    """A destination of the room's owner that an output was made from."""
    destination_id = uuid4()
    await stage.do(
        "INSERT INTO destinations (id, owner_user_id, platform, ingest_url, sealed_key, key_fingerprint) "
        "VALUES (%s, 'u1', 'custom', %s, %s, 'f')",
        destination_id,
        url,
        KEY.encode(),
    )
    await stage.do(
        "UPDATE outputs SET destination_id = %s WHERE broadcast_id = %s AND ingest_url = %s",
        destination_id,
        broadcast_id,
        url,
    )
    return destination_id


def _sent(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def test_a_retry_takes_the_key_that_was_saved_newest_and_says_so(stage: Shows) -> None:
    stage.script(b=[["failed", "key_rejected"]])
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        destination_id = await _saved(stage, broadcast_id, "rtmp://b/app")
        output_id = (await stage.reach(broadcast_id, a="live", b="failed"))["rtmp://b/app"]["id"]
        stage.script()
        await stage.do(
            "UPDATE destinations SET sealed_key = %s, key_fingerprint = 'g' WHERE id = %s",
            b"canary-newest-key-4b1c",
            destination_id,
        )
        await stage.retry(output_id)
        row = (await stage.reach(broadcast_id, b="live"))["rtmp://b/app"]
        assert (bytes(row["sealed_key"]), row["key_fingerprint"]) == (b"canary-newest-key-4b1c", "g")
        starts = [line for line in stage.heard(broadcast_id, "start") if line["url"] == "rtmp://b/app"]
        assert {line["key_sha256"] for line in starts[:-1]} == {_sent(KEY)}
        assert starts[-1]["key_sha256"] == _sent("canary-newest-key-4b1c")
        events = [one for one in await stage.events(broadcast_id) if one["output_id"] == output_id]
        told = [(one["event"], one["attempt"], one["detail"]) for one in events if "destination" in one["event"]]
        assert told == [("output.destination_changed", row["attempt"], {"changed": ["stream_key"]})]

        # An attempt that comes by itself takes a new address, and what is on air is left alone until then.
        await stage.do("UPDATE destinations SET ingest_url = 'rtmp://c/app' WHERE id = %s", destination_id)
        stage.tell_relay(broadcast_id, output=output_id, phase="failed", code="destination_closed")
        await stage.healed(broadcast_id, output_id, attempt=row["attempt"] + 1)
        assert stage.heard(broadcast_id, "start")[-1]["url"] == "rtmp://c/app"


async def test_while_outputs_wait_for_a_picture_their_servers_are_checked(stage: Shows) -> None:
    (stage.folder / "waiting").touch()
    broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
    await stage.do("UPDATE broadcasts SET hold_until_media = true WHERE id = %s", broadcast_id)
    destination_id = await _saved(stage, broadcast_id, "rtmp://b/app")
    rows = await stage.outputs(broadcast_id)
    output_id = rows["rtmp://b/app"]["id"]

    async def code(wanted: str | None) -> bool:
        found = (await stage.outputs(broadcast_id))["rtmp://b/app"]
        assert (found["state"], found["attempt"], found["tries"], found["error_code"]) == ("pending", 0, 0, None)
        return found["check_code"] == wanted

    def checked() -> list[set[str]]:
        return [set(line["servers"]) for line in stage.heard(broadcast_id, "check")]

    async def asked(*servers: str) -> bool:
        return bool(checked()) and checked()[-1] == set(servers)

    async with stage.controller():
        await until(lambda: asked("rtmp://a:1935/", "rtmp://b:1935/"))
        stage.tell_relay(broadcast_id, checked=output_id, code="destination_unreachable")
        await until(lambda: code("destination_unreachable"))
    # What the host saves meanwhile is checked by the time of the next look at the rows: here, of the next controller.
    await stage.do("UPDATE destinations SET ingest_url = 'rtmps://c/app' WHERE id = %s", destination_id)
    async with stage.controller("c2"):
        await until(lambda: asked("rtmp://a:1935/", "rtmps://c:443/"))
        stage.tell_relay(broadcast_id, checked=output_id, code="")
        await until(lambda: code(None))
        stage.tell_relay(broadcast_id, source="live")
        await stage.reach(broadcast_id, a="live")
        events = [
            (one["event"], one["code"]) for one in await stage.events(broadcast_id) if one["output_id"] == output_id
        ]
        assert events[:2] == [("output.checked", "destination_unreachable"), ("output.checked", None)]
        assert {(url, attempt) for url, attempt in stage.starts(broadcast_id)} == {("a", 1), ("c", 1)}


async def test_answers_of_a_platform_that_keeps_its_viewers_for_a_time_are_not_waited_for_as_long(
    database_url: str,
) -> None:
    kept = RetrySettings(base=0.2, window=90.0, window_tries=4)
    with shows(database_url, twitch_retry=kept) as stage:
        async with stage.controller():
            for platform, hurried in (("twitch", True), ("custom", False)):
                broadcast_id = await stage.begin("rtmp://a/app", platform=platform)
                await stage.reach(broadcast_id, a="live")
                assert [line["hurried"] for line in stage.heard(broadcast_id, "start")] == [hurried]


async def test_an_output_of_a_deleted_destination_keeps_what_it_had_and_says_so_once(stage: Shows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")
        destination_id = await _saved(stage, broadcast_id, "rtmp://a/app")
        output_id = (await stage.reach(broadcast_id, a="live"))["rtmp://a/app"]["id"]
        await stage.do(
            "UPDATE destinations SET deleted_at = now(), sealed_key = '', ingest_url = 'rtmp://c/app' WHERE id = %s",
            destination_id,
        )
        for attempt in (2, 3):
            stage.tell_relay(broadcast_id, output=output_id, phase="failed", code="destination_closed")
            await stage.healed(broadcast_id, output_id, attempt=attempt)
        for line in stage.heard(broadcast_id, "start"):
            assert (line["url"], line["key_sha256"]) == ("rtmp://a/app", _sent(KEY))
        events = [one["event"] for one in await stage.events(broadcast_id)]
        assert events.count("output.destination_deleted") == 1


async def test_a_drop_is_seen_and_healed_by_a_new_attempt(stage: Shows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        outputs = await stage.reach(broadcast_id, a="live", b="live")
        dropped = outputs["rtmp://b/app"]["id"]
        stage.tell_relay(broadcast_id, output=dropped, phase="failed", code="destination_closed")
        outputs = await stage.healed(broadcast_id, dropped, attempt=2)
        # It may be over before the test looks; the rows tell what happened.
        moves = [one for one in await stage.events(broadcast_id) if one["to_state"] == "reconnecting"]
        (seen,) = [one for one in moves if one["from_state"] == "live"]
        assert seen["output_id"] == dropped
        assert "destination_closed" in str(seen)
        assert outputs["rtmp://b/app"]["attempt"] == 2 and outputs["rtmp://a/app"]["attempt"] == 1


async def test_a_stall_shows_and_heals_within_its_attempt_and_doubled_reports_change_nothing(stage: Shows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")
        output_id = (await stage.reach(broadcast_id, a="live"))["rtmp://a/app"]["id"]
        stage.tell_relay(broadcast_id, output=output_id, phase="stalled", code="destination_stalled")
        row = (await stage.reach(broadcast_id, a="reconnecting"))["rtmp://a/app"]
        assert (row["error_code"], row["confirmation"], row["live_since"]) == ("destination_stalled", "none", None)
        stage.tell_relay(broadcast_id, output=output_id, phase="live")
        await stage.reach(broadcast_id, a="live")
        before = await stage.events(broadcast_id)
        stage.tell_relay(broadcast_id, repeat=True)
        # Of an attempt that never was, and of one that is over.
        stage.tell_relay(broadcast_id, output=output_id, phase="failed", code="destination_closed", attempt=0)
        await stage.stop(broadcast_id)
        await stage.ended(broadcast_id)
        after = (await stage.events(broadcast_id))[len(before) :]
        assert [e["event"] for e in after if e["output_id"]] == ["output.stop_asked", "output.ended"]
        assert stage.starts(broadcast_id) == [("a", 1)]


async def test_one_output_is_stopped_and_the_last_one_ends_the_broadcast(stage: Shows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        outputs = await stage.reach(broadcast_id, a="live", b="live")
        await stage.stop_output(outputs["rtmp://a/app"]["id"])
        await stage.reach(broadcast_id, a="ended", b="live")
        assert (await stage.broadcast(broadcast_id))["ended_at"] is None
        await stage.stop_output(outputs["rtmp://b/app"]["id"])
        await stage.ended(broadcast_id)
    audit = await stage.do("SELECT * FROM audit")
    assert [(row["actor"], row["action"], row["error_code"]) for row in audit] == [
        ("service:controller", "live.end", None)
    ]


async def test_the_source_ending_ends_the_broadcast_with_its_code(stage: Shows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        stage.tell_relay(broadcast_id, source="lost")
        stage.tell_relay(broadcast_id, source="ended", code="source_ended")
        ended = await stage.ended(broadcast_id)
        assert ended["end_code"] == "source_ended" and ended["wanted"] == "off_air"
        outputs = await stage.reach(broadcast_id, a="ended")
        assert outputs["rtmp://a/app"]["error_code"] == "source_ended"
    names = [e["event"] for e in await stage.events(broadcast_id)]
    assert names.index("source.ended") < names.index("broadcast.ending") < names.index("output.ended")
    audit = await stage.do("SELECT * FROM audit")
    assert [(row["actor"], row["error_code"], row["subject"]) for row in audit] == [
        ("service:controller", "source_ended", f"room:room-{broadcast_id}")
    ]


async def test_a_room_that_is_not_there_ends_the_broadcast_as_an_error(stage: Shows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        stage.tell_relay(broadcast_id, source="failed", code="room_not_found")
        ended = await stage.ended(broadcast_id)
        assert ended["end_code"] == "room_not_found"
        assert (await stage.outputs(broadcast_id))["rtmp://a/app"]["error_code"] == "room_not_found"


async def test_a_stop_that_the_relay_does_not_answer_is_over_by_killing_it(stage: Shows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        relay = psutil.Process(stage.pid(broadcast_id))
        stage.tell_relay(broadcast_id, deaf=True)
        asked = time.monotonic()
        await stage.stop(broadcast_id)
        await stage.reach(broadcast_id, a="stopping")
        await stage.ended(broadcast_id)
        assert time.monotonic() - asked > 8.0 / stage.pace
        row = (await stage.outputs(broadcast_id))["rtmp://a/app"]
        assert (row["state"], row["error_code"]) == ("ended", "stop_unconfirmed")
        # And it is swept: nothing pushes to the key any more.
        assert not relay.is_running() or relay.status() == psutil.STATUS_ZOMBIE


async def test_a_killed_relay_is_seen_and_replaced(stage: Shows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        await stage.reach(broadcast_id, a="live", b="live")
        pid = stage.pid(broadcast_id)
        os.kill(pid, signal.SIGKILL)
        outputs = await stage.reach(broadcast_id, a="reconnecting", b="reconnecting")
        assert {row["error_code"] for row in outputs.values()} == {"egress_crashed"}
        outputs = await stage.reach(broadcast_id, a="live", b="live")
        assert stage.pid(broadcast_id) != pid
        assert {row["attempt"] for row in outputs.values()} == {2}
        assert sorted(stage.starts(broadcast_id)) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


async def test_a_relay_that_cannot_start_costs_no_budget(stage: Shows) -> None:
    # What stands where the socket should be keeps every relay from listening.
    async with stage.controller():
        blocked = stage.folder / "blocked"
        blocked.mkdir()
        broadcast_id = await stage.begin()
        (stage.folder / f"{broadcast_id}.sock").mkdir()
        await stage.do(
            "INSERT INTO outputs (id, broadcast_id, platform, ingest_url, sealed_key, key_fingerprint, state) "
            "VALUES (gen_random_uuid(), %s, 'custom', 'rtmp://a/app', 'k', 'f', 'pending')",
            broadcast_id,
        )

        async def unavailable() -> bool:
            row = (await stage.outputs(broadcast_id))["rtmp://a/app"]
            return row["error_code"] == "egress_unavailable"

        await until(unavailable)
        row = (await stage.outputs(broadcast_id))["rtmp://a/app"]
        assert row["state"] == "starting" and row["tries"] == row["attempt"] == 0 and row["next_attempt_at"]
        (stage.folder / f"{broadcast_id}.sock").rmdir()
        await stage.retry(row["id"])
        row = (await stage.reach(broadcast_id, a="live"))["rtmp://a/app"]
        assert row["attempt"] == 1


async def test_no_key_and_no_secret_leaves_the_socket(stage: Shows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        relay = psutil.Process(stage.pid(broadcast_id))
        environment = relay.environ()
        assert not [name for name in environment if "DATABASE" in name or "SECRET" in name or "LIVEKIT" in name]
        assert KEY not in " ".join(relay.cmdline()) and KEY not in str(environment)
        assert os.getsid(relay.pid) == relay.pid != os.getsid(0)
        assert stage.folder.stat().st_mode & 0o777 == 0o700
        for path in stage.folder.iterdir():
            if path.is_file():
                assert KEY not in path.read_text()
        events = await stage.events(broadcast_id)
        assert KEY not in str(events)
