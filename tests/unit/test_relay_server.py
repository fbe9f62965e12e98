"""The conversation over a real unix socket. Room and platforms are stand-ins; clock, encoder and socket are real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from butai.relay.messages import (
    ByeLine,
    ConfigureLine,
    HeldOutput,
    MetricsLine,
    OutputLine,
    PingLine,
    Preset,
    RefusedLine,
    SourceLine,
    StartOutputLine,
    StopLine,
    StopOutputLine,
    WelcomeLine,
)
from butai.relay.room_source import RoomSource
from butai.relay.server import Relay
from butai.relay.timing import RelayTiming
from tests.clock import Clock
from tests.relay_stage import Controller, FakeSource, RelayStage, pass_time, until

CONFIGURE = ConfigureLine("b1", "ws://127.0.0.1:1", "canary-token", "host", Preset(320, 180, 30, 500))
LOOKS_OFTEN = msgspec.structs.replace(CONFIGURE, timing=RelayTiming(metrics_every=0.02))
START = StartOutputLine("o1", 1, "rtmp://127.0.0.1/app", "canary-key-71c2", True)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[RelayStage]:
    stage = RelayStage(tmp_path / "b1.sock")
    yield stage
    stage.relay.end("stopped")
    await asyncio.gather(stage.running, return_exceptions=True)


async def test_only_its_user_may_speak_to_it(stage: RelayStage) -> None:
    await until(stage.path.exists)
    assert stat.S_IMODE(stage.path.stat().st_mode) == 0o600


async def test_a_broadcast_from_hello_to_bye(stage: RelayStage) -> None:
    controller = await Controller.connect(stage.path)
    welcome = await controller.hear(WelcomeLine)
    assert (welcome.configured, welcome.outputs, welcome.pid) == (False, [], os.getpid())
    controller.say(CONFIGURE)
    assert (await controller.hear(SourceLine)).phase == "connecting"
    controller.say(START)
    await controller.hear(OutputLine, lambda line: line.phase == "publishing")
    await until(lambda: len(stage.pushes[0].sent) > 30)
    packets = stage.pushes[0].sent
    assert {packet.kind for packet in packets} == {"video", "audio"}
    assert [packet.dts for packet in packets] == sorted(packet.dts for packet in packets)
    assert next(packet for packet in packets if packet.kind == "video").keyframe
    metrics = await controller.hear(MetricsLine)
    assert [one.output_id for one in metrics.outputs] == ["o1"] and metrics.rss_mib > 10
    controller.say(StopOutputLine("o1"))
    await controller.hear(OutputLine, lambda line: line.phase == "ended")
    controller.say(StopLine())
    assert (await controller.hear(ByeLine)).reason == "stopped"
    assert await controller.hung_up()
    assert await stage.running == "stopped"
    assert stage.sources[0].closed


async def test_servers_of_held_outputs_are_checked_until_the_controller_names_them_no_more(stage: RelayStage) -> None:
    controller = await Controller.connect(stage.path)
    # Nothing listens there.
    held = [HeldOutput(name, "rtmp://127.0.0.1:1/", True) for name in ("o1", "o2")]
    controller.say(CONFIGURE)
    controller.say(msgspec.structs.replace(CONFIGURE, held=held))
    for _ in held:
        told = await controller.hear(OutputLine)
        assert (told.attempt, told.phase, told.code) == (0, "connecting", "destination_unreachable")
    # A controller that knows no checks ends them, and so does each that takes over until it names them again.
    controller.say(CONFIGURE)
    await until(lambda: stage.relay._media is not None and not stage.relay._media.reachability._checks)
    assert stage.pushes == []


async def test_another_controller_takes_over_and_the_media_does_not_notice(stage: RelayStage) -> None:
    first = await Controller.connect(stage.path, 1)
    run_id = (await first.hear(WelcomeLine)).run_id
    first.say(CONFIGURE)
    first.say(START)
    await first.hear(OutputLine, lambda line: line.phase == "publishing")
    stage.pushes[0].report("live", "", "")
    await first.hear(OutputLine, lambda line: line.phase == "live")
    stage.sources[0].say(SourceLine(phase="live", at=time.time()))
    # It dies without a word.
    first.writer.transport.abort()
    sent = len(stage.pushes[0].sent)
    second = await Controller.connect(stage.path, 2)
    welcome = await second.hear(WelcomeLine)
    assert welcome.run_id == run_id and welcome.configured and welcome.source.phase == "live"
    assert [(line.output_id, line.attempt, line.phase) for line in welcome.outputs] == [("o1", 1, "live")]
    second.say(START)
    await second.hear(OutputLine, lambda line: line.phase == "live")
    assert len(stage.pushes) == 1
    await until(lambda: len(stage.pushes[0].sent) > sent + 20)


async def test_a_controller_whose_lease_is_over_is_refused(stage: RelayStage) -> None:
    ruling = await Controller.connect(stage.path, 7)
    await ruling.hear(WelcomeLine)
    late = await Controller.connect(stage.path, 6)
    assert (await late.hear(RefusedLine)).epoch == 7
    assert await late.hung_up()
    ruling.say(StopOutputLine("x"))
    await ruling.hear(OutputLine)


async def test_a_new_hello_ends_the_connection_before_it(stage: RelayStage) -> None:
    first = await Controller.connect(stage.path, 7)
    await first.hear(WelcomeLine)
    second = await Controller.connect(stage.path, 7)
    await second.hear(WelcomeLine)
    assert await first.hung_up()
    # What the first one still says is not obeyed.
    first.say(StopLine())
    second.say(StopOutputLine("x"))
    await second.hear(OutputLine)
    assert not stage.running.done()


@pytest.mark.parametrize(
    "line",
    [b"{}\n", b"nonsense\n", b'{"type":"stop"}\n', b'{"type":"hello"}\n', b"x" * 200_000 + b"\n", b"\xff\xfe\n"],
)
async def test_who_does_not_say_hello_is_hung_up_on(stage: RelayStage, line: bytes) -> None:
    await until(stage.path.exists)
    reader, writer = await asyncio.open_unix_connection(stage.path)
    writer.write(line)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    controller = await Controller.connect(stage.path)
    await controller.hear(WelcomeLine)


async def test_a_bad_line_ends_the_talk_and_nothing_else(stage: RelayStage, capsys: pytest.CaptureFixture[str]) -> None:
    controller = await Controller.connect(stage.path)
    controller.say(CONFIGURE)
    controller.say(START)
    await controller.hear(OutputLine, lambda line: line.phase == "publishing")
    controller.writer.write(b'{"type":"start_output","key":"canary-key-71c2","attempt":"x"}\n')
    assert await controller.hung_up()
    again = await Controller.connect(stage.path, 1)
    assert (await again.hear(WelcomeLine)).outputs[0].phase == "publishing"
    captured = capsys.readouterr()
    assert "canary" not in captured.out + captured.err


async def test_an_output_before_the_configuration_fails(stage: RelayStage) -> None:
    controller = await Controller.connect(stage.path)
    controller.say(START)
    assert (await controller.hear(OutputLine)).code == "egress_unavailable"


async def test_a_second_configuration_only_renews_the_token(stage: RelayStage) -> None:
    controller = await Controller.connect(stage.path)
    controller.say(CONFIGURE)
    await controller.hear(SourceLine)
    controller.say(ConfigureLine("b1", "ws://127.0.0.1:1", "other", "host", Preset(640, 360, 60, 900)))
    await until(lambda: stage.sources[0].tokens == ["canary-token", "other"])
    assert len(stage.sources) == 1


@pytest.mark.slow
async def test_a_relay_without_a_controller_ends(tmp_path: Path) -> None:
    clock = Clock()
    stage = RelayStage(tmp_path / "b1.sock", clock)
    controller = await Controller.connect(stage.path)
    controller.say(LOOKS_OFTEN)
    controller.say(START)
    for number in range(6):
        controller.say(PingLine())
        # Answered, so the ping before it was taken.
        controller.say(StopOutputLine(f"none-{number}"))
        await controller.hear(OutputLine, lambda line, number=number: line.output_id == f"none-{number}")
        await pass_time(stage, clock, 29.9)
    assert not stage.running.done()
    await pass_time(stage, clock, 0.2)
    assert (await controller.hear(ByeLine)).reason == "abandoned"
    assert await stage.running == "abandoned"
    assert stage.pushes[0].stops == 1 and stage.sources[0].closed


async def test_a_relay_that_nobody_speaks_to_ends(tmp_path: Path) -> None:
    clock = Clock()
    stage = RelayStage(tmp_path / "b1.sock", clock)
    stage.relay.timing = RelayTiming(metrics_every=0.02)
    await until(stage.path.exists)
    await pass_time(stage, clock, 29.9)
    assert not stage.running.done()
    await pass_time(stage, clock, 0.2)
    assert await stage.running == "abandoned"


@pytest.fixture
async def on_air(tmp_path: Path) -> AsyncIterator[tuple[RelayStage, Controller, Clock]]:
    """A relay whose output is live."""
    clock = Clock()
    stage = RelayStage(tmp_path / "b1.sock", clock)
    controller = await Controller.connect(stage.path)
    controller.say(LOOKS_OFTEN)
    controller.say(START)
    await controller.hear(OutputLine, lambda line: line.phase == "publishing")
    yield stage, controller, clock
    stage.relay.end("stopped")
    await stage.running


def pushes_media(stage: RelayStage) -> bool:
    media = stage.relay._media
    return media is not None and isinstance(media.source, RoomSource) and media.source.pipeline._wanted.is_set()


async def test_a_machine_that_stood_still_goes_on_once_its_controller_is_heard(
    on_air: tuple[RelayStage, Controller, Clock],
) -> None:
    stage, controller, clock = on_air
    assert pushes_media(stage)
    clock.now += 40
    # Another machine's relay may push by now: nothing is pushed, and the connections stay.
    await until(lambda: not pushes_media(stage))
    await pass_time(stage, clock, 5)
    assert not stage.running.done() and not pushes_media(stage) and stage.pushes[0].stops == 0
    controller.say(PingLine())
    await until(lambda: pushes_media(stage))
    await pass_time(stage, clock, 20)
    assert not stage.running.done() and stage.pushes[0].stops == 0


async def test_a_machine_that_stood_still_ends_when_its_controller_is_not_heard(
    on_air: tuple[RelayStage, Controller, Clock],
) -> None:
    stage, controller, clock = on_air
    # A line from before the pause, read after it, is no sign of a controller.
    controller.say(PingLine())
    clock.now += 40
    await until(lambda: not pushes_media(stage))
    await pass_time(stage, clock, 9.5)
    assert not stage.running.done()
    await pass_time(stage, clock, 1)
    assert await stage.running == "abandoned"


async def test_a_short_pause_holds_nothing_back(on_air: tuple[RelayStage, Controller, Clock]) -> None:
    stage, _, clock = on_air
    clock.now += 20
    await pass_time(stage, clock, 9)
    assert pushes_media(stage) and not stage.running.done()


async def test_a_relay_takes_the_durations_of_its_controller_and_ignores_what_it_does_not_know(
    stage: RelayStage,
) -> None:
    controller = await Controller.connect(stage.path)
    line = {"type": "configure", **msgspec.to_builtins(CONFIGURE), "timing": {"abandoned_after": 7.5, "unheard_of": 1}}
    controller.writer.write(msgspec.json.encode(line) + b"\n")
    await controller.hear(SourceLine)
    assert stage.relay.timing == RelayTiming(abandoned_after=7.5)


async def test_a_controller_that_says_nothing_of_durations_has_the_defaults(stage: RelayStage) -> None:
    controller = await Controller.connect(stage.path)
    line = {"type": "configure", **msgspec.to_builtins(CONFIGURE)}
    line.pop("timing", None)
    controller.writer.write(msgspec.json.encode(line) + b"\n")
    await controller.hear(SourceLine)
    assert stage.relay.timing == RelayTiming()


async def test_a_controller_that_does_not_read_is_hung_up_on(stage: RelayStage) -> None:
    controller = await Controller.connect(stage.path)
    controller.say(CONFIGURE)
    await controller.hear(SourceLine)
    for _ in range(200):
        stage.sources[0].say(SourceLine(phase="live", at=time.time(), detail="x" * 20_000))
        await asyncio.sleep(0)
    with pytest.raises((AssertionError, ConnectionResetError)):
        await controller.hear(ByeLine)
    again = await Controller.connect(stage.path, 1)
    await again.hear(WelcomeLine)
    assert not stage.running.done()


async def test_a_source_that_breaks_ends_the_relay(tmp_path: Path) -> None:
    class Broken(FakeSource):
        async def run(self) -> None:
            raise RuntimeError("broken")

    relay = Relay(tmp_path / "b1.sock", "b1", make_host=Broken)
    running = asyncio.create_task(relay.run())
    controller = await Controller.connect(tmp_path / "b1.sock")
    controller.say(CONFIGURE)
    assert (await controller.hear(ByeLine)).reason == "crashed"
    assert await running == "crashed"


@pytest.mark.parametrize(("reason", "code"), [("crashed", "egress_crashed"), ("stopped", "egress_lost")])
async def test_an_end_that_nobody_asked_for_is_no_stop(stage: RelayStage, reason: str, code: str) -> None:
    controller = await Controller.connect(stage.path)
    controller.say(CONFIGURE)
    controller.say(START)
    await controller.hear(OutputLine, lambda line: line.phase == "publishing")
    stage.relay.end(reason)
    assert (await controller.hear(OutputLine, lambda line: line.phase == "failed")).code == code
    assert (await controller.hear(ByeLine)).reason == reason
