"""Controllers that die, stall, race and lose Postgres: a broadcast is held once, and its relay is not disturbed."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import psutil
import pytest

from butai import database as database_module
from butai.embedded.postgres import EmbeddedPostgres
from butai.live.egress.relay.egress import RelayEgress
from butai.live.egress.relay.process import FolderRefused, prepare_folder
from butai.live.reconcile.capacity import Capacity
from butai.live.reconcile.leases import Heartbeat, Leases
from butai.live.reconcile.port import EngineFenced
from tests.fakes.controller_process import RELAY
from tests.shows import PROJECTS, Shows, shows, until


@pytest.fixture
def stage(database_url: str) -> Iterator[Shows]:
    with shows(database_url) as made:
        yield made


async def holder(stage: Shows, broadcast_id: UUID) -> tuple[str | None, int]:
    row = await stage.broadcast(broadcast_id)
    return row["lease_holder"], row["lease_epoch"]


async def test_a_killed_controllers_broadcast_is_taken_over_and_its_relay_adopted(
    stage: Shows,
) -> None:
    with stage.controller_process() as first:
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        await stage.reach(broadcast_id, a="live", b="live")
        before, epoch = await holder(stage, broadcast_id)
        assert before and f":{first.pid}:" in before
        with stage.controller_process() as second:

            async def both_live() -> bool:
                return len(await stage.do("SELECT 1 FROM controllers")) == 2

            await until(both_live)
            first.send_signal(signal.SIGKILL)
            first.wait()
            killed = time.monotonic()

            async def adopted() -> bool:
                hellos = stage.heard(broadcast_id, "hello")
                return hellos[-1]["epoch"] == epoch + 1

            await until(adopted)
            print(f"taken over after {time.monotonic() - killed:.2f} s")
            after, _ = await holder(stage, broadcast_id)
            assert after and f":{second.pid}:" in after
            # What happens now is seen by the second one.
            output_id = (await stage.outputs(broadcast_id))["rtmp://b/app"]["id"]
            stage.tell_relay(broadcast_id, output=output_id, phase="failed", code="destination_closed")
            await stage.healed(broadcast_id, output_id, attempt=2)
            assert len({line["pid"] for line in stage.heard(broadcast_id)}) == 1
            assert sorted(stage.starts(broadcast_id)) == [("a", 1), ("b", 1), ("b", 2)]
            await stage.stop(broadcast_id)
            await stage.ended(broadcast_id)


async def test_a_controller_killed_in_the_middle_of_a_start_leaves_one_relay(stage: Shows) -> None:
    with stage.controller_process() as first:
        broadcast_id = await stage.begin("rtmp://a/app")

        async def spawned() -> bool:
            return (stage.folder / f"{broadcast_id}.log").exists()

        await until(spawned)
        first.send_signal(signal.SIGKILL)
        first.wait()
    async with stage.controller("c2"):
        await stage.reach(broadcast_id, a="live")
        assert len({line["pid"] for line in stage.heard(broadcast_id)}) == 1
        assert stage.starts(broadcast_id) == [("a", 1)]


async def test_leases_that_a_clock_set_back_has_left_for_hours_are_taken(stage: Shows) -> None:
    begins = await stage.begin("rtmp://a/app")
    ends = await stage.begin("rtmp://a/app")
    await stage.do("UPDATE outputs SET wanted = 'off' WHERE broadcast_id = %s", ends)
    await stage.do("UPDATE broadcasts SET wanted = 'off_air' WHERE id = %s", ends)
    await stage.do(
        "UPDATE broadcasts SET lease_holder = 'dead', lease_until = now() + interval '2 hours', lease_epoch = 3"
    )
    async with stage.controller():
        await stage.reach(begins, a="live")
        await stage.ended(ends)
    assert (await holder(stage, begins))[1] == 4


async def test_a_lease_of_a_controller_with_a_longer_one_stays_with_it(stage: Shows) -> None:
    long = await stage.begin("rtmp://a/app")
    await stage.do(
        "UPDATE broadcasts SET lease_holder = 'slow', lease_until = now() + interval '2 hours', lease_epoch = 3"
    )
    await stage.do("INSERT INTO controllers (id, host) VALUES ('slow', 'elsewhere')")
    other = await stage.begin("rtmp://b/app")
    async with stage.controller():
        await stage.reach(other, b="live")
        assert await holder(stage, long) == ("slow", 3)
        # Of one from before the clock was set back, nothing is known.
        await stage.do("UPDATE controllers SET seen_at = now() + interval '1 hour' WHERE id = 'slow'")
        await stage.reach(long, a="live")


@pytest.mark.parametrize("by", [7200.0, -7200.0], ids=["forwards", "back"])
async def test_a_postgres_whose_clock_is_set_ends_and_delays_nothing(
    stage: Shows, by: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a controller sees it: what it asks Postgres for, and what others write."""
    set_by, asked, beat = 0.0, Leases.database_time, Leases.heartbeat

    async def database_time(leases: Leases) -> float:
        return await asked(leases) + set_by

    async def heartbeat(leases: Leases, broadcasts: int, capacity: Capacity) -> Heartbeat:
        told = await beat(leases, broadcasts, capacity)
        return replace(told, database_time=told.database_time + set_by)

    monkeypatch.setattr(Leases, "database_time", database_time)
    monkeypatch.setattr(Leases, "heartbeat", heartbeat)
    async with stage.controller() as controller:
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")
        outputs = await stage.reach(broadcast_id, a="live", b="live")
        set_by = by

        async def seen() -> bool:
            return abs(controller._rows.now() - time.time() - by) < 60

        await until(seen)
        dropped = outputs["rtmp://b/app"]["id"]
        stage.tell_relay(broadcast_id, output=dropped, phase="failed", code="destination_closed")
        await stage.healed(broadcast_id, dropped, attempt=2)
        later = await stage.begin("rtmp://c/app")
        await stage.reach(later, c="live")
        assert (await stage.outputs(broadcast_id))["rtmp://a/app"]["attempt"] == 1
        assert sorted(stage.starts(broadcast_id)) == [("a", 1), ("b", 1), ("b", 2)]
        await stage.stop(broadcast_id)
        assert (await stage.ended(broadcast_id))["end_code"] is None


