"""The table of the keys of encoders."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, LargeBinary, func, text
from sqlalchemy.orm import Mapped, mapped_column

from butai.database import Model


class EncoderKey(Model):
    """A key with which an encoder publishes into a room. The key itself is stored nowhere: `key_hash` is its SHA-256, and
    `key_fingerprint` the hash's beginning, by which rows are found and hosts recognise a key."""

    __tablename__ = "encoder_keys"
    __table_args__ = (
        Index("ix_encoder_keys_room", "room_id", "created_at"),
        Index("ix_encoder_keys_fingerprint", "key_fingerprint"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    room_id: Mapped[str] = mapped_column(ForeignKey("rooms.room_id"))
    label: Mapped[str] = mapped_column(server_default=text("''"))
    key_hash: Mapped[bytes] = mapped_column(LargeBinary)
    key_fingerprint: Mapped[str]
    renewed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When the present key was made."""
    token_generation: Mapped[int | None]
    """The generation of the host token that made it, with which it ends; None if a signed-in user did."""
    created_by: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_used_at: Mapped[datetime | None]
    last_used_from: Mapped[str | None]
    """The IP address of the encoder that used it last."""
    revoked_at: Mapped[datetime | None]
