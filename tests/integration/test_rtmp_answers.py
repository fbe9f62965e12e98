"""Servers that answer in ways of their own, over loopback."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from butai.relay.rtmp import connection
from butai.relay.rtmp.connection import Limits, Target
from butai.relay.rtmp.preflight import check
from butai.relay.rtmp.publisher import Publisher, PublishError
from butai.relay.timing import hurried
from tests.fakes.odd_rtmp_servers import HangsUp, Late, Refusing, redirect
from tests.fakes.rtmp_server import Server
from tests.pushes import KEY, pushing
from tests.waiting import until


@pytest.mark.parametrize("late", ["connect", "createStream", "publish"])
async def test_a_late_answer_is_waited_for_while_the_server_reads(late: str) -> None:
    server = Late(late=late, seconds=0.8, acks=65536)
    # In the proportion of the real ones, 8 s to 30: the answer comes later than silence is borne.
    limits = Limits(silence_timeout=0.3, publish_timeout=5)
    async with server.running() as url:
        async with pushing(url, limits=limits) as push:
            await until(lambda: push.phase == "live", "live")
        assert [step.ok for step in await check(Target(url, KEY, True), publish=True, limits=limits)] == [True] * 5


async def test_an_answer_that_does_not_come_is_given_up() -> None:
    server = Late(late="publish", seconds=60)
    async with server.running() as url, pushing(url, limits=Limits(publish_timeout=0.6)) as push:
        error = await push.error()
    assert (error.code, error.detail) == ("destination_unreachable", "no answer in time (publish)")


def test_a_platform_that_keeps_its_viewers_for_ninety_seconds_is_waited_for_twelve() -> None:
    assert (Limits().silence_timeout, Limits().publish_timeout, Limits().connect_timeout) == (8, 30, 8)
    assert hurried(Limits()).publish_timeout == 12


@pytest.mark.parametrize("at_publish", [False, True])
async def test_a_redirect_is_followed_once(at_publish: bool) -> None:
    last = Server(acks=65536)
    async with last.running() as there:
        first = Refusing(said=redirect(there), at_publish=at_publish)
        async with first.running() as url:
            async with pushing(url) as push:
                await until(lambda: push.phase == "live", "live")
            steps = await check(Target(url, KEY, True), publish=True)
            assert [(step.name, step.ok) for step in steps][-1] == ("publish", True)
        second = Refusing(said=redirect(url), at_publish=at_publish)
        async with second.running() as url, first.running() as middle:
            second.said = redirect(middle)
            async with pushing(url) as push:
                error = await push.error()
            assert error.code == "redirected"
            steps = await check(Target(url, KEY, True), publish=True)
            assert steps[-1].code == "redirected"
    assert last.commands.count("publish") == 2


async def test_a_redirect_to_what_may_not_be_connected_to_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Refusing(said=redirect("rtmp://169.254.169.254/latest"))
    async with first.running() as url:
        async with pushing(url) as push:
            error = await push.error()
        steps = await check(Target(url, KEY, True), publish=True)
    assert error.code == "redirected" and "link-local" in error.detail
    assert [(step.name, step.code) for step in steps] == [("dns", "redirected")]
    assert "link-local" in steps[-1].detail


async def test_a_redirect_to_a_server_without_a_stream_is_told() -> None:
    first = Refusing(said=redirect("rtmp://127.0.0.1:9"))
    async with first.running() as url:
        target = Target(url, "", True)
        publisher = Publisher(target, report=lambda *_: None)
        with pytest.raises(PublishError) as caught:
            await publisher.run()
        steps = await check(target, publish=True)
    assert caught.value.code == "redirected"
    assert [(step.name, step.code) for step in steps] == [("address", "redirected")]


@pytest.mark.parametrize("quoted", ["first-secret-9a", "new-sig-7c"])
async def test_secrets_that_a_server_quotes_to_which_another_points_are_not_shown(quoted: str) -> None:
    said = {"level": "error", "code": "NetConnection.Connect.Rejected", "description": f"bad {quoted}"}
    second, first = Refusing(said=said), Refusing()
    async with second.running() as there, first.running() as url:
        first.said = redirect(f"{there}?sig=new-sig-7c")
        target = Target(f"{url}?***", f"{KEY}\ntoken=first-secret-9a\n", True)
        publisher = Publisher(target, report=lambda *_: None)
        with pytest.raises(PublishError) as caught:
            await publisher.run()
        steps = await check(target, publish=True)
    assert steps[-1].name == "connect" and "the platform's text contains the key" in steps[-1].detail
    assert not any(secret in f"{caught.value} {steps}" for secret in ("first-secret", "new-sig"))


async def test_a_server_that_wants_a_user_is_no_wrong_key() -> None:
    said = {
        "level": "error",
        "code": "NetConnection.Connect.Rejected",
        "description": "[ AccessManager.Reject ] : [ code=403 need auth; authmod=adobe ] : ",
    }
    async with Refusing(said=said).running() as url:
        async with pushing(url) as push:
            error = await push.error()
        steps = await check(Target(url, KEY, True), publish=False)
    assert error.code == steps[-1].code == "login_required"
    assert not error.retryable


@pytest.mark.parametrize("after", [0, 1537, 1537 + 1536])
async def test_one_that_hangs_up_can_be_reached(after: int) -> None:
    async with HangsUp(after=after).running() as url:
        async with pushing(url) as push:
            error = await push.error()
        steps = await check(Target(url, KEY, True), publish=False)
    assert error.code == steps[-1].code == "destination_closed"


@pytest.mark.parametrize("silent", [False, True], ids=["hangs up", "silent"])
async def test_of_two_addresses_of_a_name_one_without_a_handshake_is_left_for_the_other(
    silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, refused, gone = Server(acks=65536), 0, asyncio.Event()
    limits = Limits(silence_timeout=0.3)

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal refused
        refused += 1
        if silent:
            await gone.wait()
        writer.close()

    async def resolve(*_: object) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr(connection, "resolve", resolve)
    async with good.running() as url:
        port = urlsplit(url).port
        async with (
            await asyncio.start_server(hang_up, "127.0.0.2", port),
            pushing(f"rtmp://two.example:{port}/live", limits=limits) as push,
        ):
            await until(lambda: push.phase == "live", "live")
            assert refused == 1
            steps = await check(Target(f"rtmp://two.example:{port}/live", KEY, True), publish=False, limits=limits)
            gone.set()
    assert refused == 2
    assert [(step.name, step.ok) for step in steps] == [
        *(("dns", True), ("tcp", True), ("handshake", True), ("connect", True))
    ]
