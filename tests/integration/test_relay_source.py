"""The relay's side of the room, with a real livekit-server and a host in a process of its own."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from livekit import api

from butai.embedded.livekit import EmbeddedLiveKit, LiveKit
from butai.relay import source
from butai.relay.timing import RelayTiming
from tests.relay_stage import until
from tests.watched_source import rooms, token, watching


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedLiveKit]:
    with EmbeddedLiveKit(tmp_path_factory.mktemp("livekit")) as server:
        yield server


async def test_picture_and_sound_arrive(server: EmbeddedLiveKit, request: pytest.FixtureRequest) -> None:
    async with watching(server, request) as watched:
        await watched.phase("waiting")
        assert (watched.picture() == 16).all()
        host = await watched.live("--audio-tracks=2")
        await until(lambda: len(watched.mixer.levels) == 2)
        await until(lambda: watched.loudness() > 0.05)
        before = watched.source.pictures
        await asyncio.sleep(2)
        assert 25 <= (watched.source.pictures - before) / 2 <= 35
        await host.stop()
        await watched.phase("lost", 3)
        assert watched.mixer.levels == {}


async def test_others_in_the_room_are_neither_seen_nor_heard(
    server: EmbeddedLiveKit, request: pytest.FixtureRequest
) -> None:
    async with watching(server, request) as watched:
        await watched.phase("waiting")
        await watched.host(identity="guest")
        await asyncio.sleep(1.5)
        assert watched.source.line.phase == "waiting"
        assert watched.mixer.levels == {} and watched.source.pictures == 0


@pytest.mark.parametrize("codec", ["h264", "vp9"])
async def test_resize_and_another_codec(server: EmbeddedLiveKit, request: pytest.FixtureRequest, codec: str) -> None:
    async with watching(server, request) as watched:
        host = await watched.live()
        await host.command("resize 480 270")
        await watched.moves()
        await host.command(f"republish {codec}")
        await watched.moves()
        await host.command("resize 360 640")
        # Upright: bars on both sides.
        await until(lambda: bool((watched.picture()[:, :100] == 16).all()))
        assert "lost" not in [line.phase for line in watched.said]


async def test_simulcast_gives_its_best_layer(server: EmbeddedLiveKit, request: pytest.FixtureRequest) -> None:
    async with watching(server, request) as watched:
        await watched.host("--simulcast", "--width=1280", "--height=720", "--kbps=2000")
        await watched.phase("live")
        sizes: set[tuple[int, int]] = set()

        def best() -> bool:
            sizes.update(waiting[:2] for waiting in list(watched.screen._waiting))
            return (1280, 720) in sizes

        await until(best, 20)


async def test_muted_keeps_the_last_picture_and_is_silent(
    server: EmbeddedLiveKit, request: pytest.FixtureRequest
) -> None:
    async with watching(server, request, grace=3.0) as watched:
        host = await watched.live()
        await host.command("mute all")
        await watched.phase("lost", 5)
        stamp = watched.last_stamp()
        assert abs(stamp - (int(time.time() * 1000) & 0xFFFFFFFF)) < 5000, "the last picture is gone"
        # The second that was buffered before is played, as it would have been by now.
        for _ in range(10):
            watched.mixer.take(watched.mixer.rate // 10)
        assert watched.loudness() < 0.01
        # Muted is not away: the grace does not run.
        await asyncio.sleep(4)
        assert watched.source.line.phase == "lost" and watched.stamp() == stamp
        await host.command("unmute all")
        await watched.phase("live", 3)
        await watched.moves()


async def test_encrypted_media_are_told_and_never_decoded(
    server: EmbeddedLiveKit, request: pytest.FixtureRequest
) -> None:
    async with watching(server, request) as watched:
        await watched.host("--encrypted")
        await until(lambda: watched.source.line.code == "media_encrypted")
        await asyncio.sleep(1.5)
        assert {line.phase for line in watched.said} <= {"connecting", "waiting"}
        assert watched.mixer.levels == {} and watched.source.pictures == 0
        assert (watched.picture() == 16).all()
        # The host publishes again, as everyone can see it.
        await watched.host()
        line = await watched.phase("live")
        assert line.code == ""
        await watched.moves()


async def test_a_sound_that_was_not_chosen_is_not_heard(
    server: EmbeddedLiveKit, request: pytest.FixtureRequest
) -> None:
    async with watching(server, request, video_source="camera") as watched:
        await watched.host("--audio-tracks=2")
        await watched.phase("live")
        await until(lambda: bool(watched.mixer.levels))
        await asyncio.sleep(1)
        assert len(watched.mixer.levels) == 1


async def test_a_picture_that_stands_still_is_live_while_sound_comes(
    server: EmbeddedLiveKit, request: pytest.FixtureRequest
) -> None:
    async with watching(server, request) as watched:
        host = await watched.live()
        await host.command("freeze")
        await asyncio.sleep(3)
        assert "lost" not in [line.phase for line in watched.said]
        await host.command("thaw")
        await watched.moves()
        # Killed, it is lost although LiveKit has it in the room for some time.
        await host.kill()
        await watched.phase("lost", 5)


async def test_many_changes_of_scene_are_followed_from_one_stay_to_the_next(
    server: EmbeddedLiveKit, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "SUBSCRIPTIONS", 2)
    name = f"room-{request.node.name}"
    async with rooms(server.livekit) as client:
        await client.room.create_room(api.CreateRoomRequest(name=name, empty_timeout=60, sync_streams=True))
    spare = token(server.livekit, name, "relay-spare", relay=True)
    timing = RelayTiming(succeed_within=3)
    async with watching(server, request, spare_token=spare, timing=timing) as watched:
        host = await watched.live()
        stays = set[Any]()
        while len(stays) < 3:
            stays.add(watched.source._room)
            await host.command("republish")
            await watched.moves()
            await until(lambda: watched.loudness() > 0.05)
            assert len(watched.mixer.levels) == 1
        assert [line.phase for line in watched.said if line.phase == "lost"] == []
        # Those that were left are gone: LiveKit has the host and one relay.
        monkeypatch.setattr(source, "SUBSCRIPTIONS", 1000)

        async def there() -> list[str]:
            found = (await client.room.list_participants(api.ListParticipantsRequest(room=name))).participants
            return sorted(one.identity.removesuffix("-spare") for one in found)

        async with rooms(server.livekit) as client, asyncio.timeout(20):
            while await there() != ["host", "relay"]:
                await asyncio.sleep(0.1)


async def test_what_is_received_has_a_peer_connection_of_its_own(
    server: EmbeddedLiveKit, request: pytest.FixtureRequest
) -> None:
    """In a common one each track that is published anew takes memory and CPU until the end of the stay."""
    async with watching(server, request) as watched:
        await watched.live()
        stay = watched.source._room
        assert stay is not None
        stats = await stay._room.get_rtc_stats()
        received, sent = (
            [one.inbound_rtp.stream.kind for one in direction if one.HasField("inbound_rtp")]
            for direction in (stats.subscriber_stats, stats.publisher_stats)
        )
        assert (sorted(received), sent) == (["audio", "video"], [])


async def test_a_silent_microphone_and_a_still_picture_are_live(
    server: EmbeddedLiveKit, request: pytest.FixtureRequest
) -> None:
    async with watching(server, request) as watched:
        host = await watched.live("--silent")
        await host.command("freeze")
        await asyncio.sleep(4)
        assert watched.source.line.phase == "live" and "lost" not in [line.phase for line in watched.said]
        assert watched.loudness() < 0.001


async def test_a_silent_host_without_pictures_is_live(server: EmbeddedLiveKit, request: pytest.FixtureRequest) -> None:
    async with watching(server, request) as watched:
        host = await watched.host()
        await watched.phase("live")
        await host.command("mute video")
        await asyncio.sleep(4)
        assert watched.source.line.phase == "live"
        assert "lost" not in [line.phase for line in watched.said]


async def test_a_host_that_is_killed_is_lost_and_comes_back(
    server: EmbeddedLiveKit, request: pytest.FixtureRequest
) -> None:
    async with watching(server, request) as watched:
        host = await watched.live()
        await host.kill()
        await watched.phase("lost")
        await watched.host("--codec=h264")
        await watched.phase("live", 5)
        await watched.moves()


async def test_a_host_that_stays_away_ends_it(server: EmbeddedLiveKit, request: pytest.FixtureRequest) -> None:
    async with watching(server, request, grace=3.0) as watched:
        host = await watched.host()
        await watched.phase("live")
        # It leaves at once, and its process takes a moment to end.
        left = time.monotonic()
        await host.stop()
        line = await watched.phase("ended")
        assert time.monotonic() - left >= 3.0
        assert [line.phase for line in watched.said][-2:] == ["lost", "ended"]
        assert line.code == "source_ended"
        await asyncio.wait_for(watched.running, 5)


async def test_a_room_that_closed_without_its_host_is_opened_again(
    server: EmbeddedLiveKit, request: pytest.FixtureRequest
) -> None:
    async with rooms(server.livekit) as client:
        name = f"room-{request.node.name}"
        await client.room.create_room(api.CreateRoomRequest(name=name, departure_timeout=1, empty_timeout=60))
        async with watching(server, request) as watched:
            host = await watched.host()
            await watched.phase("live")
            first = (await client.room.list_rooms(api.ListRoomsRequest(names=[name]))).rooms[0].sid
            await host.stop()
            await watched.phase("lost", 2)

            async def sid() -> str:
                rooms = (await client.room.list_rooms(api.ListRoomsRequest(names=[name]))).rooms
                return rooms[0].sid if rooms else ""

            async with asyncio.timeout(15):
                while await sid() in ("", first):
                    await asyncio.sleep(0.1)
            assert watched.source.line.phase == "lost"
            await watched.host()
            await watched.phase("live", 5)
            await watched.moves()


async def test_a_deleted_room_ends_it_at_once(server: EmbeddedLiveKit, request: pytest.FixtureRequest) -> None:
    async with watching(server, request) as watched:
        await watched.host()
        await watched.phase("live")
        async with rooms(server.livekit) as client:
            await client.room.delete_room(api.DeleteRoomRequest(room=watched.room))
        line = await watched.phase("ended", 3)
        assert line.code == "source_ended"


async def test_a_relay_that_was_thrown_out_comes_back(server: EmbeddedLiveKit, request: pytest.FixtureRequest) -> None:
    async with watching(server, request) as watched:
        await watched.host()
        await watched.phase("live")
        async with rooms(server.livekit) as client:
            identity = api.RoomParticipantIdentity(room=watched.room, identity="relay")
            await client.room.remove_participant(identity)
        await until(lambda: not watched.mixer.levels, 5)
        await until(lambda: bool(watched.mixer.levels), 5)
        await watched.phase("live")
        await watched.moves()


async def test_a_restarted_livekit_is_survived(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with EmbeddedLiveKit(tmp_path) as server:
        async with watching(server, request) as watched:
            first = await watched.live()
            assert server.child is not None
            server.child.stop(signal.SIGKILL)
            await watched.phase("lost", 4)
            stamp = watched.last_stamp()
            await first.kill()
            await asyncio.sleep(2)
            assert watched.stamp() == stamp, "the last picture is gone"
            server.launch()
            server.wait_ready()
            await watched.host()
            await watched.phase("live", 15)
            await watched.moves()


async def test_a_bad_token_fails(server: EmbeddedLiveKit, request: pytest.FixtureRequest) -> None:
    foreign = LiveKit(server.livekit.url, server.livekit.api_key, "x" * 40)
    async with watching(server, request, token=token(foreign, "room", "relay", relay=True)) as watched:
        line = await watched.phase("failed", 5)
        assert line.code == "livekit_unauthorized"
        assert "eyJ" not in line.detail
        await asyncio.wait_for(watched.running, 5)


async def test_a_livekit_that_is_not_there_is_tried_again_then_failed(
    server: EmbeddedLiveKit, request: pytest.FixtureRequest
) -> None:
    timing = RelayTiming(first_join_for=2.0)
    async with watching(server, request, livekit_url="ws://127.0.0.1:9", timing=timing) as watched:
        begun = time.monotonic()
        line = await watched.phase("failed", 15)
        assert line.code == "livekit_unreachable" and time.monotonic() - begun >= 2
