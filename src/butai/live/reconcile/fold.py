"""Computes the rows after a write: the one description of what each write changes. Pure.

A plan applies its own writes with it to see the result, and `transitions` copies the columns that changed into the
tables. So the rows that a plan reckoned with are the rows that are written.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

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
from butai.live.states import OUTPUT_TABLE


class RowsChanged(Exception):
    """The rows are not as the plan saw them: read them again, and plan again."""


def after(row: BroadcastRow, write: Write) -> BroadcastRow:
    """Returns the rows after `write`.

    Raises `RowsChanged` for a broadcast that is over, an unknown output, or an output in another state or attempt than
    the write names; `IllegalOutputTransition` for an event that the table of states does not have.
    """
    if row.ended_at is not None:
        raise RowsChanged
    match write:
        case Move():
            return _with_output(row, write.output_id, _moved(_output(row, write.output_id), write))
        case ForgetRetry():
            output = _output(row, write.output_id)
            if output.retry_asked_at != write.asked_at:
                return row
            return _with_output(row, write.output_id, replace(output, retry_asked_at=None))
        case _:
            return replace(row, **_broadcast_changes(write))


def _broadcast_changes(
    write: EngineStarted | EngineLost | EngineHurried | SourceChanged | EndBegun | BroadcastEnded,
) -> dict[str, Any]:
    match write:
        case EngineStarted():
            return {
                "engine_ref": write.ref,
                "engine_host": write.host,
                "engine_seen_at": write.at,
                "engine_next_at": None,
            }
        case EngineLost():
            return {
                "engine_ref": None,
                "engine_failures": write.failures,
                "engine_next_at": write.next_at,
                "source_ready": False,
            }
        case EngineHurried():
            return {"engine_next_at": None}
        case SourceChanged():
            return {
                "source_phase": write.phase,
                "source_code": write.code,
                "source_since": write.at,
                "source_ready": write.ready,
            }
        case EndBegun():
            return {"wanted": "off_air", "end_code": write.code, "stop_asked_at": write.at}
        case BroadcastEnded():
            return {"wanted": "off_air", "ended_at": write.at}


def _moved(output: OutputRow, move: Move) -> OutputRow:
    if (output.state, output.attempt) != (move.before, move.attempt):
        raise RowsChanged
    if OUTPUT_TABLE.after(output.state, move.event) is not move.changes["state"]:
        raise AssertionError(f"{move.event} planned to {move.changes['state']}")
    return replace(output, **move.changes)


def _output(row: BroadcastRow, output_id: UUID) -> OutputRow:
    for output in row.outputs:
        if output.id == output_id:
            return output
    raise RowsChanged


def _with_output(row: BroadcastRow, output_id: UUID, changed: OutputRow) -> BroadcastRow:
    return replace(row, outputs=tuple(changed if output.id == output_id else output for output in row.outputs))
