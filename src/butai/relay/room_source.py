"""A LiveKit room as a source: the host's tracks, decoded, put together and encoded once for all outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from butai.relay.messages import ConfigureLine, SourceDetails, SourceLine
from butai.relay.mixer import Mixer
from butai.relay.packets import Packet
from butai.relay.picture import Screen
from butai.relay.pipeline import Pipeline
from butai.relay.sources import SourceLoad
from butai.relay.timing import RelayTiming


class Host(Protocol):
    """The media of the host: `HostSource`, or a test's replacement."""

    line: SourceLine

    @property
    def pictures(self) -> int:
        """The number of frames received."""
        ...

    def renew_token(self, token: str, spare: str = "") -> None:
        """Sets the tokens of the next joins."""
        ...

    async def run(self) -> None:
        """Runs until the host's media have ended."""
        ...

    async def close(self) -> None:
        """Leaves the room."""
        ...


MakeHost = Callable[[ConfigureLine, Screen, Mixer, Callable[[SourceLine], None]], Host]


class RoomSource:
    """The media of a room. Nothing is encoded while no packets are wanted."""

    def __init__(
        self,
        configure: ConfigureLine,
        report: Callable[[SourceLine], None],
        deliver: Callable[[list[Packet]], None],
        failed: Callable[[str], None],
        make_host: MakeHost,
    ) -> None:
        """`failed`: called with a reason if an encoder fails; no packets come afterwards."""
        preset = configure.preset
        screen, mixer = Screen(preset.width, preset.height), Mixer(preset.audio_rate)
        self._timing: RelayTiming = configure.timing
        self.pipeline = Pipeline(preset, screen, mixer, asyncio.get_running_loop(), deliver, failed)
        self._host = make_host(configure, screen, mixer, report)

    @property
    def line(self) -> SourceLine:
        """The last report."""
        return self._host.line

    @property
    def pictures(self) -> int:
        """Frames received from the room."""
        return self._host.pictures

    def configure_again(self, configure: ConfigureLine) -> None:
        """Takes newer tokens."""
        self._host.renew_token(configure.token, configure.spare_token)

    def want(self, wanted: bool) -> None:  # noqa: FBT001 - its one subject
        """Sets whether packets are wanted."""
        self.pipeline.want(wanted)

    def begin_output(self) -> tuple[Packet, ...]:
        """Makes the next picture a key frame, with which the output begins."""
        self.pipeline.force_keyframe()
        return ()

    def take_load(self) -> SourceLoad:
        """Lateness since the last call, and all pictures that were skipped."""
        return SourceLoad(self.pipeline.take_lateness(), self.pipeline.skipped)

    def details(self) -> SourceDetails:
        """The kind of this source alone: what comes is decoded."""
        return SourceDetails("room")

    async def run(self) -> None:
        """Runs until the host's media have ended; the last picture and silence are delivered until `close`."""
        self.pipeline.start()
        await self._host.run()

    async def close(self) -> None:
        """Ends the encoder's thread, and leaves the room."""
        self.pipeline.stop(self._timing.pipeline_stop_limit)
        await self._host.close()
