"""What the reconciler needs of an engine. `relay` is one; each has the same suite of tests to pass.

An engine carries one broadcast's outputs, makes one attempt when told to, and says how it fares. It never retries by
itself. Orders do not wait and do not fail: what became of them comes as a report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from uuid import UUID

from butai.live.reconcile.reports import Heard
from butai.live.reconcile.rows import BroadcastRow

Hear = Callable[[Heard], None]
"""Gets every report, in the engine's order."""


class EngineUnavailable(Exception):
    """No engine could be started. The text is for operators and holds no secret."""


class EngineFenced(Exception):
    """The engine obeys a controller of a higher epoch: this one's lease is over."""


class Engine(Protocol):
    """A running engine that obeys us."""

    @property
    def ref(self) -> str:
        """Another one for each engine that ever ran."""
        ...

    def follow(self, hear: Hear, lost: Callable[[], None]) -> None:
        """From now on every report goes to `hear`; first, before this returns, where everything stands. `EngineGone` is
        the last one. `lost`: called once when the connection broke while the engine may still run: find it again."""
        ...

    def configure(self, broadcast: BroadcastRow) -> None:
        """What to carry."""
        ...

    def start_output(self, output_id: UUID, attempt: int, url: str, sealed_key: bytes) -> None:
        """Begin an attempt, after the end of an older one. `url`: without the key."""
        ...

    def stop_output(self, output_id: UUID) -> None:
        """End an output's push. Answered by a report of `ended`, also when there was none."""
        ...

    def stop(self) -> None:
        """End everything. Answered by `EngineGone`."""
        ...

    def kill(self) -> None:
        """End it without asking. Answered by `EngineGone`."""
        ...

    def leave(self) -> None:
        """Let it run for the next controller. Nothing is heard any more."""
        ...


class Egress(Protocol):
    """Engines of one kind on this host."""

    @property
    def name(self) -> str:
        """As in `broadcasts.egress`."""
        ...

    @property
    def host(self) -> str:
        """Where its engines run: only a controller with the same can find them."""
        ...

    async def begin(self) -> None:
        """Called once, before all others. Raises `DatabaseUnavailable`."""
        ...

    async def find(self, broadcast_id: UUID, epoch: int) -> Engine | None:
        """The engine that runs already, now ours. None: nothing of this broadcast is carried by any engine of this host.
        Raises `EngineFenced`."""
        ...

    async def start(self, broadcast_id: UUID, epoch: int) -> Engine:
        """A new engine, or the one that came up meanwhile. Cancelled, it leaves nothing behind.
        Raises `EngineUnavailable`, `EngineFenced`."""
        ...

    def may_feed(self, allowed: bool) -> None:
        """Whether engines may be told that their controller lives. Not allowed, they end by themselves after a while."""
        ...

    async def close(self) -> None:
        """Leaves all engines running."""
        ...
