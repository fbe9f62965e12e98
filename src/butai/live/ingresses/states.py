"""The states of an ingress as one table. Pure.

    (requested) ─▶ making
    making ─▶ idle, buffering, publishing, error, ended ─▶ deleted
       ├────▶ failed
       └────▶ abandoned ─▶ failed

LiveKit reports the five states in the middle in any order: an encoder may connect, fail, and connect again.
"""

from __future__ import annotations

from enum import StrEnum

from butai.live.states import IngressState
from butai.state_tables import IllegalMove, StateTable


class IngressTrigger(StrEnum):
    """The events of an ingress."""

    REQUESTED = "requested"
    MADE = "made"
    """LiveKit has made it."""
    REFUSED = "refused"
    """LiveKit has made none: the request was not sent, or its result was ended again."""
    UNANSWERED = "unanswered"
    """LiveKit did not answer, or the requesting process has died."""
    CLEARED = "cleared"
    """LiveKit was searched, and any ingress found for the row was ended."""
    DELETED = "deleted"
    REPORTED_IDLE = "reported_idle"
    REPORTED_BUFFERING = "reported_buffering"
    REPORTED_PUBLISHING = "reported_publishing"
    REPORTED_ERROR = "reported_error"
    REPORTED_ENDED = "reported_ended"


class IllegalIngressTransition(IllegalMove):
    """`INGRESS_TABLE` has no entry for this trigger in this state: a late report, or a bug."""


_S, _E = IngressState, IngressTrigger

REPORTS: dict[IngressState, IngressTrigger] = {
    _S.IDLE: _E.REPORTED_IDLE,
    _S.BUFFERING: _E.REPORTED_BUFFERING,
    _S.PUBLISHING: _E.REPORTED_PUBLISHING,
    _S.ERROR: _E.REPORTED_ERROR,
    _S.ENDED: _E.REPORTED_ENDED,
}
"""The trigger of each state that LiveKit reports."""

INGRESS_TABLE = StateTable[IngressState, IngressTrigger, IngressState](
    "an ingress",
    IllegalIngressTransition,
    {
        (None, _E.REQUESTED): _S.MAKING,
        (_S.MAKING, _E.MADE): _S.IDLE,
        (_S.MAKING, _E.REFUSED): _S.FAILED,
        (_S.MAKING, _E.UNANSWERED): _S.ABANDONED,
        (_S.ABANDONED, _E.CLEARED): _S.FAILED,
        **{(state, trigger): reported for state in REPORTS for reported, trigger in REPORTS.items()},
        **{(state, _E.DELETED): _S.DELETED for state in REPORTS},
    },
)
