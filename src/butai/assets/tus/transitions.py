"""All writes of `resumable_uploads`, each in its caller's transaction.

Each request takes the row's `writer` number, and its writes hold only while that number is still its own: the newest
request wins at once, and an older one learns of it at its next write (`UploadTaken`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import Select, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets.tus.models import ResumableUpload
from butai.assets.tus.states import RESUMABLE_TABLE, ResumableState, ResumableTrigger
from butai.errors import UploadTaken


def create(session: AsyncSession, **facts: Any) -> ResumableUpload:
    """Adds a row without bytes. `facts`: its user, asset, object key, wanted key, lengths and times."""
    row = ResumableUpload(
        id=uuid.uuid7(),
        upload_offset=0,
        writer=0,
        parts=[],
        state=RESUMABLE_TABLE.after(None, ResumableTrigger.CREATED),
        **facts,
    )
    session.add(row)
    return row


async def lock(session: AsyncSession, upload_id: UUID) -> ResumableUpload | None:
    """Returns the row, locked until the transaction ends; None when there is none."""
    return await session.scalar(select(ResumableUpload).where(ResumableUpload.id == upload_id).with_for_update())


def take_over(row: ResumableUpload) -> None:
    """Makes the caller the writer of a locked row; its number is then `row.writer`."""
    row.writer += 1


async def move(session: AsyncSession, upload_id: UUID, writer: int, trigger: ResumableTrigger, **facts: Any) -> None:
    """Moves a row by the table, and writes `facts` with it. Raises `UploadTaken`, having changed nothing, when another
    request has taken over or has ended the upload, and also for a late or repeated trigger."""
    sources, target = RESUMABLE_TABLE.arrows(trigger)
    moved = await session.execute(
        update(ResumableUpload)
        .where(
            ResumableUpload.id == upload_id,
            ResumableUpload.writer == writer,
            ResumableUpload.state.in_(sorted(sources)),
        )
        .values(state=target, updated_at=datetime.now(UTC), **facts)
    )
    if not moved.rowcount:  # pyright: ignore[reportAttributeAccessIssue]
        raise UploadTaken


async def reserve_part(session: AsyncSession, upload_id: UUID, writer: int) -> int:
    """Returns a part number that no other request has or had: a late part never replaces a newer one.

    Raises `UploadTaken`.
    """
    number = await session.scalar(
        update(ResumableUpload)
        .where(
            ResumableUpload.id == upload_id,
            ResumableUpload.writer == writer,
            ResumableUpload.state == ResumableState.OPEN,
        )
        .values(next_part=ResumableUpload.next_part + 1)
        .returning(ResumableUpload.next_part - 1)
    )
    if number is None:
        raise UploadTaken
    return number


async def forget(session: AsyncSession, before: datetime) -> None:
    """Deletes the rows of uploads that expired before a time. Their records are the asset and its events."""
    await session.execute(delete(ResumableUpload).where(ResumableUpload.expires_at < before))


def of_user(user_id: str) -> Select[UUID]:
    """The query of all uploads of a user."""
    return select(ResumableUpload.id).where(ResumableUpload.user_id == user_id)


async def erase(session: AsyncSession, user_id: str) -> None:
    """Deletes all uploads of a user with their bytes in the table."""
    await session.execute(delete(ResumableUpload).where(ResumableUpload.user_id == user_id))