async def test_a_clean_stop_hands_over_and_cuts_no_show(database_url: str) -> None:
    # No lease runs out here: whoever has the broadcast next was given it.
    with shows(database_url, lease=60.0) as stage, stage.controller_process(BUTAI_LEASE="60") as first:
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        async with stage.controller("c2") as second:

            async def listens() -> bool:
                return len(await stage.do("SELECT 1 FROM controllers")) == 2

            await until(listens)
            name, epoch = await holder(stage, broadcast_id)
            assert name and f":{first.pid}:" in name
            first.send_signal(signal.SIGTERM)
            assert first.wait(10) == 0

            async def taken() -> bool:
                return broadcast_id in second.held

            await until(taken)
            assert (await holder(stage, broadcast_id))[1] == epoch + 1
            await stage.reach(broadcast_id, a="live")
            assert stage.starts(broadcast_id) == [("a", 1)]
            assert await stage.do("SELECT id FROM controllers") == [{"id": "c2"}]


async def test_a_relay_that_died_with_its_controller_gets_a_new_attempt(stage: Shows) -> None:
    with stage.controller_process() as first:
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        first.send_signal(signal.SIGKILL)
        first.wait()
        os.kill(stage.pid(broadcast_id), signal.SIGKILL)
    async with stage.controller("c2"):
        row = (await stage.reach(broadcast_id, a="reconnecting"))["rtmp://a/app"]
        assert row["error_code"] == "egress_lost"
        await stage.reach(broadcast_id, a="live")
        assert stage.starts(broadcast_id) == [("a", 1), ("a", 2)]


async def test_two_controllers_racing_hold_each_broadcast_once(stage: Shows) -> None:
    # Eight relays start at once: a lease divided by four may run out meanwhile, and is then rightly taken over.
    stage.pace = 1.0
    async with stage.controller("c1") as first, stage.controller("c2") as second:
        ids = [await stage.begin(f"rtmp://{name}/app") for name in "abcdefgh"]
        for broadcast_id, name in zip(ids, "abcdefgh", strict=True):
            await stage.reach(broadcast_id, **{name: "live"})
        assert first.held | second.held == set(ids) and not first.held & second.held
        for broadcast_id, name in zip(ids, "abcdefgh", strict=True):
            assert (await holder(stage, broadcast_id))[1] == 1
            assert stage.starts(broadcast_id) == [(name, 1)]
            assert len(stage.heard(broadcast_id, "hello")) == 1


async def test_a_controller_that_was_away_is_refused_by_rows_and_relay(stage: Shows) -> None:
    with stage.controller_process() as first:
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        first.send_signal(signal.SIGSTOP)
        async with stage.controller("c2") as second:

            async def taken() -> bool:
                return broadcast_id in second.held and len(stage.heard(broadcast_id, "hello")) == 2

            await until(taken)
            first.send_signal(signal.SIGCONT)

            async def released() -> bool:
                return "broadcast.released" in (stage.folder / "controllers.txt").read_text()

            await until(released)
            before = await stage.events(broadcast_id)
            await stage.stop(broadcast_id)
            await stage.ended(broadcast_id)
            events = [e["event"] for e in (await stage.events(broadcast_id))[len(before) :] if e["output_id"]]
            assert events == ["output.stop_asked", "output.ended"]
            assert stage.starts(broadcast_id) == [("a", 1)]
        assert first.poll() is None


async def test_the_relay_refuses_an_older_epoch(stage: Shows) -> None:
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        other = RelayEgress(stage.folder, PROJECTS, bytes.decode, controller="old", command=RELAY)
        with pytest.raises(EngineFenced):
            await other.find(broadcast_id, 0)
        await other.close()
        assert stage.heard(broadcast_id, "refused")


