"""The tables of the keys of encoders, and of the encoders that publish with them now."""

from __future__ import annotations

from datetime import datetime
from typing import Any
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


class ConnectedEncoder(Model):
    """The connection of the encoder that publishes with a key. Without one that was seen lately none is connected: an ingest that
    died left its rows."""

    __tablename__ = "encoder_connections"

    key_id: Mapped[UUID] = mapped_column(ForeignKey("encoder_keys.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[UUID]
    """The connection's own: a newer one with the same key has the row, and the ingest of the older one ends it."""
    ingest: Mapped[str]
    """The process that has the connection: host, process id, and a random part."""
    address: Mapped[str]
    """The IP address of the encoder."""
    since: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When the ingest wrote last that it is there."""
    broadcast_id: Mapped[UUID | None]
    """The broadcast whose relay takes what it sends; None in a rehearsal."""
    figures: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    """What it sends, as `butai.ingest.publishers` measures it."""
