"""Writes the changes of a plan: locked rows, lease check, state table check, event rows, one transaction.

The only writer of the states of broadcasts and outputs. The wishes of hosts have columns of their own (`wanted`,
`retry_asked_at`), and are written under the same locks: first the broadcast's row, then its outputs' by id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from butai.audit import Origin
from butai.live import audit
from butai.live.models import Broadcast, LiveEvent, Output
from butai.live.reconcile.commands import (
    BroadcastEnded,
    EndBegun,
    EngineHurried,
    EngineLost,
    EngineStarted,
    ForgetRetry,
    Move,
    SourceChanged,
    Write,
)
from butai.live.reconcile.rows import BroadcastRow, OutputRow
from butai.live.states import OutputState, next_state

ACTOR = "controller"
"""The actor of events and audit entries without a host."""

_TIMES = {
    column.name for model in (Broadcast, Output) for column in model.__table__.columns if column.name.endswith("_at")
} | {
    "state_since",
    "source_since",
    "live_since",
    "budget_from",
}


class LeaseLost(Exception):
    """This controller does not hold the broadcast any more."""


class RowsChanged(Exception):
    """The rows are not as the plan saw them: read them again, and plan again."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one controller to one broadcast. `epoch` rises with each holder, so that older holders are refused."""

    broadcast_id: UUID
    holder: str
    epoch: int


async def read(session: AsyncSession, lease: Lease) -> BroadcastRow:
    """Reads a broadcast with its outputs. Raises `LeaseLost`."""
    broadcast = await session.get(Broadcast, lease.broadcast_id)
    if broadcast is None or not _holds(broadcast, lease):
        raise LeaseLost
    statement = select(Output).where(Output.broadcast_id == lease.broadcast_id).order_by(Output.id)
    return _as_row(broadcast, (await session.scalars(statement)).all())


async def write(session: AsyncSession, lease: Lease, writes: Iterable[Write]) -> BroadcastRow:
    """Applies all of `writes` or none, and returns the rows after them.

    Raises `LeaseLost`, `RowsChanged`, and `IllegalOutputTransition` for a move that the table of states does not have.
    """
    # NO KEY UPDATE: a transaction that adds an output only needs this row to stay.
    broadcast = await session.get(Broadcast, lease.broadcast_id, with_for_update={"key_share": True})
    if broadcast is None or not _holds(broadcast, lease):
        raise LeaseLost
    statement = select(Output).where(Output.broadcast_id == lease.broadcast_id).order_by(Output.id)
    outputs = (await session.scalars(statement.with_for_update(key_share=True))).all()
    by_id = {output.id: output for output in outputs}
    if broadcast.ended_at is not None:
        raise RowsChanged
    for one in writes:
        if isinstance(one, Move | ForgetRetry):
            if one.output_id not in by_id:
                raise RowsChanged
            _change_output(session, broadcast, by_id[one.output_id], one)
        else:
            _change_broadcast(session, broadcast, outputs, one)
        # One by one, so that events are numbered in this order.
        await session.flush()
    return _as_row(broadcast, outputs)


def _holds(broadcast: Broadcast, lease: Lease) -> bool:
    if broadcast.ended_at is not None:
        # The holder gave the lease back with its last write.
        return broadcast.lease_epoch == lease.epoch
    return (broadcast.lease_holder, broadcast.lease_epoch) == (lease.holder, lease.epoch)