async def test_a_relay_that_hangs_is_ended_before_another_one_starts(stage: Shows) -> None:
    with stage.controller_process() as first:
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        first.send_signal(signal.SIGKILL)
        first.wait()
    relay = psutil.Process(stage.pid(broadcast_id))
    relay.suspend()
    async with stage.controller("c2"):
        await stage.reach(broadcast_id, a="reconnecting")
        assert not relay.is_running() or relay.status() == psutil.STATUS_ZOMBIE
        await stage.reach(broadcast_id, a="live")
        assert stage.starts(broadcast_id) == [("a", 1), ("a", 2)]


async def test_a_relay_on_another_host_is_outwaited(stage: Shows) -> None:
    broadcast_id = await stage.begin("rtmp://a/app")
    await stage.do(
        "UPDATE broadcasts SET engine_host = 'elsewhere', engine_ref = 'r1', engine_seen_at = now() - %s * interval '1 s' "
        "WHERE id = %s",
        37 / stage.pace,
        broadcast_id,
    )
    await stage.do(
        "UPDATE outputs SET state = 'live', attempt = 1, attempt_started_at = now() - interval '1 h', "
        "live_since = now() - interval '1 h', last_live_at = now() - interval '1 h' WHERE broadcast_id = %s",
        broadcast_id,
    )
    async with stage.controller() as controller:

        async def held() -> bool:
            return broadcast_id in controller.held

        await until(held)
        await stage.reach(broadcast_id, a="reconnecting")
        await stage.reach(broadcast_id, a="live")
    [start] = stage.heard(broadcast_id, "start")
    [event] = [e for e in await stage.events(broadcast_id) if e["event"] == "engine.started"]
    lost = next(e for e in await stage.events(broadcast_id) if e["event"] == "engine.lost")
    assert start["attempt"] == 2
    assert event["at"].timestamp() - lost["at"].timestamp() >= 2.0 / stage.pace


async def test_relays_get_the_lifeline_and_end_with_it(stage: Shows, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setenv("BUTAI_LIFELINE_FD", str(theirs.fileno()))
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.reach(broadcast_id, a="live")
        relay = psutil.Process(stage.pid(broadcast_id))
        assert relay.cmdline()[-2:] == ["--parent-pipe-fd", str(theirs.fileno())]
    theirs.close()
    assert relay.is_running()
    ours.close()

    async def ended() -> bool:
        return not relay.is_running() or relay.status() == psutil.STATUS_ZOMBIE

    await until(ended)


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderRefused):
        prepare_folder(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(FolderRefused):
        prepare_folder(tmp_path / "link")
    made = prepare_folder(tmp_path / "new")
    assert made.stat().st_mode & 0o777 == 0o700
    if os.geteuid() == 0:
        os.chown(made, 12345, -1)
        with pytest.raises(FolderRefused):
            prepare_folder(made)


async def test_postgres_away_for_twenty_seconds_disturbs_no_relay_and_loses_no_report(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("away"))
    url = server.start()
    try:
        database_module.migrate(server.owner_url, service_url=url)
        with shows(url) as stage:
            async with stage.controller():
                quiet = await stage.begin("rtmp://a/app", "rtmp://b/app")
                crashing = await stage.begin("rtmp://c/app")
                outputs = await stage.reach(quiet, a="live", b="live")
                await stage.reach(crashing, c="live")
                server.stop(fast=True)
                away = time.time()
                with pytest.raises(Exception, match="refused"):
                    await stage.do("SELECT 1")
                b = outputs["rtmp://b/app"]["id"]
                stage.tell_relay(quiet, output=b, phase="stalled", code="destination_stalled")
                stage.tell_relay(quiet, output=b, phase="failed", code="destination_stalled")
                os.kill(stage.pid(crashing), signal.SIGKILL)

                async def fed() -> bool:
                    pings = [line for line in stage.heard(quiet, "ping") if line["at"] > away]
                    return len(pings) >= 3 and time.time() - away >= 20.0 / stage.pace

                await until(fed, 30)
                assert len(stage.heard(quiet, "hello")) == 1
                server.start()
                back = time.monotonic()
                assert server.url == url

                async def healed() -> bool:
                    found = (await stage.outputs(quiet)) | (await stage.outputs(crashing))
                    return [(row["state"], row["attempt"]) for _, row in sorted(found.items())] == [
                        ("live", 1),
                        ("live", 2),
                        ("live", 2),
                    ]

                await until(healed)
                print(f"true again {time.monotonic() - back:.2f} s after Postgres was back")
                assert sorted(stage.starts(quiet)) == [("a", 1), ("b", 1), ("b", 2)]
                assert stage.starts(crashing) == [("c", 1), ("c", 2)]
                events = await stage.events(quiet)
                of_b = [(e["event"], e["code"]) for e in events if e["output_id"] == b]
                assert of_b == [
                    ("output.started", None),
                    ("output.accepted", None),
                    ("output.interrupted", "destination_stalled"),
                    ("output.retry_planned", "destination_stalled"),
                    ("output.started", None),
                    ("output.accepted", None),
                ]
                stalled = next(e for e in events if e["event"] == "output.interrupted")
                assert abs(stalled["at"].timestamp() - away) < 2.0
    finally:
        server.stop(fast=True)
