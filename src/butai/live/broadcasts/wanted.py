"""The wanted state of broadcasts and outputs: new rows, and the columns that a controller acts on.

Columns of the actual state are written by `butai.live.reconcile.transitions` alone. Every function needs the
broadcast's row locked by the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import func
from uuid_utils.compat import uuid7

from butai.errors import Code
from butai.live.destinations.service import OutputTarget
from butai.live.models import Broadcast, Output
from butai.live.states import OUTPUT_TABLE, BroadcastWanted, OutputState, OutputTrigger, OutputWanted


def is_wanted(broadcast: Broadcast) -> bool:
    """Whether a broadcast should be on air, and is not over."""
    return broadcast.ended_at is None and broadcast.wanted == BroadcastWanted.ON_AIR


def new_output(broadcast: Broadcast, target: OutputTarget) -> Output:
    """An output to a target, which waits for a controller."""
    return Output(
        id=uuid7(),
        broadcast_id=broadcast.id,
        destination_id=target.destination_id,
        platform=target.platform,
        label=target.label,
        ingest_url=target.ingest_url,
        backup_ingest_url=target.backup_ingest_url,
        sealed_key=target.sealed_key,
        key_fingerprint=target.key_fingerprint,
        wanted=OutputWanted.ON,
        state=OUTPUT_TABLE.after(None, OutputTrigger.CREATED),
    )


def output_without_destination(broadcast: Broadcast, platform: str) -> Output:
    """An output for a platform without a destination: failed from the beginning, with the reason."""
    return Output(
        id=uuid7(),
        broadcast_id=broadcast.id,
        destination_id=None,
        platform=platform,
        ingest_url="",
        sealed_key=b"",
        key_fingerprint="",
        wanted=OutputWanted.OFF,
        state=OUTPUT_TABLE.after(None, OutputTrigger.CREATED_WITHOUT_DESTINATION),
        error_code=Code.NO_DESTINATION,
    )


def aim(output: Output, target: OutputTarget) -> None:
    """Gives an output another destination, whose key has yet to be accepted."""
    output.destination_id, output.label = target.destination_id, target.label
    output.ingest_url, output.backup_ingest_url = target.ingest_url, target.backup_ingest_url
    output.sealed_key, output.key_fingerprint = target.sealed_key, target.key_fingerprint
    output.key_live_at = None


def want_stopped(broadcast: Broadcast, outputs: Iterable[Output]) -> bool:
    """Sets a broadcast and its outputs to be off the air. Returns False when they were before."""
    if not is_wanted(broadcast):
        return False
    broadcast.wanted, broadcast.stop_asked_at = BroadcastWanted.OFF_AIR, func.now()
    for output in outputs:
        output.wanted = OutputWanted.OFF
    return True


def want_output_stopped(broadcast: Broadcast, output: Output) -> bool:
    """Sets one output to be off the air. Returns False when it was before."""
    if broadcast.ended_at is not None or output.wanted == OutputWanted.OFF:
        return False
    output.wanted = OutputWanted.OFF
    return True


def want_retry(output: Output) -> None:
    """Requests an attempt of an output now."""
    output.wanted, output.retry_asked_at = OutputWanted.ON, func.now()


def awaits_attempt(output: Output) -> bool:
    """Whether no attempt of the output is under way, and another one may follow: what it aims at may change."""
    return output.state in (OutputState.PENDING, OutputState.FAILED) or output.next_attempt_at is not None


def can_be_retried(broadcast: Broadcast, output: Output) -> bool:
    """Whether the broadcast is still wanted on air, and the output has not ended."""
    return is_wanted(broadcast) and output.state != OutputState.ENDED
