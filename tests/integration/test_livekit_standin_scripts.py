"""The stand-in for LiveKit Egress as other tests use it: scripts, commands, webhook policies, its counters and its process."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web
from google.protobuf.json_format import ParseDict
from livekit import api

from tests.fakes.livekit_egress import Accept, Never, Refuse, Replay, StandIn, Unreachable, redact
from tests.fakes.livekit_egress.recordings import DIRECTORY, load

KEY, SECRET = "devkey", "secretsecretsecretsecretsecretsecret"
URL = "rtmp://127.0.0.1:1935/live/abcd-efgh-ijkl"
OTHER = "rtmp://127.0.0.1:1936/app/live_1_zyxwvu"
FAST = 20.0
JSON = {"Content-Type": "application/json"}


def client(standin: StandIn, key: str = KEY, secret: str = SECRET) -> api.LiveKitAPI:
    return api.LiveKitAPI(standin.url, key, secret)


async def start(lk: api.LiveKitAPI, *urls: str, room: str = "r") -> api.EgressInfo:
    wanted = api.StartEgressRequest(
        room_name=room,
        media=api.MediaSource(participant_video=api.ParticipantVideo(identity="host")),
        outputs=[api.Output(stream=api.StreamOutput(protocol=api.StreamProtocol.RTMP, urls=urls))],
    )
    return await lk.egress.start_egress(wanted)


async def row(lk: api.LiveKitAPI, egress_id: str) -> api.EgressInfo:
    return (await lk.egress.list_egress(api.ListEgressRequest(egress_id=egress_id))).items[0]


async def until(lk: api.LiveKitAPI, egress_id: str, wanted: Callable[[api.EgressInfo], bool]) -> api.EgressInfo:
    async with asyncio.timeout(60):
        while not wanted(info := await row(lk, egress_id)):
            await asyncio.sleep(0.01)
    return info


def streams(info: api.EgressInfo) -> dict[str, tuple[str, bool]]:
    return {one.url: (api.StreamInfo.Status.Name(one.status), one.started_at > 0) for one in info.stream_results}


def is_live(info: api.EgressInfo) -> bool:
    return all(one.started_at for one in info.stream_results)


def over(info: api.EgressInfo) -> bool:
    return info.status > api.EgressStatus.EGRESS_ENDING


async def refusal(call: Any) -> tuple[int, str]:
    with pytest.raises(api.TwirpError) as caught:
        await call
    return caught.value.status, caught.value.code


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtmp://h/app/abcdefghi", "rtmp://h/app/{abc...ghi}"),
        ("rtmp://h/app/abcdefgh", "rtmp://h/app/{ab...gh}"),
        ("rtmp://h/app/bad", "rtmp://h/app/{b...d}"),
        ("rtmp://h/app/ab", "rtmp://h/app/{...}"),
        ("rtmps://h:443/a/b/key?x=1&y=secret", "rtmps://h:443/a/b/{key...ret}"),
        ("http://h/app/key", "http://h/app/key"),
    ],
)
def test_a_url_is_redacted_as_livekit_does_it(url: str, shown: str) -> None:
    assert redact(url) == shown


async def test_each_attempt_has_its_entry_and_the_last_one_stays() -> None:
    async with StandIn(speed=FAST) as standin, client(standin) as lk:
        standin.platforms[URL] = [Refuse(), Unreachable(), Accept()]
        first = await until(lk, (await start(lk, URL)).egress_id, over)
        assert (first.error_code, "'publish' cmd failed" in first.error) == (503, True)
        second = await until(lk, (await start(lk, URL)).egress_id, over)
        assert second.error == "Connection refused: Could not connect to 127.0.0.1: Connection refused"
        third = await start(lk, URL)
        await until(lk, third.egress_id, is_live)
        assert standin.running == {URL: [third.egress_id]}
        assert standin.high_water[URL] == 1
        assert [(one.room, one.urls, bool(one.egress_id)) for one in standin.starts] == [("r", [URL], True)] * 3


async def test_a_second_publisher_of_a_key_is_refused_and_counted() -> None:
    async with StandIn(speed=FAST) as standin, client(standin) as lk:
        first, second = await asyncio.gather(start(lk, URL), start(lk, URL))
        refused = [first.egress_id, second.egress_id]
        done = [await until(lk, one, lambda info: over(info) or is_live(info)) for one in refused]
        assert standin.high_water[URL] == 2
        async with asyncio.timeout(60):
            while len(standin.running[URL]) > 1:
                await asyncio.sleep(0.01)
        assert len(done) == 2


async def test_updates_of_two_urls_are_held_back_while_one_connects() -> None:
    async with StandIn(speed=FAST) as standin, client(standin) as lk:
        standin.platforms[OTHER] = Never()
        egress_id = (await start(lk, URL, OTHER)).egress_id
        worker = standin.egresses[egress_id]
        async with asyncio.timeout(60):
            while not any(one.started_at for one in worker.info.stream_results):
                await asyncio.sleep(0.01)
        assert set(streams(await row(lk, egress_id)).values()) == {("ACTIVE", False)}
        assert standin.fail(OTHER, "gave up") == 1
        info = await until(lk, egress_id, lambda info: info.stream_results[0].started_at > 0 or is_live(info))
        assert sorted(streams(info).values()) == [("ACTIVE", True), ("FAILED", True)]


async def test_a_drop_heals_and_only_the_first_in_a_minute_is_reported() -> None:
    async with StandIn(speed=FAST) as standin, client(standin) as lk:
        egress_id = (await start(lk, URL)).egress_id
        await until(lk, egress_id, is_live)
        assert standin.drop(URL) == 1
        assert (await row(lk, egress_id)).stream_results[0].retries == 1
        assert standin.drop(URL) == 1
        assert (await row(lk, egress_id)).stream_results[0].retries == 1
        assert standin.egresses[egress_id].info.stream_results[0].retries == 2
        assert standin.drop(OTHER) == 0


async def test_a_dead_worker_leaves_an_active_record_and_its_participant_goes() -> None:
    async with StandIn(speed=FAST) as standin, client(standin) as lk:
        egress_id = (await start(lk, URL)).egress_id
        await until(lk, egress_id, is_live)

        async def people() -> set[str]:
            listed = await lk.room.list_participants(api.ListParticipantsRequest(room="r"))
            return {one.identity for one in listed.participants}

        assert await people() == {"host", egress_id}
        assert standin.kill_worker(egress_id)
        assert standin.running == {}
        async with asyncio.timeout(60):
            while egress_id in await people():
                await asyncio.sleep(0.02)
        assert (await row(lk, egress_id)).status == api.EgressStatus.EGRESS_ACTIVE
        assert await refusal(lk.egress.stop_egress(api.StopEgressRequest(egress_id=egress_id))) == (
            408,
            "deadline_exceeded",
        )


async def test_a_frozen_record_stands_still_and_a_forgotten_one_is_gone() -> None:
    async with StandIn(speed=FAST) as standin, client(standin) as lk:
        egress_id = (await start(lk, URL)).egress_id
        before = await until(lk, egress_id, is_live)
        assert standin.freeze(egress_id)
        assert standin.drop(URL) == 1
        assert await row(lk, egress_id) == before
        assert standin.forget(egress_id)
        assert await refusal(row(lk, egress_id)) == (404, "not_found")
        assert standin.running == {URL: [egress_id]}


async def test_ended_records_expire_when_told_and_are_not_active() -> None:
    async with StandIn(speed=FAST) as standin, client(standin) as lk:
        kept, stopped = (await start(lk, URL)).egress_id, (await start(lk, OTHER)).egress_id
        await until(lk, stopped, is_live)
        await lk.egress.stop_egress(api.StopEgressRequest(egress_id=stopped))
        await until(lk, stopped, over)
        listed = await lk.egress.list_egress(api.ListEgressRequest(active=True))
        assert [one.egress_id for one in listed.items] == [kept]
        assert len((await lk.egress.list_egress(api.ListEgressRequest(room_name="r"))).items) == 2
        assert standin.expire() == 1
        assert [one.egress_id for one in (await lk.egress.list_egress(api.ListEgressRequest())).items] == [kept]


async def test_a_slow_start_leaves_an_orphan_to_a_client_that_gave_up() -> None:
    async with StandIn(speed=FAST) as standin, client(standin) as lk:
        standin.slow_start(60)
        unheard = asyncio.create_task(start(lk, URL))
        async with asyncio.timeout(60):
            while not standin.running.get(URL):
                await asyncio.sleep(0.01)
        assert not unheard.done()
        unheard.cancel()
        listed = await lk.egress.list_egress(api.ListEgressRequest(room_name="r", active=True))
        assert [one.egress_id for one in listed.items] == standin.running[URL]
        await until(lk, listed.items[0].egress_id, is_live)


async def test_no_worker_no_room_and_no_server() -> None:
    async with StandIn(speed=FAST) as standin, client(standin) as lk:
        standin.no_workers()
        assert await refusal(start(lk, URL)) == (503, "unavailable")
        standin.no_workers(False)
        standin.room_absent("nowhere")
        assert await refusal(start(lk, URL, room="nowhere")) == (404, "not_found")
        await standin.down()
        with pytest.raises(Exception, match=r"Cannot connect|disconnected|reset"):
            await row(lk, "EG_x")
        await standin.down(False)
        assert await refusal(row(lk, "EG_x")) == (404, "not_found")
        await standin.down(how="hang")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(row(lk, "EG_x"), 0.2)
        await standin.down(False)
        await standin.down(how="error")
        assert (await refusal(row(lk, "EG_x")))[0] == 500
        await standin.down(False)
        egress_id = (await start(lk, URL)).egress_id
        await until(lk, egress_id, is_live)
        standin.stop_hangs()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lk.egress.stop_egress(api.StopEgressRequest(egress_id=egress_id)), 0.2)
        assert not over(await row(lk, egress_id))


async def test_keys_and_grants_are_checked_and_keys_change_while_it_runs() -> None:
    async with StandIn() as standin, client(standin) as lk:
        request = api.ListRoomsRequest()
        await lk.room.list_rooms(request)
        standin.add_key("second", "another-secret-of-at-least-32-characters")
        standin.remove_key(KEY)
        assert await refusal(lk.room.list_rooms(request)) == (401, "unknown")
        async with client(standin, "second", "another-secret-of-at-least-32-characters") as other:
            await other.room.list_rooms(request)
        token = api.AccessToken("second", "another-secret-of-at-least-32-characters").with_grants(
            api.VideoGrants(room_record=True)
        )
        async with api.LiveKitAPI.with_token(token.to_jwt(), standin.url) as other:
            await other.egress.list_egress(api.ListEgressRequest())
            assert await refusal(other.room.list_rooms(request)) == (401, "unauthenticated")


async def test_json_bodies_are_answered_in_json() -> None:
    async with StandIn(speed=FAST) as standin, client(standin) as lk, aiohttp.ClientSession() as session:
        egress_id = (await start(lk, URL)).egress_id
        token = api.AccessToken(KEY, SECRET).with_grants(api.VideoGrants(room_record=True)).to_jwt()
        headers = {"Authorization": f"Bearer {token}"}
        path = f"{standin.url}/twirp/livekit.Egress"
        async with session.post(f"{path}/ListEgress", json={"active": True}, headers=headers) as answer:
            assert [one["egress_id"] for one in (await answer.json())["items"]] == [egress_id]
        async with session.post(f"{path}/Nothing", json={}, headers=headers) as answer:
            assert (answer.status, (await answer.json())["code"]) == (404, "bad_route")
        async with session.post(f"{path}/ListEgress", data=b"{", headers=headers | JSON) as answer:
            assert (await answer.json())["code"] == "malformed"


async def test_a_host_who_comes_late_and_a_source_that_closes() -> None:
    async with StandIn(speed=FAST) as standin, client(standin) as lk:
        standin.rooms.create("r")
        egress_id = (await start(lk, URL)).egress_id
        await asyncio.sleep(5 / FAST)
        assert (await row(lk, egress_id)).status == api.EgressStatus.EGRESS_STARTING
        assert standin.running == {}
        standin.host_joins("r")
        await until(lk, egress_id, is_live)
        standin.host_leaves("r")
        await asyncio.sleep(5 / FAST)
        assert is_live(await row(lk, egress_id)) and not over(await row(lk, egress_id))
        standin.close_source("r")
        ended = await until(lk, egress_id, over)
        assert (ended.status, ended.details) == (api.EgressStatus.EGRESS_COMPLETE, "End reason: Source closed")


async def test_an_egress_ends_with_the_code_that_a_test_gives_it() -> None:
    async with StandIn(speed=FAST) as standin, client(standin) as lk:
        for code, status in ((412, "EGRESS_ABORTED"), (413, "EGRESS_LIMIT_REACHED"), (500, "EGRESS_FAILED")):
            egress_id = (await start(lk, URL)).egress_id
            await until(lk, egress_id, is_live)
            assert standin.fail(egress_id, "as told", code) == 1
            info = await until(lk, egress_id, over)
            assert (api.EgressStatus.Name(info.status), info.error_code, info.error) == (status, code, "as told")
        assert standin.running == {}


async def test_ingresses_come_and_go() -> None:
    async with StandIn() as standin, client(standin) as lk:
        wanted = api.CreateIngressRequest(
            input_type=api.IngressInput.RTMP_INPUT, room_name="r", participant_identity="host"
        )
        made = await lk.ingress.create_ingress(wanted)
        standin.ingress_starts(made.ingress_id)
        listed = await lk.ingress.list_ingress(api.ListIngressRequest(room_name="r"))
        assert listed.items[0].state.status == api.IngressState.ENDPOINT_PUBLISHING
        await lk.ingress.delete_ingress(api.DeleteIngressRequest(ingress_id=made.ingress_id))
        assert await refusal(lk.ingress.delete_ingress(api.DeleteIngressRequest(ingress_id=made.ingress_id))) == (
            404,
            "not_found",
        )
        assert [one.event for one in standin.webhooks.emitted] == ["ingress_started", "ingress_ended"]


# Webhooks


class Ear:
    """Takes webhooks on loopback; `answer` is what it answers with."""

    def __init__(self) -> None:
        self.events: list[api.WebhookEvent] = []
        self.answer = 200
        self.asked = 0
        self._receiver = api.WebhookReceiver(api.TokenVerifier(KEY, SECRET))

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.answer == 200:
            self.events.append(self._receiver.receive(await request.text(), request.headers["Authorization"]))
        return web.Response(status=self.answer)


def join_many(standin: StandIn, count: int = 40) -> None:
    for number in range(count):
        standin.host_joins(f"room-{number}")


async def test_webhooks_go_astray_as_the_policy_says() -> None:
    async with Ear() as ear, StandIn(speed=FAST, webhooks=[ear.url]) as standin:
        standin.webhook_policy(on=False)
        join_many(standin)
        assert standin.webhooks.counts == {"emitted": 160, "lost": 160}

        async def arrived(count: int) -> list[str]:
            """Each host comes once more: 3 events of leaving, 3 of coming for each. The ids that arrive."""
            ear.events.clear()
            join_many(standin)
            async with asyncio.timeout(60):
                while len(ear.events) < count:
                    await asyncio.sleep(0.02)
            await standin.webhooks.settled()
            await asyncio.sleep(0.2)  # and no more than those
            return [one.id for one in ear.events]

        standin.webhook_policy(delay=1.0)
        assert sorted(await arrived(240)) == sorted(one.id for one in list(standin.webhooks.emitted)[-240:])
        standin.webhook_policy(doubled=1.0)
        sent = await arrived(480)
        assert len(sent) == 480 and set(Counter(sent).values()) == {2}
        standin.webhook_policy(loss=0.5)
        assert 60 < len(await arrived(60)) < 180
        standin.webhook_policy(reorder=2.0)
        sent = await arrived(240)
        order_of = {one.id: place for place, one in enumerate(standin.webhooks.emitted)}
        places = [order_of[one] for one in sent]
        assert len(places) == 240 and places != sorted(places)


async def test_a_target_that_fails_is_tried_again_until_30_s_have_gone() -> None:
    async with Ear() as ear, StandIn(speed=50, webhooks=[ear.url]) as standin:
        ear.answer = 503
        standin.rooms.create("r")
        async with asyncio.timeout(60):
            while not standin.webhooks.counts["dropped"]:
                await asyncio.sleep(0.01)
        assert ear.asked > 3
        ear.answer = 200
        standin.host_joins("r")
        await standin.webhooks.settled()
        assert [one.event for one in ear.events][:2] == ["participant_joined", "track_published"]


# Replay beside the tests of each recording


async def test_a_replay_hurries_on_and_finishes_what_the_recording_left() -> None:
    recorded = load("host-leaves-and-returns").requests[0].body
    async with Replay("host-leaves-and-returns", speed=FAST) as replay, client(replay) as lk:
        recorded["roomName"] = "mine"
        made = await lk.egress.start_participant_egress(ParseDict(recorded, api.ParticipantEgressRequest()))
        assert made.room_name == "mine"
        await lk.egress.stop_egress(api.StopEgressRequest(egress_id=made.egress_id))  # 26 s too soon
        assert over(await until(lk, made.egress_id, over))
        assert [one.event for one in replay.webhooks.emitted][-1] == "egress_ended"


async def test_a_record_of_a_recording_never_gets_older() -> None:
    """As LiveKit's do not: readers drop a word that is older than what they know."""
    recorded = load("one-bad-key").requests[0].body
    async with Replay("one-bad-key", speed=FAST) as replay, client(replay) as lk:
        made = await lk.egress.start_participant_egress(ParseDict(recorded, api.ParticipantEgressRequest()))
        # What a second stop leaves, when it comes late.
        shown = await until(lk, made.egress_id, is_live)
        shown.updated_at += 60 * 10**9
        replay.records.put(shown)
        await lk.egress.stop_egress(api.StopEgressRequest(egress_id=made.egress_id))
        assert (await until(lk, made.egress_id, over)).updated_at >= shown.updated_at


