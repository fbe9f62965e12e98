"""The tables of LiveKit Egress: what each project answers, and what was requested of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, Integer, func, text
from sqlalchemy.orm import Mapped, mapped_column

from butai.database import Model


class LiveKitProject(Model):
    """A LiveKit project as its poller sees it (`poller`): the polling controller, and the state of the API.

    `failing_since` with its `error_code`: since when the API does not answer (`livekit_unreachable`) or refuses our key
    (`livekit_unauthorized`). `worker_failures`: consecutive starts without a free egress worker; none is made before
    `worker_next_at`.
    """

    __tablename__ = "livekit_projects"

    name: Mapped[str] = mapped_column(primary_key=True)
    lease_holder: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    polled_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    error_code: Mapped[str | None]
    worker_failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    worker_next_at: Mapped[datetime | None]


class LiveKitEgress(Model):
    """One attempt of an output at LiveKit Egress: the request, and LiveKit's last report of it.

    Written before the request is sent, so that each attempt has at most one request, whichever controller holds the
    lease. `egress_id` is known with the answer; a row without one is in doubt. In shared mode several rows have one
    egress. `seen`: the meaning of LiveKit's newest report (`evidence`), which holds no URL. A change notifies
    `butai_egress` with the broadcast's id.
    """

    __tablename__ = "livekit_egresses"
    __table_args__ = (
        Index("uq_livekit_egresses_attempt", "output_id", "attempt", unique=True),
        Index("ix_livekit_egresses_broadcast", "broadcast_id"),
        Index("ix_livekit_egresses_egress", "egress_id"),
        Index("ix_livekit_egresses_open", "project", postgresql_where=text("over_at IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    project: Mapped[str]
    room_id: Mapped[str]
    broadcast_id: Mapped[UUID] = mapped_column(ForeignKey("broadcasts.id"))
    output_id: Mapped[UUID] = mapped_column(ForeignKey("outputs.id"))
    attempt: Mapped[int]
    backup: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether it was sent to the destination's second ingest URL."""
    asked_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    egress_id: Mapped[str | None]
    seen: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    seen_at: Mapped[datetime | None]
    stop_asked_at: Mapped[datetime | None]
    over_at: Mapped[datetime | None]
    """Nothing of it runs any more, or LiveKit no longer knows it."""
