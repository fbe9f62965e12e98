"""The tables of going live. Services write the wanted state; `reconcile.transitions` alone writes the actual one."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from butai.database import Model
from butai.live.states import BroadcastWanted, IngressState, OutputState, OutputWanted

PLATFORMS = ("youtube", "twitch", "custom")
_WITHOUT_INGRESS = (IngressState.MAKING, IngressState.ABANDONED, IngressState.FAILED)


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


class Room(Model):
    """A LiveKit room with an owner. `host_identity`: the participant whose tracks go on air."""

    __tablename__ = "rooms"
    __table_args__ = (
        Index("ix_rooms_owner", "owner_user_id", "created_at"),
        Index("ix_rooms_removal", "removal_until", postgresql_where=text("removal_until IS NOT NULL")),
        Index("ix_rooms_idle", "idle_since", postgresql_where=text("idle_since IS NOT NULL")),
    )

    room_id: Mapped[str] = mapped_column(primary_key=True)
    owner_user_id: Mapped[str]
    host_identity: Mapped[str]
    origin: Mapped[str] = mapped_column(server_default=text("'made'"))
    """`made` by Butai, or `claimed` with a token that may administer it."""
    livekit_project: Mapped[str] = mapped_column(server_default=text("'default'"))
    """The LiveKit project that it is in (`projects`); never changes."""
    token_generation: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    """The generation of its valid tokens, which is in their stamps (`stamps`)."""
    tokens_revoked_at: Mapped[datetime | None]
    """When the generation was raised last."""
    removal_until: Mapped[datetime | None]
    """Until when holders of revoked tokens may join at LiveKit and are removed (`rooms.removal`); cleared by the first
    look after that."""
    closed_at: Mapped[datetime | None]
    given_up_at: Mapped[datetime | None]
    """A room that was given up is closed for good; its name is not free again."""
    idle_since: Mapped[datetime | None]
    """Since when it exists at LiveKit without a participant and without a broadcast (`rooms.idle`)."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class RoomInvitation(Model):
    """An invitation to watch a room. Its token, which is stored nowhere, has the row's id in its stamp."""

    __tablename__ = "room_invitations"
    __table_args__ = (
        Index("ix_room_invitations_room", "room_id", "created_at"),
        Index("ix_room_invitations_expired", "expires_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    room_id: Mapped[str] = mapped_column(ForeignKey("rooms.room_id"))
    name: Mapped[str] = mapped_column(server_default=text("''"))
    token_generation: Mapped[int]
    created_by: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    taken_back_at: Mapped[datetime | None]


class Destination(Model):
    """A user's saved platform. `sealed_key`: the stream key (`stream_keys`), empty once the destination is deleted;
    `key_fingerprint`: recognises the key and reveals nothing of it."""

    __tablename__ = "destinations"
    __table_args__ = (
        CheckConstraint(_one_of("platform", PLATFORMS), name="platform"),
        Index("ix_destinations_owner", "owner_user_id", "platform", "created_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner_user_id: Mapped[str]
    platform: Mapped[str]
    label: Mapped[str] = mapped_column(server_default=text("''"))
    ingest_url: Mapped[str]
    backup_ingest_url: Mapped[str | None]
    sealed_key: Mapped[bytes] = mapped_column(LargeBinary)
    key_fingerprint: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]


class Broadcast(Model):
    """One time on air of a room, from start to end; its id is the API's `session_id`.

    `wanted`: `on_air` or `off_air`. `lease_holder` is the controller responsible until `lease_until`; `lease_epoch`
    grows with each new holder. `engine_…`: where its engine runs, for the next controller. `source_phase`: the state of
    the host's media as the engine reports it.
    """

    __tablename__ = "broadcasts"
    __table_args__ = (
        CheckConstraint(_one_of("wanted", tuple(BroadcastWanted)), name="wanted"),
        CheckConstraint(_one_of("on_source_lost", ("end", "stay")), name="on_source_lost"),
        Index("uq_broadcasts_active_room", "room_id", unique=True, postgresql_where=text("ended_at IS NULL")),
        Index("ix_broadcasts_room", "room_id", "created_at"),
        Index("ix_broadcasts_lease", "lease_until", postgresql_where=text("ended_at IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    room_id: Mapped[str] = mapped_column(ForeignKey("rooms.room_id"))
    started_by: Mapped[str | None]
    host_identity: Mapped[str]
    wanted: Mapped[str]
    preset: Mapped[str]
    chosen_preset: Mapped[str | None]
    """The host's preset, where a machine that fell behind took the broadcast with a smaller one."""
    video_source: Mapped[str] = mapped_column(server_default=text("'any'"))
    video_name: Mapped[str] = mapped_column(server_default=text("''"))
    source_grace: Mapped[float]
    on_source_lost: Mapped[str]
    hold_until_media: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether outputs wait for the host's first picture; with `sound_only` for the first sound or picture."""
    sound_only: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    waiting_since: Mapped[datetime | None]
    """Since when no controller has had room for it; None once one has taken it."""
    stop_asked_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    end_code: Mapped[str | None]
    egress: Mapped[str]
    """`relay` or `livekit`."""
    livekit_project: Mapped[str] = mapped_column(server_default=text("'default'"))
    room_made: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether Butai made the room, and may make it again where LiveKit has lost it."""
    source_phase: Mapped[str] = mapped_column(server_default=text("'connecting'"))
    source_since: Mapped[datetime | None]
    source_code: Mapped[str | None]
    source_ready: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether the present engine has what outputs wait for, if they do."""
    lease_holder: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    lease_epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    engine_host: Mapped[str | None]
    engine_ref: Mapped[str | None]
    engine_seen_at: Mapped[datetime | None]
    engine_failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    engine_next_at: Mapped[datetime | None]


class Output(Model):
    """One broadcast's way to one destination: its state and the number of its `attempt`.

    URL and sealed key are copies, so that a destination may be changed or deleted during a broadcast; each attempt begins
    with those that the destination has (`reconcile.newest`). `tries`: attempts
    of the retry budget used since `budget_from`; a period of stable live restores the budget. `short_lives`: attempts in
    a row that were live for less than that period.
    """

    __tablename__ = "outputs"
    __table_args__ = (
        CheckConstraint(_one_of("platform", PLATFORMS), name="platform"),
        CheckConstraint(_one_of("state", tuple(OutputState)), name="state"),
        CheckConstraint(_one_of("wanted", tuple(OutputWanted)), name="wanted"),
        CheckConstraint(_one_of("confirmation", ("none", "transport", "platform")), name="confirmation"),
        Index("ix_outputs_broadcast", "broadcast_id"),
        # At most one output of a broadcast that has not ended goes to a destination.
        Index(
            "uq_outputs_destination",
            "broadcast_id",
            "destination_id",
            unique=True,
            postgresql_where=text("state <> 'ended'"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    broadcast_id: Mapped[UUID] = mapped_column(ForeignKey("broadcasts.id"))
    destination_id: Mapped[UUID | None]
    """None for the default in the environment (`BUTAI_YOUTUBE_STREAM_KEY`, `BUTAI_TWITCH_STREAM_KEY`)."""
    platform: Mapped[str]
    label: Mapped[str] = mapped_column(server_default=text("''"))
    ingest_url: Mapped[str]
    backup_ingest_url: Mapped[str | None]
    sealed_key: Mapped[bytes] = mapped_column(LargeBinary)
    key_fingerprint: Mapped[str]
    wanted: Mapped[str] = mapped_column(server_default=text("'on'"))
    state: Mapped[str]
    state_since: Mapped[datetime] = mapped_column(server_default=func.now())
    confirmation: Mapped[str] = mapped_column(server_default=text("'none'"))
    attempt: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    attempt_started_at: Mapped[datetime | None]
    next_attempt_at: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    budget_from: Mapped[datetime | None]
    short_lives: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    key_live_at: Mapped[datetime | None]
    """When the platform first accepted the present key in this broadcast: a key that worked is not a wrong one."""
    live_since: Mapped[datetime | None]
    """The beginning of the current period of live."""
    first_live_at: Mapped[datetime | None]
    last_live_at: Mapped[datetime | None]
    retry_asked_at: Mapped[datetime | None]
    """When the host asked for an attempt; cleared by the controller that starts it."""
    error_code: Mapped[str | None]
    error_cause: Mapped[str | None]
    """The last cause under `retries_exhausted`."""
    error_detail: Mapped[str | None]
    """The engine's error text for operators, redacted."""
    check_code: Mapped[str | None]
    """Why its destination cannot be reached, by the newest check while it waits for the first picture."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]


class OutputMetric(Model):
    """An output's newest metrics. The table is unlogged: a crash of Postgres may empty it."""

    __tablename__ = "output_metrics"
    __table_args__ = {"prefixes": ["UNLOGGED"]}  # noqa: RUF012 - SQLAlchemy declares it so

    output_id: Mapped[UUID] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    at: Mapped[datetime]
    data: Mapped[dict[str, Any]]


class LiveEvent(Model):
    """An event in a broadcast or a room. Ids of one broadcast grow in the order of commits, because its row is locked
    while an event is written. A trigger notifies `butai_live` with the row's id, broadcast and room.
    """

    __tablename__ = "live_events"
    __table_args__ = (
        Index("ix_live_events_broadcast", "broadcast_id", "id"),
        Index("ix_live_events_room", "room_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    room_id: Mapped[str]
    broadcast_id: Mapped[UUID | None]
    output_id: Mapped[UUID | None]
    platform: Mapped[str | None]
    event: Mapped[str]
    from_state: Mapped[str | None]
    to_state: Mapped[str | None]
    attempt: Mapped[int | None]
    code: Mapped[str | None]
    actor: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))


class IdempotencyKey(Model):
    """The answer to a request with an `Idempotency-Key`, for its repetitions. Deleted after a day. A key is `caller`'s
    own in the room."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created", "created_at"),)

    room_id: Mapped[str] = mapped_column(primary_key=True, server_default=text("''"))
    caller: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    status: Mapped[int | None]
    answer: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Controller(Model):
    """The running controllers. `capacity`: the cores that each has for engines, None before it has said so; `costs`: the
    cores of a broadcast by engine and preset; `admits`: which newcomers it takes (`reconcile.capacity`)."""

    __tablename__ = "controllers"

    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    broadcasts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    capacity: Mapped[float | None]
    costs: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    admits: Mapped[str] = mapped_column(server_default=text("'all'"))


class LiveKitWebhook(Model):
    """A webhook of LiveKit, stored for `BUTAI_WEBHOOK_DAYS`. `sealed_body`: the raw body; sealed, because LiveKit
    writes an ingress's stream key and pieces of ours into it. Empty without a sealing key."""

    __tablename__ = "livekit_webhooks"
    __table_args__ = (Index("ix_livekit_webhooks_received", "received_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    """LiveKit's id of the event, by which duplicates are recognised."""
    project: Mapped[str]
    event: Mapped[str]
    room_id: Mapped[str | None]
    subject: Mapped[str | None]
    """The identity, egress id, ingress id or track id that the event is about."""
    created_at: Mapped[datetime]
    received_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    sealed_body: Mapped[bytes] = mapped_column(LargeBinary)


class Ingress(Model):
    """A way into a room for hosts with OBS: RTMP or WHIP. `live.ingresses.states` has the table of its states."""

    __tablename__ = "ingresses"
    __table_args__ = (
        CheckConstraint(_one_of("kind", ("rtmp", "whip")), name="kind"),
        CheckConstraint(_one_of("state", tuple(IngressState)), name="state"),
        # LiveKit reports only ingresses that it has made.
        CheckConstraint(
            f"ingress_id IS NOT NULL OR {_one_of('state', _WITHOUT_INGRESS)}",
            name="ingress_id",
        ),
        Index("ix_ingresses_room", "room_id", "created_at"),
        Index("uq_ingresses_ingress_id", "ingress_id", unique=True),
        Index("ix_ingresses_unfilled", "created_at", postgresql_where=text("state IN ('making', 'abandoned')")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    ingress_id: Mapped[str | None]
    """LiveKit's id, once it has made the ingress."""
    room_id: Mapped[str] = mapped_column(ForeignKey("rooms.room_id"))
    project: Mapped[str]
    kind: Mapped[str]
    name: Mapped[str] = mapped_column(server_default=text("''"))
    identity: Mapped[str]
    url: Mapped[str] = mapped_column(server_default=text("''"))
    sealed_key: Mapped[bytes] = mapped_column(LargeBinary, server_default=text("''"))
    key_fingerprint: Mapped[str] = mapped_column(server_default=text("''"))
    state: Mapped[str] = mapped_column(server_default=text("'idle'"))
    state_at: Mapped[datetime] = mapped_column(server_default=func.now())
    reported_at: Mapped[datetime | None]
    """LiveKit's time of the last report that was written; an older report changes nothing."""
    error: Mapped[str | None]
    """LiveKit's error text for operators, redacted."""
    token_generation: Mapped[int | None]
    """The generation of the host token that made it; None if a signed-in user did."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]
