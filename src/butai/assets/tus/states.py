"""The states of a resumable upload, as one table. Pure; `transitions.move` is the only writer.

open ──completed──▶ finishing ──finished──▶ done
  └─────refused─────────┴──────────────▶ refused
"""

from __future__ import annotations

from enum import StrEnum

from butai.state_tables import IllegalMove, StateTable


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


class IllegalResumableMove(IllegalMove):
    """`RESUMABLE_TABLE` has no arrow for this trigger in this state."""


_S, _T = ResumableState, ResumableTrigger

RESUMABLE_TABLE = StateTable[ResumableState, ResumableTrigger, ResumableState](
    "a resumable upload",
    IllegalResumableMove,
    {
        (None, _T.CREATED): _S.OPEN,
        (_S.OPEN, _T.APPENDED): _S.OPEN,
        # In one step with the last byte: a client that reads the full offset takes the upload for done.
        (_S.OPEN, _T.COMPLETED): _S.FINISHING,
        (_S.FINISHING, _T.FINISHED): _S.DONE,
        (_S.OPEN, _T.REFUSED): _S.REFUSED,
        # The file is not the declared one, or the client cancels while it is being checked.
        (_S.FINISHING, _T.REFUSED): _S.REFUSED,
    },
)
"""No arrow leaves `done` or `refused`: a second request that arrives at the same end finds that it was overtaken."""
