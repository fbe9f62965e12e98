"""Outputs of one broadcast do not affect each other. The publisher is a stand-in that the tests command."""

from __future__ import annotations

import asyncio
import time

from butai.errors import Code
from butai.relay.messages import OutputLine, StartOutputLine
from butai.relay.outputs import Outputs, Report
from butai.relay.packets import Packet, VideoFormat
from butai.relay.rtmp.publisher import PublishError
from tests.relay_stage import FakePush, until

VIDEO = VideoFormat(320, 180, 30, 500, b"avcc")
KEY = Packet("video", b"k" * 100, 0, 0, True, VIDEO)


class Stage:
    """Outputs with all that they say."""

    def __init__(self, stop_limit: float = 60.0) -> None:
        self.said: list[OutputLine] = []
        self.pushes: list[FakePush] = []
        self.wanted: list[bool] = []
        self.keyframes = 0
        self.kept: tuple[Packet, ...] = ()
        self.outputs = Outputs(
            self.said.append,
            wanted=self.wanted.append,
            begin=self._keyframe,
            make=self._make,
            stop_limit=stop_limit,
        )

    def _make(self, order: StartOutputLine, report: Report) -> FakePush:
        self.pushes.append(FakePush(order, report))
        return self.pushes[-1]

    def _keyframe(self) -> tuple[Packet, ...]:
        self.keyframes += 1
        return self.kept

    def phases(self, output_id: str) -> list[str]:
        return [line.phase for line in self.said if line.output_id == output_id]


def order(output_id: str = "o1", attempt: int = 1) -> StartOutputLine:
    return StartOutputLine(output_id, attempt, "rtmp://127.0.0.1/app", "canary-key-71c2")


async def test_a_start_and_a_stop() -> None:
    stage = Stage()
    await stage.outputs.start(order())
    await until(lambda: stage.phases("o1") == ["connecting", "publishing"])
    assert stage.keyframes == 1 and stage.wanted[-1] is True
    stage.pushes[0].report("live", "", "")
    await stage.outputs.stop("o1")
    assert stage.phases("o1") == ["connecting", "publishing", "live", "ended"]
    assert stage.wanted[-1] is False
    assert all(line.attempt == 1 for line in stage.said)


async def test_an_output_begins_with_what_its_source_has_kept() -> None:
    stage = Stage()
    stage.kept = (KEY, KEY)
    await stage.outputs.start(order())
    await until(lambda: stage.phases("o1") == ["connecting", "publishing"])
    stage.outputs.send([KEY])
    assert stage.pushes[0].sent == [KEY, KEY, KEY]


async def test_a_failure_says_why_and_touches_no_other() -> None:
    stage = Stage()
    await stage.outputs.start(order("bad"))
    await stage.outputs.start(order("good"))
    await until(lambda: "publishing" in stage.phases("good"))
    stage.pushes[0].break_off(
        PublishError(Code.KEY_REJECTED, "NetStream.Publish.BadName", if_key_worked=Code.ALREADY_PUBLISHING)
    )
    await until(lambda: "failed" in stage.phases("bad"))
    failed = stage.said[-1]
    assert (failed.phase, failed.code, failed.detail) == ("failed", "key_rejected", "NetStream.Publish.BadName")
    assert failed.if_key_worked == "already_publishing"
    stage.outputs.send([KEY])
    assert stage.pushes[0].sent == [] and stage.pushes[1].sent == [KEY]
    assert stage.wanted[-1] is True
    await stage.outputs.close()


async def test_an_unknown_error_does_not_tell_the_key() -> None:
    stage = Stage()
    await stage.outputs.start(order())
    await until(lambda: "publishing" in stage.phases("o1"))
    stage.pushes[0].break_off(RuntimeError("rtmp://127.0.0.1/app/canary-key-71c2"))
    await until(lambda: "failed" in stage.phases("o1"))
    assert stage.said[-1].code == "egress_crashed"
    assert "canary" not in repr(stage.said)


