"""Finds the file that a key names for a caller: SQL for the candidates, `names.choose` for the decision."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from butai.assets import keys, names
from butai.assets.names import Candidate, Via
from butai.database import Connection, Database


@dataclass(frozen=True, slots=True)
class ReadableAsset:
    """A row that a read found. `public`: all callers may read it, at this moment."""

    id: UUID
    s3_key: str
    wanted_key: str
    status: str
    owner_user_id: str | None
    object_key: str | None
    mime_type: str
    size_bytes: int | None
    etag: str | None
    display_name: str
    sidecar: str | None
    type: str
    public: bool
    taken_down: bool = False
    """An operator has taken it down, or the file that it belongs to."""
    by_public_key: bool = True
    """Whether it was found by its public key, which means the same to every caller."""

    @property
    def for_all(self) -> bool:
        """Whether every caller has the same answer."""
        return self.public and self.by_public_key


_READABLE_COLUMNS = """id, s3_key, wanted_key, status, owner_user_id, object_key, mime_type, size_bytes, etag,
    display_name, sidecar, type"""

_MORE_COLUMNS = f"{_READABLE_COLUMNS}, main_id, visibility, deleted_at, taken_down_at"


def _leads(sources: str) -> str:
    """SQL of the files that a key may lead to, for `names.choose`. A sidecar is public when its asset is. What the holder of a
    plain name has purged has no columns."""
    return f"""
    SELECT name, array_position(%(keys)s, name), via,
           id IS NULL OR deleted_at IS NOT NULL OR status = 'failed',
           coalesce(id IS NOT NULL AND deleted_at IS NULL AND (%(operator)s OR public AND status IN ('ready', 'missing')), false),
           deleted_at IS NOT NULL, {_READABLE_COLUMNS}, public, taken_down
    FROM (
        SELECT *,
               taken_down_at IS NOT NULL OR (main_id IS NOT NULL AND EXISTS (
                   SELECT 1 FROM assets AS main WHERE main.id = named.main_id AND main.taken_down_at IS NOT NULL)
               ) AS taken_down,
               CASE WHEN sidecar IS NULL THEN visibility = 'public'
                    ELSE EXISTS (SELECT 1 FROM assets AS main
                                 WHERE main.id = named.main_id AND main.visibility = 'public' AND main.status = 'ready'
                                   AND main.deleted_at IS NULL) END AS public
        FROM ({sources}) AS named
    ) AS found
    """


def _of(table: str) -> str:
    return ", ".join(f"{table}.{column.strip()}" for column in _MORE_COLUMNS.split(","))


_BY_PLAIN_NAME = f"CASE WHEN held.of_studio THEN {Via.STUDIO:d} ELSE {Via.FIRST:d} END"

READABLE = _leads(f"""
    SELECT wanted_key AS name, {Via.OWN:d} AS via, {_MORE_COLUMNS}
    FROM assets WHERE owner_user_id = %(user)s AND wanted_key = ANY(%(keys)s)
    UNION ALL
    SELECT s3_key, CASE WHEN owner_user_id = %(user)s THEN {Via.OWN:d} ELSE {Via.PUBLIC:d} END, {_MORE_COLUMNS}
    FROM assets WHERE s3_key = ANY(%(keys)s)
    UNION ALL
    SELECT held.name, {_BY_PLAIN_NAME}, {_of("main")}
    FROM plain_names AS held LEFT JOIN assets AS main ON main.id = held.asset_id
    WHERE held.name = ANY(%(keys)s)
""")

# A sidecar has the plain name that its asset's gives it.
_BESIDE = (
    _leads(f"""
    SELECT asked.name, {_BY_PLAIN_NAME} AS via, held.published_at, {_of("side")}
    FROM unnest(%(sidecars)s::text[], %(stems)s::text[], %(types)s::text[]) AS asked (name, stem, type)
    JOIN plain_names AS held ON held.stem = asked.stem AND held.type = asked.type
    JOIN assets AS side ON side.main_id = held.asset_id AND side.wanted_key = asked.name
