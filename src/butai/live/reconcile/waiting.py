"""What becomes of a broadcast for which no machine has room: it waits, and ends after `Timing.capacity_limit`. Pure."""

from __future__ import annotations

from butai.errors import Code
from butai.live.reconcile.commands import BroadcastEnded, EndBegun, Write
from butai.live.reconcile.draft import Draft, Policy
from butai.live.reconcile.rows import BroadcastRow
from butai.live.states import OutputTrigger

DETAIL = "no controller has room for this broadcast"


def wait_for_capacity(row: BroadcastRow, since: float, now: float, policy: Policy) -> tuple[Write, ...]:
    """The writes for a broadcast that never had an engine, and waits for one since `since`.

    Its outputs are `starting` with `no_capacity` and the time of the next try at the latest; a machine that has room
    takes it at once. At the limit all of it ends with that code.
    """
    draft, until = Draft(row, now, policy), since + policy.timing.capacity_limit
    wanted = [output for output in row.outputs if output.wanted == "on" and not output.over]
    if now < until:
        for output in wanted:
            if output.waiting and (output.next_attempt_at is None or output.next_attempt_at <= now):
                draft.move(
                    output,
                    OutputTrigger.RETRY_PLANNED,
                    draft.clamp_time(output, now),
                    code=Code.NO_CAPACITY,
                    next_attempt_at=min(now + policy.timing.capacity_pause, until),
                    error_code=Code.NO_CAPACITY,
                    error_cause=None,
                    error_detail=DETAIL,
                )
        return tuple(draft.writes)
    for output in row.outputs:
        if output.over:
            continue
        if output in wanted:
            draft.give_up(output, Code.NO_CAPACITY, None, DETAIL, now)
        else:
            draft.end(output, None)
    draft.write(EndBegun(Code.NO_CAPACITY, now))
    draft.write(BroadcastEnded(Code.NO_CAPACITY, now))
    return tuple(draft.writes)
