"""Writes the changes of a plan: locked rows, lease check, state table check, event rows, in one transaction.

The only writer of the states of broadcasts and outputs. The wishes of hosts have columns of their own (`wanted`,
`retry_asked_at`), and are written under the same locks: first the broadcast's row, then its outputs' by id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from butai.audit import Origin, actors
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
from butai.live.reconcile.fold import after
from butai.live.reconcile.newest import saved_urls, take_newest
from butai.live.reconcile.rows import BroadcastRow, OutputRow
from butai.live.states import OutputState, OutputTrigger

_TIMES = {
    column.name for model in (Broadcast, Output) for column in model.__table__.columns if column.name.endswith("_at")
} | {
    "state_since",
    "source_since",
    "live_since",
    "budget_from",
}


class LeaseLost(Exception):
    """The controller does not hold the broadcast any more."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one controller to one broadcast. `epoch` rises with each holder, so that older holders are
    refused."""

    broadcast_id: UUID
    holder: str
    epoch: int


async def read(session: AsyncSession, lease: Lease) -> BroadcastRow:
    """Reads a broadcast with its outputs. Raises `LeaseLost`."""
    broadcast = await session.get(Broadcast, lease.broadcast_id)
    if broadcast is None or not _holds(broadcast, lease):
        raise LeaseLost
    statement = select(Output).where(Output.broadcast_id == lease.broadcast_id).order_by(Output.id)
    outputs = (await session.scalars(statement)).all()
    return _as_row(broadcast, outputs, await _saved_urls(session, broadcast, outputs))


async def write(session: AsyncSession, lease: Lease, writes: Iterable[Write]) -> BroadcastRow:
    """Applies all of `writes` or none, and returns the rows after them. An attempt that begins takes what its
    destination has now (`newest`), which the plan did not see.

    Raises `LeaseLost`, `RowsChanged`, and `IllegalOutputTransition` for a move that the table of states does not have.
    """
    # NO KEY UPDATE: a transaction that adds an output only needs this row to stay.
    broadcast = await session.get(Broadcast, lease.broadcast_id, with_for_update={"key_share": True})
    if broadcast is None or not _holds(broadcast, lease):
        raise LeaseLost
    statement = select(Output).where(Output.broadcast_id == lease.broadcast_id).order_by(Output.id)
    outputs = (await session.scalars(statement.with_for_update(key_share=True))).all()
    row = _as_row(broadcast, outputs)
    for one in writes:
        if isinstance(one, Move) and one.event is OutputTrigger.STARTED:
            await _take_newest(session, broadcast, outputs, one)
            row = _as_row(broadcast, outputs)
        changed = after(row, one)
        _copy_changes(broadcast, outputs, row, changed)
        _record(session, broadcast, outputs, row, one)
        if isinstance(one, BroadcastEnded):
            # The lease is not part of the rows that a plan sees.
            broadcast.lease_holder = broadcast.lease_until = None
        # One by one, so that events are numbered in this order.
        await session.flush()
        row = changed
    return _as_row(broadcast, outputs, await _saved_urls(session, broadcast, outputs))


async def _saved_urls(session: AsyncSession, broadcast: Broadcast, outputs: Sequence[Output]) -> dict[UUID, str]:
    # Only outputs that wait for the first picture are checked.
    waits = broadcast.hold_until_media and not broadcast.source_ready
    return await saved_urls(session, outputs) if waits else {}


def _holds(broadcast: Broadcast, lease: Lease) -> bool:
    if broadcast.ended_at is not None:
        # The holder gave the lease back with its last write.
        return broadcast.lease_epoch == lease.epoch
    return (broadcast.lease_holder, broadcast.lease_epoch) == (lease.holder, lease.epoch)


def _copy_changes(broadcast: Broadcast, outputs: Sequence[Output], before: BroadcastRow, changed: BroadcastRow) -> None:
    """Copies the columns in which `changed` differs from `before`. The outputs of all three have the same order."""
    _copy(broadcast, _BROADCAST_COLUMNS, before, changed)
    for output, old, new in zip(outputs, before.outputs, changed.outputs, strict=True):
        if new is not old:
            _copy(output, _OUTPUT_COLUMNS, old, new)


def _copy(model: Broadcast | Output, columns: Sequence[str], before: object, changed: object) -> None:
    for name in columns:
        value = getattr(changed, name)
        if value != getattr(before, name):
            setattr(model, name, _datetime(value) if name in _TIMES else value)


def _record(
    session: AsyncSession, broadcast: Broadcast, outputs: Sequence[Output], before: BroadcastRow, write: Write
) -> None:
    """Adds the event and the audit entry of a write that was copied. `before`: the row that it was applied to."""
    match write:
        case Move():
            _record_move(session, broadcast, next(one for one in outputs if one.id == write.output_id), write)
        case ForgetRetry() | EngineHurried():
            pass
        case EngineStarted():
            _record_event(session, broadcast, "engine.started", write.at)
        case EngineLost():
            event = "engine.lost" if write.code else "engine.ended"
            _record_event(session, broadcast, event, write.at, code=write.code)
        case SourceChanged():
            same = (before.source_phase, before.source_code) == (write.phase, write.code)
            event = "source.picture" if same and write.ready else f"source.{write.phase}"
            _record_event(session, broadcast, event, write.at, code=write.code)
        case EndBegun():
            _record_event(session, broadcast, "broadcast.ending", write.at, code=write.code)
            _audit_end(session, broadcast, outputs, write.code)
        case BroadcastEnded():
            if before.wanted == "on_air":
                # The host took the last output off; the end of the broadcast itself was not requested.
                _audit_end(session, broadcast, outputs, write.code)
            _record_event(session, broadcast, "broadcast.ended", write.at, code=write.code)


def _record_move(session: AsyncSession, broadcast: Broadcast, output: Output, move: Move) -> None:
    next_at, cause = move.changes.get("next_attempt_at"), move.changes.get("error_cause")
    detail: dict[str, Any] = {}
    if next_at is not None:
        detail["next_attempt_at"] = _datetime(next_at).isoformat()
    if cause is not None:
        detail["cause"] = str(cause)
    _record_event(
        session,
        broadcast,
        f"output.{move.event}",
        move.at,
        output_id=output.id,
        platform=output.platform,
        from_state=str(move.before),
        to_state=str(move.changes["state"]),
        attempt=output.attempt,
        code=move.code,
        detail=detail,
    )


async def _take_newest(session: AsyncSession, broadcast: Broadcast, outputs: Sequence[Output], move: Move) -> None:
    output = next((one for one in outputs if one.id == move.output_id), None)
    found = None if output is None else await take_newest(session, output)
    if output is None or found is None:
        return
    event, fields = found
    _record_event(
        session,
        broadcast,
        event,
        move.at,
        output_id=output.id,
        platform=output.platform,
        attempt=move.changes["attempt"],
        detail={"changed": fields} if fields else {},
    )
    await session.flush()


def _record_event(session: AsyncSession, broadcast: Broadcast, event: str, at: float, **more: Any) -> None:
    session.add(
        LiveEvent(
            at=_datetime(at),
            room_id=broadcast.room_id,
            broadcast_id=broadcast.id,
            event=event,
            actor=actors.CONTROLLER,
            **more,
        )
    )


def _audit_end(session: AsyncSession, broadcast: Broadcast, outputs: Iterable[Output], code: str | None) -> None:
    audit.record(
        session,
        Origin(actors.CONTROLLER),
        "live.end",
        broadcast.room_id,
        session_id=broadcast.id,
        platforms=sorted({output.platform for output in outputs}),
        error_code=code,
    )


_BROADCAST_COLUMNS = [one.name for one in fields(BroadcastRow) if one.name != "outputs"]
_OUTPUT_COLUMNS = [one.name for one in fields(OutputRow) if one.name != "saved_ingest_url"]


def _as_row(broadcast: Broadcast, outputs: Iterable[Output], saved: Mapping[UUID, str] | None = None) -> BroadcastRow:
    return BroadcastRow(
        **{name: _from_column(name, getattr(broadcast, name)) for name in _BROADCAST_COLUMNS},
        outputs=tuple(
            OutputRow(
                **{name: _from_column(name, getattr(output, name)) for name in _OUTPUT_COLUMNS},
                saved_ingest_url=(saved or {}).get(output.id),
            )
            for output in outputs
        ),
    )


def _from_column(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    return OutputState(value) if name == "state" else value


def _datetime(seconds: float | None) -> Any:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
