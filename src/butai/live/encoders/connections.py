"""The rows of the encoders that publish now: written by the ingest that has the connection, read by all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb

from butai.database import Connection, Database

_BEGIN: LiteralString = """
    INSERT INTO encoder_connections (key_id, id, ingest, address) VALUES (%s, %s, %s, %s)
    ON CONFLICT (key_id) DO UPDATE SET id = excluded.id, ingest = excluded.ingest, address = excluded.address,
        since = now(), seen_at = now(), broadcast_id = NULL, figures = '{}'
"""
_END: LiteralString = """
    DELETE FROM encoder_connections c USING unnest(%s::uuid[], %s::uuid[]) AS over (key_id, id)
    WHERE c.key_id = over.key_id AND c.id = over.id
"""
_SEEN: LiteralString = """
    UPDATE encoder_connections c SET seen_at = now(), broadcast_id = seen.broadcast_id, figures = seen.figures
    FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::jsonb[]) AS seen (key_id, id, broadcast_id, figures)
    WHERE c.key_id = seen.key_id AND c.id = seen.id
"""
# As `keys.accepted` decides, and the broadcast that the room has now.
_STANDING: LiteralString = """
    SELECT k.id, k.key_fingerprint, c.id,
           (SELECT b.id FROM broadcasts b WHERE b.room_id = k.room_id AND b.ended_at IS NULL)
    FROM encoder_keys k JOIN rooms r ON r.room_id = k.room_id LEFT JOIN encoder_connections c ON c.key_id = k.id
    WHERE k.id = ANY(%s) AND k.revoked_at IS NULL AND r.closed_at IS NULL
      AND (k.token_generation IS NULL OR k.token_generation = r.token_generation)
      AND NOT EXISTS (SELECT 1 FROM suspended_users s WHERE s.user_id = r.owner_user_id)
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """A key that is valid: its fingerprint, the connection that has its row, and the broadcast of its room."""

    key_fingerprint: str
    connection_id: UUID | None
    broadcast_id: UUID | None


async def begin(database: Database, key_id: UUID, connection_id: UUID, ingest: str, address: str) -> None:
    """Gives the row of a key to a connection; the ingest that had it is notified."""

    async def write(connection: Connection) -> None:
        await connection.execute(_BEGIN, [key_id, connection_id, ingest, address])

    await database.execute(write)


async def end(database: Database, over: Sequence[tuple[UUID, UUID]]) -> None:
    """Deletes the rows of connections that are over: pairs of key and connection."""

    async def write(connection: Connection) -> None:
        await connection.execute(_END, [[key for key, _ in over], [one for _, one in over]])

    await database.execute(write)


async def seen(database: Database, there: Sequence[tuple[UUID, UUID, UUID | None, dict[str, Any]]]) -> None:
    """Writes that connections are there: key, connection, the broadcast that takes what it sends, and figures."""
    rows = sorted(there, key=lambda one: one[0])

    async def write(connection: Connection) -> None:
        columns = [[row[column] for row in rows] for column in range(3)]
        await connection.execute(_SEEN, [*columns, [Jsonb(row[3]) for row in rows]])

    await database.execute(write)


async def standing(database: Database, key_ids: Sequence[UUID]) -> dict[UUID, Standing]:
    """Those of the keys that are valid now."""

    async def read(connection: Connection) -> dict[UUID, Standing]:
        rows = await (await connection.execute(_STANDING, [list(key_ids)])).fetchall()
        return {row[0]: Standing(*row[1:]) for row in rows}

    return await database.query(read)
