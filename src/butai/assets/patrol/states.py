"""The states of a patrol run, as one table. Pure; `progress` is the only writer.

    running ──finished──▶ finished
       └──stopped, interrupted──▶ stopped

A run ends once: late writes of a process that lost the patrol's lock are refused.
"""

from __future__ import annotations

from enum import StrEnum

from butai.state_tables import IllegalMove, StateTable


class RunState(StrEnum):
    """The states of a run, on the wire and in the table."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"


class RunTrigger(StrEnum):
    """The events of a run."""

    BEGAN = "began"
    RESUMED = "resumed"
    """Its process died, and the next run continues from its checkpoint."""
    ADVANCED = "advanced"
    """A batch was checked: its counts and its checkpoint are written."""
    FINISHED = "finished"
    STOPPED = "stopped"
    """The store was unreliable, or a mass of files seemed missing."""
    INTERRUPTED = "interrupted"
    """Its process died, and no run resumes it."""
    COMPARED = "compared"
    """The index was compared with a listing."""


class IllegalRunMove(IllegalMove):
    """`RUN_TABLE` has no arrow for this trigger in this state: a bug, or a process that lost the patrol's lock."""


_S, _T = RunState, RunTrigger

RUN_TABLE = StateTable[RunState, RunTrigger, RunState](
    "a run",
    IllegalRunMove,
    {
        (None, _T.BEGAN): _S.RUNNING,
        (_S.RUNNING, _T.RESUMED): _S.RUNNING,
        (_S.RUNNING, _T.ADVANCED): _S.RUNNING,
        (_S.RUNNING, _T.FINISHED): _S.FINISHED,
        (_S.RUNNING, _T.STOPPED): _S.STOPPED,
        # A dry run, on which nothing depends, or one of several: only the oldest unfinished run is resumed.
        (_S.RUNNING, _T.INTERRUPTED): _S.STOPPED,
        # A comparison gets its row at its end: it has no checkpoint, and starts again after a crash.
        (None, _T.COMPARED): _S.FINISHED,
    },
)
