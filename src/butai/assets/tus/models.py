"""The tables of resumable uploads."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from butai.assets.tus.states import ResumableState
from butai.database import Model


class ResumableUpload(Model):
    """One tus upload. Sizes are bytes; `state` is one of `states.ResumableState`.

    `parts`: the parts in the store, in order, as [number, ETag, bytes]; the bytes after them are in `ResumablePiece`, as
    long as they are too few for a part. `writer` grows with each PATCH: only the newest may move `upload_offset`. A part's
    number is taken from `next_part` before it is sent, so that a late part of an older writer never replaces a newer one's.
    """

    __tablename__ = "resumable_uploads"
    __table_args__ = (
        CheckConstraint(f"state IN ({', '.join(repr(str(state)) for state in ResumableState)})", name="state"),
        Index("ix_resumable_uploads_user", "user_id", "state"),
        Index(
            "ix_resumable_uploads_expiry",
            "expires_at",
            postgresql_where=text(f"state IN ('{ResumableState.OPEN}', '{ResumableState.FINISHING}')"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[str]
    asset_id: Mapped[UUID | None] = mapped_column(ForeignKey("assets.id", ondelete="SET NULL"))
    object_key: Mapped[str] = mapped_column(ForeignKey("asset_objects.object_key"))
    wanted_key: Mapped[str]
    upload_length: Mapped[int] = mapped_column(BigInteger)
    upload_offset: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    declared_sha256: Mapped[str | None]
    metadata_header: Mapped[str] = mapped_column("metadata", server_default=text("''"))
    state: Mapped[str]
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]
    writer: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    parts: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'"))
    next_part: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]


class ResumablePiece(Model):
    """Bytes of an upload that no part of the store has yet, from `first_byte` of the file on. Pieces follow one another
    without gaps."""

    __tablename__ = "resumable_pieces"

    upload_id: Mapped[UUID] = mapped_column(ForeignKey("resumable_uploads.id", ondelete="CASCADE"), primary_key=True)
    first_byte: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)
