"""A destination tried step by step, against real servers."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from butai.relay.rtmp.connection import Limits, Target
from butai.relay.rtmp.preflight import bandwidth_test, check
from tests.fakes.rtmp_server import Server
from tests.platforms import Authority, Platform, tls_front
from tests.processes import free_port

KEY = "canary-preflight-81c2"


async def test_each_step_is_told_and_a_publish_asks_about_the_key() -> None:
    with Platform("tw", refuse={KEY + "bad?bandwidthtest=true", KEY + "bad"}) as platform:
        steps = await check(Target(platform.url, KEY, True), publish=False)
        assert [(step.name, step.ok) for step in steps] == [
            *(("dns", True), ("tcp", True), ("handshake", True), ("connect", True))
        ]
        assert platform.visits == []
        steps = await check(bandwidth_test(Target(platform.url, KEY, True)), publish=True)
        assert [step.name for step in steps if step.ok] == ["dns", "tcp", "handshake", "connect", "publish"]
        (visit,) = (visit for visit in platform.visits if visit.what == "publish")
        assert visit.arguments.get("bandwidthtest") == "true" or "bandwidthtest" in visit.name
        steps = await check(bandwidth_test(Target(platform.url, KEY + "bad", True)), publish=True)
        assert (steps[-1].name, steps[-1].ok, steps[-1].code) == ("publish", False, "key_rejected")
        assert KEY not in repr(steps)


async def test_a_key_that_is_taken_first_and_refused_a_moment_later_is_refused() -> None:
    """Twitch's way: it hangs up when it has looked the key up, and gives no reason."""

    class Hasty(Server):
        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving = asyncio.create_task(super()._serve(reader, writer))
            while "publish" not in self.commands:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            serving.cancel()

    server = Hasty()
    async with server.running() as url:
        steps = await check(Target(url, KEY, True), publish=True)
    assert "publish" in server.commands
    assert [(step.name, step.code) for step in steps if not step.ok] == [("publish", "key_rejected")]


async def test_what_fails_is_named(tmp_path: Path) -> None:
    closed = await check(Target(f"rtmp://127.0.0.1:{free_port()}/live", KEY, True), publish=False)
    assert [(step.name, step.ok, step.code) for step in closed] == [
        ("dns", True, ""),
        ("tcp", False, "destination_unreachable"),
    ]
    unknown = await check(Target("rtmp://no-such-host.invalid/live", KEY), publish=False)
    assert [(step.name, step.code) for step in unknown] == [("dns", "destination_unreachable")]
    private = await check(Target("rtmp://127.0.0.1/live", KEY), publish=False)
    assert [(step.name, step.code) for step in private] == [("dns", "invalid_destination")]
    wrong = await check(Target("http://x/live", KEY), publish=False)
    assert [(step.name, step.code) for step in wrong] == [("address", "invalid_destination")]
    authority = Authority(tmp_path)
    with Platform("tls") as platform, tls_front(platform.port, authority.context("localhost")) as port:
        target = Target(f"rtmps://localhost:{port}/live", KEY, True)
        untrusted = await check(target, publish=False)
        assert [(step.name, step.code) for step in untrusted if not step.ok] == [("tls", "tls_failed")]
        trusting = ssl.create_default_context(cafile=str(authority.file))
        assert all(step.ok for step in await check(target, publish=True, tls=trusting))
        plain = Target(f"rtmps://127.0.0.1:{platform.port}/live", KEY, True)
        assert not (await check(plain, publish=False, limits=Limits(connect_timeout=2)))[-1].ok
