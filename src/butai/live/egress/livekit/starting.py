"""Asks LiveKit for egresses, and writes what follows from its answer. Called by `livekit_engine`, one batch at a time.

A batch is one attempt; in shared mode it is all attempts of a broadcast that are due together, which become one request.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog
from livekit import api
from livekit.protocol.egress import EgressInfo

from butai.errors import Code
from butai.live.egress.livekit import evidence
from butai.live.egress.livekit.gateway import Gateway, GatewayError, Refused, Unauthorized, Unreachable
from butai.live.egress.livekit.ledger import Attempt, Note
from butai.live.egress.livekit.means import Means
from butai.live.egress.livekit.requests import start_request
from butai.live.egress.livekit.stopping import stop_attempt
from butai.live.reconcile.rows import BroadcastRow

log = structlog.get_logger(__name__)

_SHARED_TRIED = 2
"""Egresses of a broadcast that are asked to take an address more: the newest."""

Unavailable = Callable[[Attempt, str, float], None]
"""Told of an attempt for which there is no worker: why, and when to try again (seconds since 1970)."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An attempt whose row is written, and where it goes. The address holds the key."""

    row: Attempt
    url: str


async def start_attempts(means: Means, broadcast: BroadcastRow, batch: list[Wanted], unavailable: Unavailable) -> None:
    """Raises `DatabaseUnavailable`. An attempt without an answer stays in doubt."""
    gateway, asked_at = means.gateway(broadcast.livekit_project), time.time()
    await _end_lost(means, gateway, broadcast.id, {wanted.row.output_id: wanted.row.attempt for wanted in batch})
    try:
        info = await _ask(means, gateway, broadcast, [wanted.url for wanted in batch])
    except Unreachable as error:
        if error.sent:
            # It may be running.
            log.warning("livekit.start_in_doubt", broadcast_id=str(broadcast.id), detail=str(error))
            return
        await _wait(means, batch, f"LiveKit does not answer: {error}", unavailable)
    except Unauthorized as error:
        await _wait(means, batch, f"LiveKit refuses our key: {error}", unavailable)
    except Refused as error:
        if error.status >= 500 or error.code == "resource_exhausted":
            # 503: no worker. 500: a LiveKit without Redis has no egress at all.
            await _wait(means, batch, f"LiveKit starts no egress: {error}", unavailable)
            return
        seen = evidence.refused(_code(error), str(error), time.time())
        await means.ledger.note([Note(wanted.row.id, None, seen, over=True) for wanted in batch])
    else:
        await _started(means, gateway, batch, info, asked_at)


async def _started(means: Means, gateway: Gateway, batch: list[Wanted], info: EgressInfo, asked_at: float) -> None:
    notes: list[Note] = []
    before = await means.ledger.of_broadcasts([batch[0].row.broadcast_id])
    for wanted in batch:
        row = wanted.row
        # How often this address was given to this egress.
        nth = 1 + sum(one.output_id == row.output_id and one.egress_id == info.egress_id for one in before)
        urls = [evidence.shown(wanted.url)]
        seen = evidence.heard(row.seen, info, urls, asked_at, nth, means.pace.rules)
        notes.append(Note(row.id, info.egress_id, seen, seen.over))
        log.info("livekit.started", output_id=str(row.output_id), attempt=row.attempt, egress_id=info.egress_id)
    await means.ledger.note(notes)
    await means.ledger.worker_there(gateway.name)
    # A stop that came while the start was under way.
    mine = {wanted.row.id for wanted in batch}
    for row in await means.ledger.of_broadcasts([batch[0].row.broadcast_id]):
        if row.id in mine and row.stop_asked_at is not None and row.over_at is None:
            await stop_attempt(means.ledger, gateway, row, info.egress_id, means.open_key)


async def _wait(means: Means, batch: list[Wanted], why: str, unavailable: Unavailable) -> None:
    """The project's matter, not the destinations': it costs no budget, and all broadcasts wait together."""
    project, why = batch[0].row.project, evidence.redacted(why)
    again_at = await means.ledger.worker_missing(project, means.pace.worker_base, means.pace.worker_cap)
    log.warning("livekit.unavailable", project=project, detail=why, seconds=round(again_at - time.time(), 1))
    for wanted in batch:
        unavailable(wanted.row, why, again_at)
    seen = evidence.refused(Code.EGRESS_UNAVAILABLE, why, time.time())
    await means.ledger.note([Note(wanted.row.id, None, seen, over=True) for wanted in batch])


async def _ask(means: Means, gateway: Gateway, broadcast: BroadcastRow, urls: list[str]) -> EgressInfo:
    if means.settings.livekit_shared:
        rows = await means.ledger.of_broadcasts([broadcast.id])
        # Also one whose streams have all failed: it goes on without any.
        known = [row.egress_id for row in reversed(rows) if row.egress_id]
        for egress_id in list(dict.fromkeys(known))[:_SHARED_TRIED]:
            with contextlib.suppress(Refused):
                return await gateway.update(api.UpdateStreamRequest(egress_id=egress_id, add_output_urls=urls))
    request = start_request(means.settings, broadcast, urls)
    if isinstance(request, api.ParticipantEgressRequest):
        return await gateway.start_participant(request)
    return await gateway.start(request)


async def _end_lost(means: Means, gateway: Gateway, broadcast_id: UUID, attempts: dict[UUID, int]) -> None:
    """Attempts before these whose worker was taken for dead: should it live, it must not push beside the new one."""
    if all(attempt == 1 for attempt in attempts.values()):
        return
    for row in await means.ledger.of_broadcasts([broadcast_id]):
        before = attempts.get(row.output_id, 0) - 1 == row.attempt
        if before and row.seen.status == "lost" and row.egress_id and row.stop_asked_at is None:
            with contextlib.suppress(GatewayError):
                await gateway.stop(row.egress_id)


def _code(error: Refused) -> Code:
    return {
        400: Code.INVALID_DESTINATION,
        404: Code.ROOM_NOT_FOUND,
        408: Code.EGRESS_START_TIMEOUT,
    }.get(error.status, Code.EGRESS_CRASHED)
