"""The port between the reconciler and an engine. Every engine passes the same contract suite.

An engine carries the outputs of one broadcast. It makes one attempt when ordered to, reports the attempt's phases, and
never retries by itself. Orders return at once and never fail: their result comes as a report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from butai.live.reconcile.capacity import EngineLoad
from butai.live.reconcile.reports import EngineReport
from butai.live.reconcile.rows import BroadcastRow

OnReport = Callable[[EngineReport], None]
"""Receives every report, in the engine's order."""


class EngineUnavailable(Exception):
    """No engine could be started. The text is for operators and holds no secret."""


class EngineFenced(Exception):
    """The engine obeys a controller with a higher epoch, so this controller's lease is over."""


class Engine(Protocol):
    """A running engine that obeys this controller."""

    @property
    def ref(self) -> str:
        """The engine's identity, unique among all engines that ever ran."""
        ...

    def follow(self, on_report: OnReport, on_disconnect: Callable[[], None]) -> None:
        """Sends every report to `on_report`, beginning with the present state of each output; `EngineGone` is the last.

        `on_disconnect` is called once if the connection breaks while the engine may still run: call `Egress.find` again
        then."""
        ...

    def configure(self, broadcast: BroadcastRow) -> None:
        """Sends the engine its broadcast and settings."""
        ...

    def check_destinations(self, outputs: Sequence[tuple[UUID, str]]) -> None:
        """Checks again and again whether the servers of these outputs can be reached, unseen by them, and of no others.
        Each is the id and the ingest URL of an output that waits. Answered by a `CheckReport` at first and with each
        change, by an engine that can tell."""
        ...

    def start_output(
        self, output_id: UUID, attempt: int, url: str, sealed_key: bytes, *, hurried: bool = False
    ) -> None:
        """Begins an attempt, after ending an older one. `url`: the ingest URL as it is stored. `hurried`: the platform
        keeps its viewers for a short time only, so it is not waited for as long as encoders wait."""
        ...

    def stop_output(self, output_id: UUID) -> None:
        """Ends an output's push. Answered by a report of `ended`, also if nothing was pushed."""
        ...

    def stop(self) -> None:
        """Ends all pushes and the engine. Answered by `EngineGone`."""
        ...

    def kill(self) -> None:
        """Ends the engine by force. Answered by `EngineGone`."""
        ...

    def detach(self) -> None:
        """Leaves the engine running for the next controller. No report comes afterwards."""
        ...


class Egress(Protocol):
    """All engines of one kind on this host."""

    @property
    def name(self) -> str:
        """The kind, as in `broadcasts.egress`."""
        ...

    @property
    def host(self) -> str:
        """The place where its engines run. Only controllers with an equal value can find them."""
        ...

    @property
    def costs(self) -> Mapping[str, float]:
        """The cores of this host that a broadcast takes, by preset, as measured once on another machine."""
        ...

    def loads(self) -> Sequence[EngineLoad]:
        """The newest load of each running engine; empty where engines take nothing of this host."""
        ...

    async def open(self) -> None:
        """Prepares the egress: called once, before all others; again after an error. Raises `DatabaseUnavailable`."""
        ...

    async def find(self, broadcast_id: UUID, epoch: int) -> Engine | None:
        """Adopts a running engine. None: no engine of this host carries any output of this broadcast.

        Raises `EngineFenced`.
        """
        ...

    async def start(self, broadcast_id: UUID, epoch: int) -> Engine:
        """Starts an engine, or adopts one that started meanwhile. Leaves nothing behind when cancelled.

        Raises `EngineUnavailable`, `EngineFenced`.
        """
        ...

    def expect_start(self) -> None:
        """Prepares for a start that may be ordered within minutes. Nothing depends on it but how long the start takes."""
        ...

    def allow_keepalive(self, *, allowed: bool) -> None:
        """Allows or forbids keep-alives to engines. Without them engines end by themselves after a while."""
        ...

    async def close(self) -> None:
        """Detaches from all engines, which continue to run."""
        ...
