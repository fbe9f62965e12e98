"""The states of an output as one table, the status of a broadcast, and the names of an ingress's states. Pure.

    (created) ─▶ pending ─▶ starting ─▶ live ⇄ reconnecting
             each of the four ─▶ stopping ─▶ ended
             each of the five ─▶ failed ─(retried by hand)─▶ starting

`starting` and `reconnecting` with a `next_attempt_at` wait for their next attempt. A broadcast stores only its wanted
state; its status is computed from its outputs (`broadcast_status`). `butai.live.reconcile.transitions` alone moves an
output."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from butai.state_tables import IllegalMove, StateTable

LONGEST_ROOM_ID = 128
ROOM_ID = r"^[^\x00-\x1f\x7f-\x9f/\\?#%]+$"
"""Pattern of a room's id. LiveKit accepts nearly any text; characters that cannot stand in a URL path are excluded."""


class OutputState(StrEnum):
    """The states in the column `outputs.state`."""

    PENDING = "pending"
    STARTING = "starting"
    LIVE = "live"
    RECONNECTING = "reconnecting"
    STOPPING = "stopping"
    ENDED = "ended"
    FAILED = "failed"


class IngressState(StrEnum):
    """The states in the column `ingresses.state`; their table is in `butai.live.ingresses.states`."""

    MAKING = "making"
    """The row is written; the request to LiveKit was sent, or will be."""
    IDLE = "idle"
    BUFFERING = "buffering"
    PUBLISHING = "publishing"
    ERROR = "error"
    ENDED = "ended"
    """The encoder has stopped. It may connect again with the same key."""
    ABANDONED = "abandoned"
    """LiveKit gave no answer, so an ingress may exist: it is searched for, and ended if found."""
    FAILED = "failed"
    """LiveKit has no ingress for the row."""
    DELETED = "deleted"


class OutputTrigger(StrEnum):
    """The events of an output. All except creation write a row into `live_events`, named `output.TRIGGER`."""

    CREATED = "created"
    CREATED_WITHOUT_DESTINATION = "created_without_destination"
    """The host chose its platform, and no destination is saved for it."""
    STARTED = "started"
    """An attempt was given to the engine."""
    ACCEPTED = "accepted"
    """The platform accepted the publish and acknowledges bytes."""
    INTERRUPTED = "interrupted"
    """The platform stopped acknowledging bytes, or the engine died. The attempt may recover, or a new one follows."""
    RETRY_PLANNED = "retry_planned"
    """An attempt ended with an error that may pass; `next_attempt_at` says when the next one begins."""
    CHECKED = "checked"
    """The destination of an output that waits for the first picture cannot be reached (its code), or can be again."""
    FAILED = "failed"
    """No further attempt unless the host asks for one."""
    RETRIED = "retried"
    """A host requested an attempt now."""
    STOP_ASKED = "stop_asked"
    ENDED = "ended"
    """The engine confirmed the end, or nothing had to be ended."""


class IllegalOutputTransition(IllegalMove):
    """`OUTPUT_TABLE` has no entry for this trigger in this state: a bug, or a late observation."""


_S, _E = OutputState, OutputTrigger

OUTPUT_TABLE = StateTable[OutputState, OutputTrigger, OutputState](
    "an output",
    IllegalOutputTransition,
    {
        (None, _E.CREATED): _S.PENDING,
        (None, _E.CREATED_WITHOUT_DESTINATION): _S.FAILED,
        (_S.PENDING, _E.STARTED): _S.STARTING,
        (_S.STARTING, _E.STARTED): _S.STARTING,
        (_S.RECONNECTING, _E.STARTED): _S.RECONNECTING,
        (_S.STARTING, _E.ACCEPTED): _S.LIVE,
        (_S.RECONNECTING, _E.ACCEPTED): _S.LIVE,
        (_S.LIVE, _E.INTERRUPTED): _S.RECONNECTING,
        (_S.PENDING, _E.RETRY_PLANNED): _S.STARTING,
        (_S.STARTING, _E.RETRY_PLANNED): _S.STARTING,
        (_S.LIVE, _E.RETRY_PLANNED): _S.RECONNECTING,
        (_S.RECONNECTING, _E.RETRY_PLANNED): _S.RECONNECTING,
        **{(state, _E.CHECKED): state for state in (_S.PENDING, _S.STARTING, _S.RECONNECTING)},
        **{(state, _E.FAILED): _S.FAILED for state in (_S.PENDING, _S.STARTING, _S.LIVE, _S.RECONNECTING, _S.STOPPING)},
        (_S.FAILED, _E.RETRIED): _S.STARTING,
        # A host's retry brings a waiting attempt forward.
        (_S.STARTING, _E.RETRIED): _S.STARTING,
        (_S.RECONNECTING, _E.RETRIED): _S.RECONNECTING,
        **{(state, _E.STOP_ASKED): _S.STOPPING for state in (_S.PENDING, _S.STARTING, _S.LIVE, _S.RECONNECTING)},
        **{
            (state, _E.ENDED): _S.ENDED
            for state in (_S.PENDING, _S.STARTING, _S.LIVE, _S.RECONNECTING, _S.STOPPING, _S.FAILED)
        },
    },
)


class BroadcastWanted(StrEnum):
    """The host's wish for a broadcast: the column `broadcasts.wanted`. It goes off the air once, and never back."""

    ON_AIR = "on_air"
    OFF_AIR = "off_air"


class OutputWanted(StrEnum):
    """The host's wish for an output: the column `outputs.wanted`. A retry turns one on again."""

    ON = "on"
    OFF = "off"


OutputWireState = Literal["starting", "live", "interrupted", "stopping", "ended", "error"]

WIRE: dict[OutputState, OutputWireState] = {
    _S.PENDING: "starting",
    _S.STARTING: "starting",
    _S.LIVE: "live",
    _S.RECONNECTING: "interrupted",
    _S.STOPPING: "stopping",
    _S.ENDED: "ended",
    _S.FAILED: "error",
}
"""The states as clients see them; these words are part of the API."""

BroadcastStatus = Literal["starting", "live", "degraded", "stopping", "ended", "error"]
"""`starting`, `live`, `degraded` (some outputs are live), `stopping`, `ended`, `error` (none is live or will be by
itself)."""


def broadcast_status(states: Iterable[OutputState], *, wanted: bool, ended: bool, was_live: bool) -> BroadcastStatus:
    """The status of a broadcast with outputs in `states`.

    `wanted`: the broadcast should be on air. `ended`: it is over. `was_live`: at least one of its outputs was live.
    """
    found = list(states)
    if ended:
        failed = bool(found) and all(state is OutputState.FAILED for state in found)
        return "error" if failed and not was_live else "ended"
    if not wanted:
        return "stopping"
    # Outputs that the host stopped do not count, unless all of them are.
    found = [state for state in found if state not in (OutputState.ENDED, OutputState.STOPPING)] or found
    if OutputState.LIVE in found:
        return "live" if all(state is OutputState.LIVE for state in found) else "degraded"
    if OutputState.RECONNECTING in found:
        return "degraded"
    if OutputState.PENDING in found or OutputState.STARTING in found:
        return "starting"
    return "error" if OutputState.FAILED in found else "stopping"