# Its cost, and its process form


async def test_two_thousand_egresses_are_listed_in_milliseconds() -> None:
    async with StandIn(speed=100) as standin, client(standin) as lk:

        def request(number: int) -> api.StartEgressRequest:
            output = api.StreamOutput(protocol=api.StreamProtocol.RTMP, urls=[f"{URL}{number}"])
            return api.StartEgressRequest(
                room_name=f"r{number // 2}", media=api.MediaSource(), outputs=[api.Output(stream=output)]
            )

        await asyncio.gather(*(standin.answer("Egress/StartEgress", request(number)) for number in range(2000)))
        listed = b""
        began = time.process_time()
        for _ in range(10):
            listed = standin.records.listing(active=True)
        assert (time.process_time() - began) / 10 < 0.01
        assert len(api.ListEgressResponse.FromString(listed).items) == 2000
        assert len((await lk.egress.list_egress(api.ListEgressRequest(active=True))).items) == 2000


async def test_the_process_form_takes_the_same_commands() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.fakes.livekit_egress", "--key", KEY, "--secret", SECRET, "--speed", "20"),
        stdout=asyncio.subprocess.PIPE,
        cwd=DIRECTORY.parents[1],
    )
    try:
        assert process.stdout is not None
        ready, url = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().split()
        assert ready == "ready"
        async with aiohttp.ClientSession() as session, api.LiveKitAPI(url, KEY, SECRET) as lk:

            async def tell(command: str, *args: Any) -> Any:
                async with session.post(f"{url}/control", json={"command": command, "args": args}) as answer:
                    return (await answer.json())["result"]

            await tell("platform", URL, [{"script": "Refuse"}, {"script": "Accept", "after": 0.5}])
            await until(lk, (await start(lk, URL)).egress_id, over)
            egress_id = (await start(lk, URL)).egress_id
            await until(lk, egress_id, is_live)
            assert await tell("drop", URL) == 1
            assert await tell("egress_of", URL) == [egress_id]
            async with session.get(f"{url}/control") as answer:
                counters = await answer.json()
            assert (counters["starts"], counters["high_water"], counters["running"]) == (2, 1, {URL: 1})
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
