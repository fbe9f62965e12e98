"""The states of a patrol run, as one table. Pure; `progress` is the only writer.

    running ──finished──▶ finished
       └──stopped, interrupted──▶ stopped

A run ends once: late writes of a process that lost the patrol's lock are refused.
"""

from __future__ import annotations

from enum import StrEnum


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


class IllegalRunMove(Exception):
    """The table has no arrow for this trigger in this state: a bug, or a process that lost the patrol's lock."""

    def __init__(self, state: RunState | None, trigger: RunTrigger) -> None:
        super().__init__(f"{trigger} cannot happen to a run that is {state or 'unknown'}")
        self.state, self.trigger = state, trigger


_S, _T = RunState, RunTrigger

RUN_TABLE: dict[tuple[RunState | None, RunTrigger], RunState] = {
    (None, _T.BEGAN): _S.RUNNING,
    (_S.RUNNING, _T.RESUMED): _S.RUNNING,
    (_S.RUNNING, _T.ADVANCED): _S.RUNNING,
    (_S.RUNNING, _T.FINISHED): _S.FINISHED,
    (_S.RUNNING, _T.STOPPED): _S.STOPPED,
    # A dry run, on which nothing depends, or one of several: only the oldest unfinished run is resumed.
    (_S.RUNNING, _T.INTERRUPTED): _S.STOPPED,
    # A comparison gets its row at its end: it has no checkpoint, and starts again after a crash.
    (None, _T.COMPARED): _S.FINISHED,
}


def next_run_state(state: RunState | None, trigger: RunTrigger) -> RunState:
    """The state after `trigger`; `state` None is a run without a row. Raises `IllegalRunMove` without an arrow."""
    try:
        return RUN_TABLE[state, trigger]
    except KeyError:
        raise IllegalRunMove(state, trigger) from None
