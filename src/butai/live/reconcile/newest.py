"""Gives an output the key and the address that its destination has now, as an attempt begins.

Outputs keep copies, so a running attempt never changes, and an output whose destination was deleted can go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from butai.live.models import Destination, LiveEvent, Output

CHANGED, DELETED = "output.destination_changed", "output.destination_deleted"
"""Events of the timeline: the attempt that begins has another key or address than the one before; it keeps those of a
destination that was deleted."""


async def take_newest(session: AsyncSession, output: Output) -> tuple[str, list[str]] | None:
    """Copies what was saved since the output got its copies. Returns the event to record with the names of the changed
    fields; None where there is nothing to say. The output's row must be locked."""
    if output.destination_id is None:
        return None
    saved = await session.scalar(
        select(Destination).where(Destination.id == output.destination_id, Destination.deleted_at.is_(None))
    )
    if saved is None:
        return None if await _is_recorded(session, output, DELETED) else (DELETED, [])
    changed = changed_fields(output, saved)
    # Also where the key is the same: it may have been sealed again.
    output.sealed_key, output.key_fingerprint = saved.sealed_key, saved.key_fingerprint
    output.ingest_url, output.backup_ingest_url = saved.ingest_url, saved.backup_ingest_url
    output.label = saved.label
    if not changed:
        return None
    if changed != ["backup_ingest_url"]:
        output.key_live_at = None
    return CHANGED, changed


async def saved_urls(session: AsyncSession, outputs: Iterable[Output]) -> dict[UUID, str]:
    """The ingest URLs that the destinations of these outputs have now, by the outputs' ids; none for a deleted one."""
    of = {output.id: output.destination_id for output in outputs if output.destination_id is not None}
    if not of:
        return {}
    query = select(Destination.id, Destination.ingest_url)
    found = await session.execute(query.where(Destination.id.in_(of.values()), Destination.deleted_at.is_(None)))
    urls = {row.id: row.ingest_url for row in found}
    return {output_id: urls[saved] for output_id, saved in of.items() if saved in urls}


_COMPARED = {
    "stream_key": "key_fingerprint",
    "ingest_url": "ingest_url",
    "backup_ingest_url": "backup_ingest_url",
}


def changed_fields(output: Output, saved: Any) -> list[str]:
    """The names of what a destination has otherwise than an output."""
    return [shown for shown, column in _COMPARED.items() if getattr(output, column) != getattr(saved, column)]


async def _is_recorded(session: AsyncSession, output: Output, event: str) -> bool:
    found = select(LiveEvent.id).where(
        LiveEvent.broadcast_id == output.broadcast_id, LiveEvent.output_id == output.id, LiveEvent.event == event
    )
    return await session.scalar(found.limit(1)) is not None