""")
    + "ORDER BY published_at"
)

_RETIRED = "SELECT EXISTS (SELECT FROM retired_names WHERE name_sha256 = ANY(%(names)s))"


async def find_readable(
    database: Database,
    asked: tuple[str, ...],
    user_id: str | None,
    *,
    operator: bool = False,
    reserved: Sequence[str] = (),
) -> ReadableAsset | None:
    """The row that a key names for this caller, by its readings, most literal first; None when there is none. `reserved`:
    patterns of the plain names of the studio's own files."""

    async def ask(connection: Connection) -> ReadableAsset | None:
        found = await _candidates(connection, asked, user_id, operator=operator)
        if not found and user_id is not None and names.is_public(asked[0]):
            # A key that an upload had with a tag of no public key; see `uploads.targets`.
            digests = [hashlib.sha256(f"asset:{key}".encode()).digest() for key in asked]
            row = await (await connection.execute(_RETIRED, {"names": digests})).fetchone()
            if row is None or not row[0]:
                plain = tuple(names.plain(key) for key in asked)
                found = await _candidates(connection, plain, user_id, operator=operator)
                found = [one for one in found if one.via is Via.OWN]
        chosen = names.choose(found, reserved)
        if chosen is None or chosen.file[0]:
            return None
        row = ReadableAsset(*chosen.file[1:])
        return replace(row, by_public_key=chosen.place == 1 and row.s3_key == asked[0])

    return await database.query(ask)


async def _candidates(
    connection: Connection, asked: tuple[str, ...], user_id: str | None, *, operator: bool
) -> list[Candidate[tuple[Any, ...]]]:
    parameters: dict[str, Any] = {"user": user_id, "operator": operator, "keys": list(asked)}
    cursor = await connection.execute(READABLE.encode(), parameters, binary=True)
    rows = await cursor.fetchall()
    sidecars = [key for text in asked if (key := keys.sidecar(text)) is not None]
    if sidecars and all(ended for _, _, _, ended, *_ in rows):
        parameters |= {
            "sidecars": [key.text for key in sidecars],
            "stems": [key.stem for key in sidecars],
            "types": [key.kind.value for key in sidecars],
        }
        cursor = await connection.execute(_BESIDE.encode(), parameters, binary=True)
        rows += await cursor.fetchall()
    return [
        Candidate(name, place, Via(via), ended, readable, tuple(file))
        for name, place, via, ended, readable, *file in rows
    ]


# A derived picture is of one object; an uploaded one is the owner's choice for the name, and goes first.
_THUMBNAIL = f"""
    SELECT {", ".join(f"thumb.{column.strip()}" for column in _READABLE_COLUMNS.split(","))}, %(public)s::boolean
    FROM assets AS main
    JOIN assets AS thumb ON thumb.main_id = main.id
    LEFT JOIN asset_objects AS stored ON stored.object_key = thumb.object_key
    WHERE main.id = %(id)s AND thumb.sidecar = 'thumb' AND thumb.status = 'ready' AND thumb.deleted_at IS NULL
      AND (stored.origin IS DISTINCT FROM 'derived'
           OR (thumb.facts ->> 'derived_from' = main.object_key
               AND thumb.facts ->> 'derived_etag' IS NOT DISTINCT FROM main.etag))
    ORDER BY stored.origin IS NOT DISTINCT FROM 'derived', thumb.updated_at DESC, thumb.id
    LIMIT 1
"""


async def find_thumbnail(database: Database, main: ReadableAsset) -> ReadableAsset | None:
    """The stored picture of a file: the one its owner uploaded, else the one that inspection found inside it; None while
    there is none. It is as public as the file."""

    async def ask(connection: Connection) -> tuple[Any, ...] | None:
        parameters = {"id": main.id, "public": main.public}
        return await (await connection.execute(_THUMBNAIL, parameters, binary=True)).fetchone()

    row = await database.query(ask)
    return ReadableAsset(*row) if row else None
