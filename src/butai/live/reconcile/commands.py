"""The result of a plan: writes to the rows, then orders to the engine. Pure values.

All writes of one plan go into one transaction, and orders are given after its commit, so an engine never carries an
output that the tables do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from butai.live.states import OutputState, OutputTrigger

# Writes. Times are seconds since 1970 by Postgres's clock.


@dataclass(frozen=True, slots=True)
class Move:
    """Applies an event to one output.

    `changes`: new values by column name, `state` among them. `before` and `attempt`: the state and attempt that the
    plan saw; the write fails on a row that has others by now.
    """

    output_id: UUID
    event: OutputTrigger
    before: OutputState
    attempt: int
    at: float
    changes: Mapping[str, Any]
    code: str | None = None


@dataclass(frozen=True, slots=True)
class ForgetRetry:
    """Clears a host's wish to retry now, where no attempt can be hurried. A later wish (another `asked_at`) is kept."""

    output_id: UUID
    asked_at: float


@dataclass(frozen=True, slots=True)
class EngineStarted:
    """An engine runs and obeys this controller. `ref`: its identity; `host`: the machine that it runs on."""

    ref: str
    host: str
    at: float


@dataclass(frozen=True, slots=True)
class EngineLost:
    """The engine has ended, or did not start.

    `code`: the reason; None for an end that was ordered. `failures`: consecutive ones. `next_at`: the earliest time of
    the next start.
    """

    code: str | None
    detail: str
    failures: int
    next_at: float | None
    at: float


@dataclass(frozen=True, slots=True)
class EngineHurried:
    """The next start of an engine no longer waits, since a host asked to retry now."""

    at: float


@dataclass(frozen=True, slots=True)
class SourceChanged:
    """The host's media are in another phase (`reports.SourcePhase`). `code`: what is wrong with them, or why they ended or
    failed. `ready`: whether the engine has what outputs may wait for."""

    phase: str
    code: str | None
    at: float
    ready: bool = False


@dataclass(frozen=True, slots=True)
class EndBegun:
    """The broadcast is taken off the air for the reason `code`, not by its host."""

    code: str
    at: float


@dataclass(frozen=True, slots=True)
class BroadcastEnded:
    """The broadcast is over. `code`: the reason, where its host did not request it."""

    code: str | None
    at: float


Write = Move | ForgetRetry | EngineStarted | EngineLost | EngineHurried | SourceChanged | EndBegun | BroadcastEnded

# Orders


@dataclass(frozen=True, slots=True)
class StartEngine:
    """Start an engine: none is running."""


@dataclass(frozen=True, slots=True)
class Configure:
    """Send the engine its broadcast and settings."""


@dataclass(frozen=True, slots=True)
class CheckDestinations:
    """Check, again and again, whether the servers of these outputs can be reached, and of no others. `outputs`: an output's
    id and ingest URL; they wait for the first picture."""

    outputs: tuple[tuple[UUID, str], ...]


@dataclass(frozen=True, slots=True)
class StartOutput:
    """Begin an attempt of an output, with the ingest URL and the key that its row has after the writes."""

    output_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class StopOutput:
    """End the push of an output."""

    output_id: UUID


@dataclass(frozen=True, slots=True)
class StopEngine:
    """End all pushes in order, then the engine."""


@dataclass(frozen=True, slots=True)
class KillEngine:
    """End an engine that did not obey `StopEngine` in time."""


Order = StartEngine | Configure | CheckDestinations | StartOutput | StopOutput | StopEngine | KillEngine


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. `wake_at`: when to plan again if nothing happens before; None for no timer."""

    writes: tuple[Write, ...] = ()
    orders: tuple[Order, ...] = ()
    wake_at: float | None = None

    @property
    def actions(self) -> list[Write | Order]:
        """All writes, then all orders."""
        return [*self.writes, *self.orders]
