"""Ends one attempt at LiveKit: asked by the broadcast's engine (`livekit`), and again by the poller while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from livekit import api

from butai.live.egress.livekit import evidence
from butai.live.egress.livekit.gateway import Gateway, GatewayError, Refused
from butai.live.egress.livekit.ledger import Address, Attempt, Ledger, Note
from butai.live.egress.livekit.requests import full_url

log = structlog.get_logger(__name__)

OpenKey = Callable[[bytes], str]


async def stop_attempt(ledger: Ledger, gateway: Gateway, row: Attempt, egress_id: str, open_key: OpenKey) -> None:
    """Asks LiveKit, and writes what follows from its answer. That it has ended (412), that it knows none (404), and that
    nobody works on it (408) all mean that nothing is pushed. Where LiveKit does not answer, nothing is written.

    Raises `DatabaseUnavailable`.
    """
    now = time.time()
    rows = [one for one in await ledger.of_broadcasts([row.broadcast_id]) if one.egress_id == egress_id]
    shared = any(one.id != row.id and one.over_at is None and one.stop_asked_at is None for one in rows)
    try:
        if shared:
            url = full_url(*await _address(ledger, row, open_key))
            asked = api.UpdateStreamRequest(egress_id=egress_id, remove_output_urls=[url])
            info = await gateway.update(asked)
        else:
            info = await gateway.stop(egress_id)
    except Refused as error:
        if error.status == 408 or error.code == "deadline_exceeded":
            await _note(ledger, row, egress_id, evidence.lost(row.seen, "its worker does not answer", now), over=True)
        elif shared and error.status == 404:
            await _note(ledger, row, egress_id, evidence.lost(row.seen, "LiveKit knows no such stream", now), over=True)
        elif error.status in (404, 412):
            await _look(ledger, gateway, row, egress_id, open_key)
        else:
            log.warning("livekit.stop_refused", egress_id=egress_id, status=error.status)
    except GatewayError as error:
        log.warning("livekit.stop_not_answered", egress_id=egress_id, reason=type(error).__name__)
    else:
        urls = await shown_addresses(ledger, row, open_key)
        seen = evidence.heard(row.seen, info, urls, now)
        await _note(ledger, row, egress_id, seen, over=seen.over)


async def _look(ledger: Ledger, gateway: Gateway, row: Attempt, egress_id: str, open_key: OpenKey) -> None:
    """How it ended, as LiveKit still knows."""
    try:
        info = await gateway.one(egress_id)
    except GatewayError:
        return
    now = time.time()
    if info is None:
        seen = evidence.lost(row.seen, "LiveKit knows it no more", now)
    else:
        seen = evidence.heard(row.seen, info, await shown_addresses(ledger, row, open_key), now)
    if seen.over:
        await _note(ledger, row, egress_id, seen, over=True)


async def _address(ledger: Ledger, row: Attempt, open_key: OpenKey) -> tuple[str, str]:
    """The door of an attempt, and the key."""
    for address in await ledger.addresses(row.project, [row.room_id]):
        if address.output_id == row.output_id:
            return address.doors[1 if row.backup and len(address.doors) > 1 else 0], open_key(address.sealed_key)
    raise LookupError("an output without its row")


async def shown_addresses(ledger: Ledger, row: Attempt, open_key: OpenKey) -> list[str]:
    """As LiveKit shows this attempt's."""
    return [evidence.shown(full_url(*await _address(ledger, row, open_key)))]


def all_shown(address: Address, open_key: OpenKey) -> list[str]:
    """As LiveKit shows an output's, whichever door it took."""
    key = open_key(address.sealed_key)
    return [evidence.shown(full_url(door, key)) for door in address.doors]


async def _note(ledger: Ledger, row: Attempt, egress_id: str, seen: evidence.Seen, *, over: bool) -> None:
    await ledger.note([Note(row.id, egress_id, seen, over)])
