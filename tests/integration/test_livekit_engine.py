"""Broadcasts on LiveKit Egress, against a real Postgres and the stand-in, with no webhooks: polling alone is the truth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from livekit import api
from livekit.protocol.egress import EgressStatus

from butai.controller import Controller
from butai.errors import DatabaseUnavailable
from butai.live.egress.livekit.ledger import Ledger
from butai.live.egress.livekit.livekit import LiveKitEgress
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


async def test_a_refused_key_fails_alone(stage: LiveKitShows) -> None:
    stage.standin.platforms[B] = Refuse()
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        outputs = await stage.reach(broadcast_id, a="live", b="failed")
        assert outputs["rtmp://b/app"]["error_code"] == "key_rejected"
        assert outputs["rtmp://b/app"]["attempt"] == 2, "once more, then it is what it says"
        assert outputs["rtmp://a/app"]["attempt"] == 1
        assert stage.standin.running[A] and not stage.standin.running.get(B)


async def test_what_cannot_be_reached_is_tried_again_and_heals(stage: LiveKitShows) -> None:
    stage.standin.platforms[B] = [Unreachable(), Unreachable(), Accept()]
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        outputs = await stage.reach(broadcast_id, a="live", b="live")
        assert outputs["rtmp://b/app"]["attempt"] == 3
        planned = [e for e in await stage.events(broadcast_id) if e["event"] == "output.retry_planned"]
        assert [e["code"] for e in planned] == ["destination_unreachable"] * 2


async def test_a_drop_that_livekit_mends_is_an_interruption(stage: LiveKitShows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        await stage.reach(broadcast_id, a="live", b="live")
        begun = time.monotonic()
        assert stage.standin.drop(B) == 1
        await stage.reach(broadcast_id, b="reconnecting")
        outputs = await stage.reach(broadcast_id, a="live", b="live")
        assert (time.monotonic() - begun) * stage.speed > 9, "not before it was quiet for ten seconds"
        assert outputs["rtmp://b/app"]["attempt"] == 1, "the engine's own retry is none of ours"
    assert stage.standin.high_water[B] == 1


async def test_an_egress_that_fails_on_air_is_followed_by_another(stage: LiveKitShows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        await stage.reach(broadcast_id, a="live", b="live")
        assert stage.standin.fail(stage.standin.running[B][0], "the encoder broke", 500) == 1
        await stage.reach(broadcast_id, a="live", b="reconnecting")
        outputs = await stage.reach(broadcast_id, a="live", b="live")
        assert outputs["rtmp://b/app"]["attempt"] == 2
        planned = [e["code"] for e in await stage.events(broadcast_id) if e["event"] == "output.retry_planned"]
        assert planned == ["egress_crashed"]
        assert outputs["rtmp://a/app"]["attempt"] == 1


async def test_a_dead_worker_behind_an_active_record_is_found(stage: LiveKitShows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        await stage.reach(broadcast_id, a="live", b="live")
        egress_id = stage.standin.running[B][0]
        stage.standin.kill_worker(egress_id)
        assert not stage.standin.running.get(B)

        async def left() -> bool:
            return not stage.standin.rooms.has(f"room-{broadcast_id}", egress_id)

        await until(left)
        await stage.reach(broadcast_id, b="reconnecting")
        record = stage.standin.records.get(egress_id)
        assert record is not None and record.status == EgressStatus.EGRESS_ACTIVE, "it says ACTIVE all the while"
        outputs = await stage.reach(broadcast_id, a="live", b="live")
        assert outputs["rtmp://b/app"]["attempt"] == 2
        codes = [e["code"] for e in await stage.events(broadcast_id) if e["event"] == "output.retry_planned"]
        assert codes == ["egress_lost"]


async def test_a_record_that_is_missing_is_an_egress_that_is_lost(stage: LiveKitShows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        egress_id = stage.standin.running[A][0]
        stage.standin.kill_worker(egress_id)
        stage.standin.forget(egress_id)
        await stage.reach(broadcast_id, a="reconnecting")
        outputs = await stage.reach(broadcast_id, a="live")
        assert outputs["rtmp://a/app"]["attempt"] == 2


async def test_a_host_who_reloads_costs_nothing_and_one_who_stays_away_ends_it(stage: LiveKitShows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")
        room = f"room-{broadcast_id}"
        await stage.reach(broadcast_id, a="live")
        found = stage.standin.rooms.get(room)
        assert found is not None
        found.info.departure_timeout = 300

        async def source(phase: str) -> bool:
            return (await stage.broadcast(broadcast_id))["source_phase"] == phase

        stage.standin.host_leaves(room, "host")
        await until(lambda: source("lost"))
        assert (await stage.states(broadcast_id))["rtmp://a/app"] == "live"
        stage.standin.host_joins(room, "host")
        await until(lambda: source("live"))
        stage.standin.host_leaves(room, "host")
        away = time.monotonic()
        ended = await stage.ended(broadcast_id)
        assert (time.monotonic() - away) * stage.speed > 50, "not before the grace was over"
        assert ended["end_code"] == "source_ended"
    assert not any(stage.standin.running.values())


async def test_a_host_who_is_away_ends_nothing_while_livekit_does_not_answer(stage: LiveKitShows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", grace=20)
        room = f"room-{broadcast_id}"
        await stage.reach(broadcast_id, a="live")
        found = stage.standin.rooms.get(room)
        assert found is not None
        found.info.departure_timeout = 900
        stage.standin.host_leaves(room, "host")

        async def lost() -> bool:
            return (await stage.broadcast(broadcast_id))["source_phase"] == "lost"

        await until(lost)
        await stage.standin.down(True)
        # Longer than the grace, while no controller could see whether the host is back.
        await asyncio.sleep(40 / stage.speed)
        assert (await stage.broadcast(broadcast_id))["ended_at"] is None
        assert await stage.states(broadcast_id) == {"rtmp://a/app": "live"}
        await stage.standin.down(False)
        assert (await stage.ended(broadcast_id))["end_code"] == "source_ended"


async def test_a_room_that_closes_ends_the_broadcast(stage: LiveKitShows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        await stage.reach(broadcast_id, a="live", b="live")
        stage.standin.close_source(f"room-{broadcast_id}")
        ended = await stage.ended(broadcast_id)
        assert ended["end_code"] == "source_ended"
        assert [e["event"] for e in await stage.events(broadcast_id) if e["event"] == "output.retry_planned"] == []


async def test_without_a_worker_all_wait_together_and_lose_no_budget(stage: LiveKitShows) -> None:
    stage.standin.no_workers(True)
    async with stage.controller():
        first = await stage.begin("rtmp://a/app")

        async def unavailable() -> bool:
            rows = await stage.do("SELECT error_code, tries, next_attempt_at FROM outputs WHERE error_code IS NOT NULL")
            return bool(rows) and all(row["error_code"] == "egress_unavailable" and row["tries"] == 0 for row in rows)

        await until(unavailable)
        asked = stage.standin.calls["StartEgress"]
        others = [await stage.begin(f"rtmp://{name}/app") for name in "bcdef"]
        await until(lambda: _count(stage, "egress_unavailable", 6))
        assert stage.standin.calls["StartEgress"] - asked <= 3, "each asks for itself"
        stage.standin.no_workers(False)
        for broadcast_id, name in zip([first, *others], "abcdef", strict=True):
            await stage.reach(broadcast_id, **{name: "live"})
        assert await stage.do("SELECT 1 FROM outputs WHERE tries > 0") == []


async def _count(stage: LiveKitShows, code: str, wanted: int) -> bool:
    return len(await stage.do("SELECT 1 FROM outputs WHERE error_code = %s", code)) == wanted


@pytest.mark.parametrize("how", ["refuse", "hang", "error"])
async def test_an_api_that_is_down_ends_nobodys_show(stage: LiveKitShows, how: str) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        await stage.reach(broadcast_id, a="live", b="live")
        await stage.standin.down(True, how=how)

        async def failing() -> bool:
            rows = await stage.do("SELECT error_code FROM livekit_projects")
            return rows[0]["error_code"] == ("egress_unavailable" if how == "error" else "livekit_unreachable")

        await until(failing)
        before = len(await stage.events(broadcast_id))
        later = await stage.begin("rtmp://c/app")
        await until(lambda: _count(stage, "egress_unavailable", 1))
        await stage.standin.down(False)
        await stage.reach(later, c="live")
        assert await stage.states(broadcast_id) == {"rtmp://a/app": "live", "rtmp://b/app": "live"}
        assert len(await stage.events(broadcast_id)) == before
    assert stage.standin.high_water[A] == stage.standin.high_water[B] == 1


async def test_a_key_that_is_refused_ends_nobodys_show(stage: LiveKitShows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        secret = stage.standin.keys["devkey"]
        stage.standin.remove_key("devkey")

        async def unauthorized() -> bool:
            return (await stage.do("SELECT error_code FROM livekit_projects"))[0][
                "error_code"
            ] == "livekit_unauthorized"

        await until(unauthorized)
        later = await stage.begin("rtmp://c/app")
        await until(lambda: _count(stage, "egress_unavailable", 1))
        stage.standin.add_key("devkey", secret)
        await stage.reach(later, c="live")
        assert await stage.states(broadcast_id) == {"rtmp://a/app": "live"}
        assert (await stage.outputs(broadcast_id))["rtmp://a/app"]["attempt"] == 1


async def test_a_stop_that_nobody_answers_is_swept(stage: LiveKitShows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        stage.standin.stop_hangs(True)
        await stage.stop(broadcast_id)
        await stage.ended(broadcast_id)
        row = (await stage.outputs(broadcast_id))["rtmp://a/app"]
        assert (row["state"], row["error_code"]) == ("ended", "stop_unconfirmed")
        assert stage.standin.running[A], "it goes on"
        stage.standin.stop_hangs(False)

        async def ended() -> bool:
            return not stage.standin.running.get(A)

        await until(ended)


async def test_another_controller_takes_over_without_a_second_push(stage: LiveKitShows) -> None:
    async with stage.controller("c1"):
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        await stage.reach(broadcast_id, a="live", b="live")
    assert stage.standin.running[A] and stage.standin.running[B], "a clean stop cuts no show"
    async with stage.controller("c2"):

        async def taken() -> bool:
            return ((await stage.broadcast(broadcast_id))["lease_holder"] or "").startswith("c2")

        await until(taken)
        stage.standin.drop(B)
        await stage.reach(broadcast_id, a="live", b="reconnecting")
        await stage.reach(broadcast_id, a="live", b="live")
        assert all(row["attempt"] == 1 for row in (await stage.outputs(broadcast_id)).values())
        await stage.stop(broadcast_id)
        await stage.ended(broadcast_id)
    assert stage.standin.high_water[A] == stage.standin.high_water[B] == 1
    assert len(stage.standin.starts) == 2


async def test_somebody_elses_egress_in_the_room_is_left_alone(stage: LiveKitShows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        theirs = "rtmp://elsewhere/app/their-own-key"
        async with api.LiveKitAPI(stage.standin.url, "devkey", stage.standin.keys["devkey"]) as client:
            await client.egress.start_room_composite_egress(
                api.RoomCompositeEgressRequest(
                    room_name=f"room-{broadcast_id}",
                    stream_outputs=[api.StreamOutput(protocol=api.StreamProtocol.RTMP, urls=[theirs])],
                )
            )
        asked = stage.standin.calls["ListEgress"]

        async def looked() -> bool:
            return stage.standin.calls["ListEgress"] > asked + 4

        await until(looked)
        await stage.stop(broadcast_id)
        await stage.ended(broadcast_id)
        assert stage.standin.running[theirs]


@pytest.mark.parametrize("source", ["participant", "room_composite", "web"])
async def test_each_source_goes_live_and_stays_so(database_url: str, source: str) -> None:
    page = "https://studio.example/stage/{room_id}"
    async with livekit_shows(database_url, livekit_source=source, livekit_template_url=page) as stage:
        async with stage.controller():
            broadcast_id = await stage.begin("rtmp://a/app")
            await stage.reach(broadcast_id, a="live")
            asked = stage.standin.calls["ListParticipants"]

            async def looked() -> bool:
                return stage.standin.calls["ListParticipants"] > asked + 2

            await until(looked)
            outputs = await stage.outputs(broadcast_id)
            assert (outputs["rtmp://a/app"]["state"], outputs["rtmp://a/app"]["attempt"]) == ("live", 1)
            await stage.stop(broadcast_id)
            await stage.ended(broadcast_id)
        assert stage.standin.high_water[A] == 1


# One encode for all


@pytest.fixture
async def shared(database_url: str) -> AsyncIterator[LiveKitShows]:
    async with livekit_shows(database_url, livekit_shared=True) as made:
        yield made


async def test_shared_is_one_egress_whose_streams_have_states_of_their_own(shared: LiveKitShows) -> None:
    shared.standin.platforms[B] = Refuse()
    async with shared.controller():
        broadcast_id = await shared.begin("rtmp://a/app", "rtmp://b/app")
        outputs = await shared.reach(broadcast_id, a="live", b="failed")
        assert outputs["rtmp://b/app"]["error_code"] == "key_rejected"
        assert len(shared.standin.starts) == 1
        assert outputs["rtmp://a/app"]["attempt"] == 1
        # By hand, once the platform takes the key: the address is added again, and the newest row counts.
        shared.standin.platforms[B] = Accept()
        await shared.retry(outputs["rtmp://b/app"]["id"])
        await shared.reach(broadcast_id, a="live", b="live")
        assert len(shared.standin.starts) == 1
        await shared.stop_output(outputs["rtmp://a/app"]["id"])
        await shared.reach(broadcast_id, a="ended", b="live")
        assert not shared.standin.running.get(A) and shared.standin.running[B]
        await shared.stop(broadcast_id)
        await shared.ended(broadcast_id)
    assert not any(shared.standin.running.values())


async def test_shared_is_one_request_also_when_rows_are_written_slowly(
    shared: LiveKitShows, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, late = Ledger.ask, 0

    async def slowly(*given: Any, **more: Any) -> Any:
        nonlocal late
        late += 1
        await asyncio.sleep(0.3)
        return await ask(*given, **more)

    monkeypatch.setattr(Ledger, "ask", slowly)
    async with shared.controller():
        broadcast_id = await shared.begin("rtmp://a/app", "rtmp://b/app")
        await shared.reach(broadcast_id, a="live", b="live")
        assert late == 2
        assert [len(start.urls) for start in shared.standin.starts] == [2]
        assert shared.standin.calls["UpdateStream"] == 0


async def test_shared_begins_anew_when_its_last_stream_has_failed(shared: LiveKitShows) -> None:
    async with shared.controller():
        broadcast_id = await shared.begin("rtmp://a/app", "rtmp://b/app")
        await shared.reach(broadcast_id, a="live", b="live")
        shared.standin.platform_gone(A)
        shared.standin.platform_gone(B)
        await shared.reach(broadcast_id, a="reconnecting", b="reconnecting")
        shared.standin.heal(A)
        shared.standin.heal(B)
        await shared.reach(broadcast_id, a="live", b="live")
        await shared.stop(broadcast_id)
        await shared.ended(broadcast_id)
    assert max(shared.standin.high_water.values()) == 1
    assert not any(shared.standin.running.values())


# Crashes


async def test_a_crash_before_the_request_costs_a_wait_and_no_second_egress(stage: LiveKitShows) -> None:
    """Between the commit and StartEgress."""
    async with stage.engines("c1") as (controller, egress):
        asked = asyncio.Event()

        async def never(*_: object) -> None:
            asked.set()
            await asyncio.Event().wait()

        egress.means.gateway("default").start = never  # pyright: ignore[reportAttributeAccessIssue]
        broadcast_id = await stage.begin("rtmp://a/app")
        await asked.wait()
        await crash(stage, controller, egress)
        assert stage.standin.starts == []
        async with stage.controller("c2"):
            await stage.reach(broadcast_id, a="live")
    assert stage.standin.high_water[A] == 1
    assert len(stage.standin.starts) == 1


async def test_a_crash_after_the_request_adopts_what_was_started(stage: LiveKitShows) -> None:
    """Between StartEgress and the storing of its id."""
    async with stage.engines("c1") as (controller, egress):
        answered = asyncio.Event()
        start = egress.means.gateway("default").start

        async def unheard(request: Any) -> None:
            await start(request)
            answered.set()
            await asyncio.Event().wait()

        egress.means.gateway("default").start = unheard  # pyright: ignore[reportAttributeAccessIssue]
        broadcast_id = await stage.begin("rtmp://a/app")
        # The poller of the same process would adopt it at once.
        await answered.wait()
        await crash(stage, controller, egress)
        assert len(stage.standin.starts) == 1
        async with stage.controller("c2"):
            outputs = await stage.reach(broadcast_id, a="live")
            assert outputs["rtmp://a/app"]["attempt"] == 1
    assert stage.standin.high_water[A] == 1
    assert len(stage.standin.starts) == 1


async def test_a_crash_in_mid_stop_is_ended_by_the_next(stage: LiveKitShows) -> None:
    async with stage.engines("c1") as (controller, egress):
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        await stage.reach(broadcast_id, a="live", b="live")
        asked = asyncio.Event()

        async def never(*_: object) -> None:
            asked.set()
            await asyncio.Event().wait()

        egress.means.gateway("default").stop = never  # pyright: ignore[reportAttributeAccessIssue]
        await stage.stop(broadcast_id)
        await asked.wait()
        await crash(stage, controller, egress)
        assert stage.standin.running[A] and stage.standin.running[B]
        async with stage.controller("c2"):
            await stage.ended(broadcast_id)

            async def off() -> bool:
                return not stage.standin.running.get(A) and not stage.standin.running.get(B)

            await until(off)


async def test_what_an_ended_broadcast_left_is_ended(stage: LiveKitShows) -> None:
    async with stage.engines("c1") as (controller, egress):
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        await crash(stage, controller, egress)
        # Its end is written, and no controller was left to tell LiveKit.
        await stage.do("UPDATE broadcasts SET wanted = 'off_air', ended_at = now() WHERE id = %s", broadcast_id)
        assert stage.standin.running[A]
        async with stage.controller("c2", egress="livekit"):

            async def off() -> bool:
                return not stage.standin.running.get(A)

            await until(off)


async def test_a_start_that_times_out_leaves_no_orphan(stage: LiveKitShows) -> None:
    stage.standin.slow_start(70)
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")

        async def in_doubt() -> bool:
            return bool(stage.standin.starts)

        await until(in_doubt)
        stage.standin.slow_start(0)
        await stage.reach(broadcast_id, a="live")
        assert stage.standin.high_water[A] == 1

        async def one() -> bool:
            return len(stage.standin.running[A]) == 1

        await until(one)


async def test_two_controllers_that_race_ask_once(stage: LiveKitShows) -> None:
    async with stage.engines("c1") as (_, first), stage.engines("c2") as (_, second):
        broadcasts = [await stage.begin(f"rtmp://{name}/app") for name in "abcdefgh"]
        # Both believe that they hold them: the older epoch is fenced off.
        for broadcast_id in broadcasts:
            await stage.do("UPDATE broadcasts SET lease_until = now() - interval '1 s' WHERE id = %s", broadcast_id)
        for broadcast_id, name in zip(broadcasts, "abcdefgh", strict=True):
            await stage.reach(broadcast_id, **{name: "live"})
        assert first is not second
    assert len(stage.standin.starts) == 8
    assert max(stage.standin.high_water.values()) == 1


async def crash(stage: LiveKitShows, controller: Controller, egress: LiveKitEgress) -> None:
    """The process is gone, as far as rows and LiveKit can tell: nothing is finished, nothing is given back."""
    for task in [*egress._loops, *egress.means._tasks, *(task for _, task in egress._pollers.values())]:
        task.cancel()
    for reconciler, task in controller._held.values():
        reconciler.lose_lease()
        task.cancel()
    controller._renew = _nothing
    controller._leases.acquire = _none  # pyright: ignore[reportAttributeAccessIssue]
    controller._admission.admit = _none  # pyright: ignore[reportAttributeAccessIssue]
    await stage.do("UPDATE broadcasts SET lease_until = now() - interval '1 s' WHERE ended_at IS NULL")
    await stage.do("UPDATE livekit_projects SET lease_until = now() - interval '1 s'")


async def _nothing() -> None:
    await asyncio.Event().wait()


async def _none(_held: object) -> list[object]:
    return []


async def test_a_stop_outlives_a_database_that_is_away(stage: LiveKitShows, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage.engines() as (_, egress):
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        ledger, asked = egress.means.ledger, 0
        ask_stop = ledger.ask_stop

        async def away_once(*of: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked == 1:
                raise DatabaseUnavailable
            return await ask_stop(*of)

        monkeypatch.setattr(ledger, "ask_stop", away_once)
        await stage.stop(broadcast_id)
        assert (await stage.ended(broadcast_id))["end_code"] is None
        assert not stage.standin.running
