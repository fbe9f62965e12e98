"""What a relay's packets come from. Outputs are the same whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from butai.relay.messages import ConfigureLine, SourceDetails, SourceLine
from butai.relay.packets import Packet


class SourceLoad(NamedTuple):
    """What a source's encoder did not manage. `late`: the most seconds by which a picture was late since the last time;
    `skipped`: all pictures that were left out. Both are 0 where nothing is encoded."""

    late: float
    skipped: int


class MediaSource(Protocol):
    """One source: `run` in a task, then `close`. It delivers packets in the event loop, in the order of each kind's times, and
    reports each change of its phase."""

    @property
    def line(self) -> SourceLine:
        """The last report."""
        ...

    @property
    def pictures(self) -> int:
        """The number of pictures received."""
        ...

    def configure_again(self, configure: ConfigureLine) -> None:
        """Takes what a second configuration may change."""
        ...

    def want(self, wanted: bool) -> None:  # noqa: FBT001 - its one subject
        """Sets whether packets are wanted. None are delivered while they are not."""
        ...

    def begin_output(self) -> Sequence[Packet]:
        """Packets that a new output begins with, the key frame first. None where it has to wait for the next key frame, which
        is then asked for where that is possible."""
        ...

    def take_load(self) -> SourceLoad:
        """The load since the last call."""
        ...

    def details(self) -> SourceDetails | None:
        """What is sent now; None where nothing is connected."""
        ...

    async def run(self) -> None:
        """Runs until the source has `ended` or `failed`."""
        ...

    async def close(self) -> None:
        """Closes all that it holds, after `run` has ended or was cancelled."""
        ...
