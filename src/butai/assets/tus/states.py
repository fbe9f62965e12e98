"""The states of a resumable upload, as one table. Pure; `transitions.move` is the only writer.

open ──completed──▶ finishing ──finished──▶ done
  └─────refused─────────┴──────────────▶ refused
"""

from __future__ import annotations

from enum import StrEnum


class ResumableState(StrEnum):
    """The states of a resumable upload, as stored in the table."""

    OPEN = "open"
    FINISHING = "finishing"
    """All bytes are stored; they are being joined and checked."""
    DONE = "done"
    REFUSED = "refused"


class ResumableTrigger(StrEnum):
    """The events of a resumable upload."""

    CREATED = "created"
    APPENDED = "appended"
    """More bytes are durable, and some are still to come."""
    COMPLETED = "completed"
    """The last byte is durable."""
    FINISHED = "finished"
    """The asset points at the bytes."""
    REFUSED = "refused"
    """Cancelled by its client, or its bytes are not those that were declared."""


class IllegalResumableMove(Exception):
    """The table has no arrow for this trigger in this state."""

    def __init__(self, state: ResumableState | None, trigger: ResumableTrigger) -> None:
        super().__init__(f"{trigger} cannot happen to a resumable upload that is {state or 'absent'}")
        self.state, self.trigger = state, trigger


_S, _T = ResumableState, ResumableTrigger

RESUMABLE_TABLE: dict[tuple[ResumableState | None, ResumableTrigger], ResumableState] = {
    (None, _T.CREATED): _S.OPEN,
    (_S.OPEN, _T.APPENDED): _S.OPEN,
    # In one step with the last byte: a client that reads the full offset takes the upload for done.
    (_S.OPEN, _T.COMPLETED): _S.FINISHING,
    (_S.FINISHING, _T.FINISHED): _S.DONE,
    (_S.OPEN, _T.REFUSED): _S.REFUSED,
    # The file is not the declared one, or the client cancels while it is being checked.
    (_S.FINISHING, _T.REFUSED): _S.REFUSED,
}
"""No arrow leaves `done` or `refused`: a second request that arrives at the same end finds that it was overtaken."""


def next_resumable_state(state: ResumableState | None, trigger: ResumableTrigger) -> ResumableState:
    """Returns the state after `trigger`; None is an upload without a row. Raises `IllegalResumableMove` without an
    arrow."""
    try:
        return RESUMABLE_TABLE[state, trigger]
    except KeyError:
        raise IllegalResumableMove(state, trigger) from None


def arrows(trigger: ResumableTrigger) -> tuple[frozenset[ResumableState], ResumableState]:
    """Returns the states in which `trigger` may happen to a row, and the one state after it."""
    sources = {
        state: after for (state, each), after in RESUMABLE_TABLE.items() if each is trigger and state is not None
    }
    (target,) = set(sources.values())
    return frozenset(sources), target