def _change_output(session: AsyncSession, broadcast: Broadcast, output: Output, one: Move | ForgetRetry) -> None:
    if isinstance(one, ForgetRetry):
        if _seconds(output.retry_asked_at) == one.asked_at:
            output.retry_asked_at = None
        return
    state = OutputState(output.state)
    if (state, output.attempt) != (one.before, one.attempt):
        raise RowsChanged
    if next_state(state, one.event) is not one.changes["state"]:
        raise AssertionError(f"{one.event} planned to {one.changes['state']}")
    for name, value in one.changes.items():
        setattr(output, name, _datetime(value) if name in _TIMES else value)
    next_at, cause = one.changes.get("next_attempt_at"), one.changes.get("error_cause")
    detail: dict[str, Any] = {}
    if next_at is not None:
        detail["next_attempt_at"] = _datetime(next_at).isoformat()
    if cause is not None:
        detail["cause"] = str(cause)
    _record_event(
        session,
        broadcast,
        f"output.{one.event}",
        one.at,
        output_id=output.id,
        platform=output.platform,
        from_state=str(one.before),
        to_state=str(one.changes["state"]),
        attempt=output.attempt,
        code=one.code,
        detail=detail,
    )


def _change_broadcast(session: AsyncSession, broadcast: Broadcast, outputs: Iterable[Output], one: Write) -> None:
    match one:
        case EngineStarted():
            broadcast.engine_ref, broadcast.engine_host = one.ref, one.host
            broadcast.engine_seen_at, broadcast.engine_next_at = _datetime(one.at), None
            _record_event(session, broadcast, "engine.started", one.at)
        case EngineLost():
            broadcast.engine_ref = None
            broadcast.engine_failures = one.failures
            broadcast.engine_next_at = None if one.next_at is None else _datetime(one.next_at)
            _record_event(session, broadcast, "engine.lost" if one.code else "engine.ended", one.at, code=one.code)
        case EngineHurried():
            broadcast.engine_next_at = None
        case SourceChanged():
            broadcast.source_phase, broadcast.source_code = one.phase, one.code
            broadcast.source_since = _datetime(one.at)
            _record_event(session, broadcast, f"source.{one.phase}", one.at, code=one.code)
        case EndBegun():
            broadcast.wanted, broadcast.end_code = "off_air", one.code
            broadcast.stop_asked_at = _datetime(one.at)
            _record_event(session, broadcast, "broadcast.ending", one.at, code=one.code)
            _audit_end(session, broadcast, outputs, one.code)
        case BroadcastEnded():
            if broadcast.wanted == "on_air":
                # The host took its last output off; no request asked for the end of the broadcast itself.
                _audit_end(session, broadcast, outputs, one.code)
            broadcast.wanted, broadcast.ended_at = "off_air", _datetime(one.at)
            broadcast.lease_holder = broadcast.lease_until = None
            _record_event(session, broadcast, "broadcast.ended", one.at, code=one.code)
        case Move() | ForgetRetry():
            raise AssertionError("a write to an output")


def _record_event(session: AsyncSession, broadcast: Broadcast, event: str, at: float, **more: Any) -> None:
    session.add(
        LiveEvent(
            at=_datetime(at), room_id=broadcast.room_id, broadcast_id=broadcast.id, event=event, actor=ACTOR, **more
        )
    )


def _audit_end(session: AsyncSession, broadcast: Broadcast, outputs: Iterable[Output], code: str | None) -> None:
    audit.record(
        session,
        Origin(ACTOR),
        "live.end",
        broadcast.room_id,
        session_id=broadcast.id,
        platforms=sorted({output.platform for output in outputs}),
        error_code=code,
    )


_BROADCAST_COLUMNS = [one.name for one in fields(BroadcastRow) if one.name != "outputs"]
_OUTPUT_COLUMNS = [one.name for one in fields(OutputRow)]


def _as_row(broadcast: Broadcast, outputs: Iterable[Output]) -> BroadcastRow:
    return BroadcastRow(
        **{name: _from_column(name, getattr(broadcast, name)) for name in _BROADCAST_COLUMNS},
        outputs=tuple(
            OutputRow(**{name: _from_column(name, getattr(output, name)) for name in _OUTPUT_COLUMNS})
            for output in outputs
        ),
    )


def _from_column(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    return OutputState(value) if name == "state" else value


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _datetime(seconds: float | None) -> Any:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
