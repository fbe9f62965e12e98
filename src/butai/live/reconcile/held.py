"""Outputs that wait for the host's first picture, and the checks of their destinations meanwhile. Pure.

A check is no attempt: it uses nothing of a budget, and what it finds is in a column of its own.
"""

from __future__ import annotations

from uuid import UUID

from butai.live.reconcile.draft import Draft
from butai.live.reconcile.reports import Observed
from butai.live.reconcile.rows import BroadcastRow, OutputRow
from butai.live.states import OutputTrigger


def is_held(row: BroadcastRow, seen: Observed) -> bool:
    """Whether outputs wait for the first picture. An engine of its own has to have had one: a new one has only black."""
    return row.hold_until_media and (seen.source is None or not seen.source.ready)


def to_check(row: BroadcastRow, seen: Observed, now: float) -> tuple[tuple[UUID, str], ...]:
    """The outputs that only the first picture is missing for, each with the ingest URL that its attempt will take."""
    if not is_held(row, seen):
        return ()
    return tuple((output.id, output.next_ingest_url) for output in row.outputs if _is_due(row, output, now))


def apply_checks(draft: Draft, seen: Observed) -> None:
    """Records what the checks found where it is new."""
    for output_id, _ in to_check(draft.row, seen, draft.now):
        output, report = draft.output(output_id), seen.checks.get(output_id)
        if output is None or report is None:
            continue
        code = report.code or None
        if code != output.check_code:
            draft.move(output, OutputTrigger.CHECKED, draft.now, code=code, check_code=code)


def _is_due(row: BroadcastRow, output: OutputRow, now: float) -> bool:
    wanted = row.wanted == "on_air" and row.ended_at is None and output.wanted == "on"
    return wanted and output.waiting and (output.next_attempt_at is None or output.next_attempt_at <= now)
