"""The bytes of a resumable upload that are too few for a part of the store, in rows of their own (`resumable_pieces`).

A request adds its own bytes and rewrites none but the last piece while that is small, so what it writes in Postgres is
in proportion to what it sends: with `PIECE` bytes at most rewritten, a part of 5 MiB is at most 1,280 rows. Each function
works in its caller's transaction, which holds the upload's row.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets.tus.models import ResumablePiece

PIECE = 8 * 1024
"""Bytes from which a piece is no longer extended. A smaller number makes more rows, a larger one more writing for each
byte: one page of Postgres is between the two."""

_EXTEND = text("UPDATE resumable_pieces SET body = body || :body WHERE upload_id = :upload AND first_byte = :first")


async def append(session: AsyncSession, upload_id: UUID, offset: int, body: bytes) -> None:
    """Adds `body`, which begins at `offset` of the file: to the last piece when both are small, else as a new one."""
    newest = (
        select(ResumablePiece.first_byte, func.length(ResumablePiece.body))
        .where(ResumablePiece.upload_id == upload_id)
        .order_by(ResumablePiece.first_byte.desc())
        .limit(1)
    )
    last = (await session.execute(newest)).one_or_none()
    if last is not None and sum(last) == offset and last[1] < PIECE and len(body) < PIECE:
        await session.execute(_EXTEND, {"body": body, "upload": upload_id, "first": last[0]})
    else:
        await session.execute(insert(ResumablePiece).values(upload_id=upload_id, first_byte=offset, body=body))


async def read(session: AsyncSession, upload_id: UUID) -> bytes:
    """Returns all pieces of an upload, joined."""
    found = await session.scalars(
        select(ResumablePiece.body).where(ResumablePiece.upload_id == upload_id).order_by(ResumablePiece.first_byte)
    )
    return b"".join(found)


async def forget(session: AsyncSession, upload_id: UUID, before: int | None = None) -> None:
    """Deletes the pieces that begin before a byte of the file, which are in a part by now; all without `before`."""
    pieces = delete(ResumablePiece).where(ResumablePiece.upload_id == upload_id)
    await session.execute(pieces if before is None else pieces.where(ResumablePiece.first_byte < before))
