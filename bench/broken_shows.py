"""Broadcasts for `faults`: a host, platforms, a fault at a time, and what the status said of it.

A round's figures are by the name of the fault: `seconds` from what was done to the status that says so, and what `truth`
found of the time from that fault to the next one.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from harness import Figures
from truth import Truth

from tests.e2e.show import Show
from tests.e2e.stage import Stage
from tests.platforms import Platform
from tests.waiting import eventually

EVERY = 0.02
"""Seconds between two looks at the status."""


@dataclass(frozen=True)
class Place:
    """Where an output goes: its platform as destinations name it, its address, and its bytes by the stream key."""

    platform: str
    url: str
    count: Callable[[str], int]


def at_nginx(nginx: Platform, platform: str = "custom", url: str = "") -> Place:
    """`url`: another address than the platform's own."""
    return Place(platform, url or nginx.url, nginx.bytes_in)


@dataclass
class Broadcast:
    """One that is measured. `ids`, `keys`: of the destinations, by label."""

    show: Show
    ids: list[str]
    keys: dict[str, str]
    truth: Truth
    found: dict[str, Figures] = field(default_factory=dict)

    async def after(
        self,
        name: str,
        act: Callable[[], object],
        condition: Callable[[], bool],
        patience: float,
        *,
        ends: bool = False,
    ) -> float:
        """Measures from just before `act` to the answer in which the condition holds. Raises `AssertionError` when it does
        not come. `ends`: as of `Truth.fault`."""
        self.truth.fault(name, ends=ends)
        began = time.time()
        acting = act()
        if asyncio.iscoroutine(acting):
            await acting
        seconds = await self.show.until(condition, patience) - began
        self.found[name] = {"seconds": seconds}
        return seconds

    async def stop(self) -> None:
        """Asks for the end of the broadcast."""
        await self.show.call("POST", "/api/live/stop", {"session_id": self.show.session})

    async def healed(self, label: str) -> float:
        """Seconds from the time that the status announced for the next attempt to live."""
        show = self.show
        await show.until(lambda: bool(show.now.outputs[label].get("next_attempt_at")) or states(show) == {"live"}, 10)
        planned = show.now.outputs[label].get("next_attempt_at")
        live = await show.until_live(label)
        await eventually(lambda: show.state(label) == "live", 1)
        return live - datetime.fromisoformat(planned).timestamp() if planned else 0.0


@asynccontextmanager
async def prepared(
    stage: Stage, into: dict[str, Figures], places: Mapping[str, Place], *, host: bool = True
) -> AsyncGenerator[Broadcast]:
    """A destination for each of `places`, by label, and a host who publishes. Adds the figures to `into` at the end."""
    async with Show(stage, every=EVERY) as show:
        keys = {label: f"{label}{uuid.uuid4().hex[:12]}" for label in places}
        ids = [
            await show.destination(place.platform, place.url, keys[label], label=label)
            for label, place in places.items()
        ]
        if host:
            await show.host_on()
        counts = {label: _counting(place, keys[label]) for label, place in places.items()}
        broadcast = Broadcast(show, ids, keys, Truth(show, counts))
        with broadcast.truth.watching():
            yield broadcast
        for name, figures in broadcast.truth.figures().items():
            into.setdefault(name, {}).update(broadcast.found.get(name, {}) | figures)


def _counting(place: Place, key: str) -> Callable[[], int]:
    return lambda: place.count(key)


async def done(act: Callable[..., object], *given: object) -> None:
    """Calls `act` as a coroutine."""
    act(*given)


def states(show: Show) -> set[str]:
    """The states of all outputs."""
    return {output["state"] for output in show.now.outputs.values()} if show.seen else set()
