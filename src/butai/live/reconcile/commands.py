"""What a plan asks for: rows to write, then orders to the engine.

Pure values. All writes of one plan go into one transaction; orders follow its commit, so the engine is never told what
the tables do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from butai.live.states import OutputState, OutputTrigger

# To write


@dataclass(frozen=True, slots=True)
class Move:
    """An output's event. `changes`: the columns' new values, `state` among them; `before` and `attempt` are what they were,
    and must still be."""

    output_id: UUID
    event: OutputTrigger
    before: OutputState
    attempt: int
    at: float
    changes: Mapping[str, Any]
    code: str | None = None


@dataclass(frozen=True, slots=True)
class ForgetRetry:
    """A host's "now" that came when there was nothing to hurry."""

    output_id: UUID
    asked_at: float


@dataclass(frozen=True, slots=True)
class EngineStarted:
    """An engine runs and is ours."""

    ref: str
    host: str
    at: float


@dataclass(frozen=True, slots=True)
class EngineLost:
    """It is gone, or did not start. `next_at`: not to be started again before."""

    code: str | None
    detail: str
    failures: int
    next_at: float | None
    at: float


@dataclass(frozen=True, slots=True)
class EngineHurried:
    """A host's "now": no waiting for the next start."""

    at: float


@dataclass(frozen=True, slots=True)
class SourceChanged:
    """The host's media."""

    phase: str
    code: str | None
    at: float


@dataclass(frozen=True, slots=True)
class EndBegun:
    """The broadcast goes off the air by itself, for `code`."""

    code: str
    at: float


@dataclass(frozen=True, slots=True)
class BroadcastEnded:
    """It is over."""

    code: str | None
    at: float


Write = Move | ForgetRetry | EngineStarted | EngineLost | EngineHurried | SourceChanged | EndBegun | BroadcastEnded

# To order


@dataclass(frozen=True, slots=True)
class StartEngine:
    """There is none."""


@dataclass(frozen=True, slots=True)
class Configure:
    """Tell it what to carry."""


@dataclass(frozen=True, slots=True)
class StartOutput:
    """Begin an attempt. `url`: without the key."""

    output_id: UUID
    attempt: int
    url: str
    sealed_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StopOutput:
    """End what is carried for an output."""

    output_id: UUID


@dataclass(frozen=True, slots=True)
class StopEngine:
    """End all in good order."""


@dataclass(frozen=True, slots=True)
class KillEngine:
    """It does not answer."""


Order = StartEngine | Configure | StartOutput | StopOutput | StopEngine | KillEngine


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to look again if nothing happens before."""

    writes: tuple[Write, ...] = ()
    orders: tuple[Order, ...] = ()
    wake_at: float | None = None

    @property
    def actions(self) -> list[Write | Order]:
        """All, in their order."""
        return [*self.writes, *self.orders]
