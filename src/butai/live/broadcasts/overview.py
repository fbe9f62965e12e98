"""The broadcasts of all rooms, on air and past, for operators.

Ids are UUIDs of version 7, which grow with the time of creation. So the primary key gives the order, newest first, and
a page continues below the last id of the page before.
"""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import dict_row

from butai.database import Connection, Database
from butai.live.answers import BroadcastOverview, OperatorOutput
from butai.live.broadcasts.queries import METRICS, output_values, shown_error, shown_status
from butai.live.texts import Language

_BROADCASTS: LiteralString = """
SELECT b.id, b.room_id, r.owner_user_id, b.livekit_project, b.egress, b.wanted, b.preset, b.started_by, b.created_at,
       b.ended_at, b.end_code, b.source_phase, b.source_code, b.source_ready, b.hold_until_media, b.lease_holder,
       b.engine_ref
FROM broadcasts b JOIN rooms r ON r.room_id = b.room_id
"""
_OUTPUTS: LiteralString = f"""
SELECT o.broadcast_id, o.id, o.destination_id, o.platform, o.label, o.key_fingerprint, o.state, o.state_since,
       o.confirmation, o.attempt, o.next_attempt_at, o.live_since, o.first_live_at, o.error_code, o.error_cause,
       o.check_code, o.error_detail, o.created_at, m.data AS metrics
FROM outputs o
LEFT JOIN {METRICS}
WHERE o.broadcast_id = ANY(%s) ORDER BY o.id
"""


async def list_broadcasts(
    database: Database,
    language: Language,
    limit: int,
    *,
    session_id: UUID | None = None,
    on_air: bool | None = None,
    room_id: str | None = None,
    owner: str | None = None,
    before: UUID | None = None,
) -> list[BroadcastOverview]:
    """Broadcasts with their outputs, newest first: up to `limit`, below the id `before`."""
    # Only the given conditions: with "OR everything" the plan could use no index.
    where: list[LiteralString] = []
    if session_id is not None:
        where.append("b.id = %(session_id)s")
    if on_air is not None:
        where.append("b.ended_at IS NULL" if on_air else "b.ended_at IS NOT NULL")
    if room_id is not None:
        where.append("b.room_id = %(room_id)s")
    if owner is not None:
        where.append("r.owner_user_id = %(owner)s")
    if before is not None:
        where.append("b.id < %(before)s")
    statement: LiteralString = _BROADCASTS + (("WHERE " + " AND ".join(where)) if where else "")
    values = {"session_id": session_id, "room_id": room_id, "owner": owner, "before": before, "limit": limit}

    async def read(connection: Connection) -> list[BroadcastOverview]:
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement + " ORDER BY b.id DESC LIMIT %(limit)s", values)
            rows = await cursor.fetchall()
            of: dict[UUID, list[dict[str, Any]]] = {row["id"]: [] for row in rows}
            if rows:
                await cursor.execute(_OUTPUTS, [list(of)])
                for output in await cursor.fetchall():
                    of[output["broadcast_id"]].append(output)
            return [_as_answer(row, of[row["id"]], language) for row in rows]

    return await database.query(read)


def _as_answer(row: dict[str, Any], outputs: list[dict[str, Any]], language: Language) -> BroadcastOverview:
    return BroadcastOverview(
        session_id=row["id"],
        room_id=row["room_id"],
        owner=row["owner_user_id"],
        started_by=row["started_by"],
        project=row["livekit_project"],
        egress=row["egress"],
        preset=row["preset"],
        status=shown_status(row, outputs),
        source=row["source_phase"],
        controller=row["lease_holder"] if row["ended_at"] is None else None,
        started_at=row["created_at"],
        ended_at=row["ended_at"],
        end=shown_error(row["end_code"], None, language),
        outputs=[
            OperatorOutput(**output_values(row, one, language), error_detail=one["error_detail"]) for one in outputs
        ],
    )