async def test_the_same_attempt_again_begins_nothing() -> None:
    stage = Stage()
    await stage.outputs.start(order())
    await stage.outputs.start(order())
    assert len(stage.pushes) == 1
    await until(lambda: "publishing" in stage.phases("o1"))
    stage.pushes[0].break_off(PublishError(Code.DESTINATION_CLOSED, ""))
    await until(lambda: "failed" in stage.phases("o1"))
    await stage.outputs.start(order())
    assert len(stage.pushes) == 1
    assert stage.said[-1].phase == "failed" and stage.said[-1].code == "destination_closed"


async def test_a_newer_attempt_ends_the_older_first() -> None:
    stage = Stage()
    await stage.outputs.start(order(attempt=1))
    await stage.outputs.start(order(attempt=3))
    assert [push.order.attempt for push in stage.pushes] == [1, 3]
    said = [(line.attempt, line.phase) for line in stage.said]
    assert said.index((1, "ended")) < said.index((3, "connecting"))
    # One that comes late changes nothing.
    await stage.outputs.start(order(attempt=2))
    assert len(stage.pushes) == 2 and stage.said[-1].attempt == 3
    await stage.outputs.close()


async def test_what_an_older_attempt_says_after_its_end_is_not_heard() -> None:
    stage = Stage()
    await stage.outputs.start(order(attempt=1))
    await stage.outputs.start(order(attempt=2))
    before = len(stage.said)
    stage.pushes[0].report("live", "", "")
    assert len(stage.said) == before
    await stage.outputs.close()


async def test_stop_is_answered_whatever_there_is() -> None:
    stage = Stage()
    await stage.outputs.stop("never")
    assert (stage.said[-1].output_id, stage.said[-1].phase) == ("never", "ended")
    await stage.outputs.start(order())
    await until(lambda: "publishing" in stage.phases("o1"))
    stage.pushes[0].break_off(PublishError(Code.DESTINATION_CLOSED, ""))
    await until(lambda: "failed" in stage.phases("o1"))
    await stage.outputs.stop("o1")
    await stage.outputs.stop("o1")
    assert stage.phases("o1").count("ended") >= 1 and stage.said[-1].phase == "ended"


async def test_a_publisher_that_does_not_stop_is_cut_off() -> None:
    stage = Stage(stop_limit=0.2)
    await stage.outputs.start(order())
    await until(lambda: "publishing" in stage.phases("o1"))
    stage.pushes[0].deaf = True
    stopping = asyncio.create_task(stage.outputs.stop("o1"))
    await until(lambda: stage.pushes[0].stops == 1)
    assert not stage.pushes[0].cut_off and not stopping.done()
    await stopping
    assert stage.pushes[0].cut_off and stage.said[-1].phase == "ended"


async def test_one_that_is_slow_to_stop_holds_up_no_other() -> None:
    stage = Stage()
    await stage.outputs.start(order("slow"))
    await until(lambda: "publishing" in stage.phases("slow"))
    stage.pushes[0].deaf = True
    stopping = asyncio.create_task(stage.outputs.stop("slow"))
    await until(lambda: stage.pushes[0].stops == 1)
    await stage.outputs.start(order("quick"))
    await until(lambda: "publishing" in stage.phases("quick"))
    assert not stopping.done()
    stage.pushes[0].obey()
    await stopping
    assert not stage.pushes[0].cut_off
    await stage.outputs.close()


async def test_metrics_are_of_the_time_between_two_looks() -> None:
    stage = Stage()
    await stage.outputs.start(order())
    now = time.monotonic()
    stage.outputs.metrics(now)
    stats = stage.pushes[0].stats
    stats.bytes_sent, stats.bytes_acked, stats.frames_sent = 250_000, 200_000, 30
    found = stage.outputs.metrics(now + 1)
    assert (found[0].bitrate_kbps, found[0].fps, found[0].bytes_sent, found[0].bytes_acked) == (
        2000,
        30,
        250_000,
        200_000,
    )
    again = stage.outputs.metrics(now + 2)
    assert (again[0].bitrate_kbps, again[0].fps, again[0].bytes_sent) == (0, 0, 250_000)
    await stage.outputs.stop("o1")
    assert stage.outputs.metrics(now + 3) == []
