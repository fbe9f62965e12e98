"""The tables of the library.

The generated column `assets.item` is the list item of the studio contract, maintained by Postgres itself (function
`butai_asset_item` of migration 0031), so that a list is one index scan and a string concatenation. Before it come the names by
which a caller knows the file: `own_names` for its owner, `names` for all others.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from butai.assets.kinds import AssetType, Sidecar
from butai.assets.object_states import ObjectState
from butai.assets.states import AssetStatus
from butai.database import Model

LISTED = "status = 'ready' AND deleted_at IS NULL AND sidecar IS NULL"
"""The condition of every list, for every caller. Partial indexes and list queries must have the same text."""

ORIGINS = ("upload", "signed", "import", "resumable", "derived", "trash")
"""The source of an object's bytes: a form, a signed URL, an existing bucket, a tus upload, a thumbnail made by the
service, or an orphan that was moved to the trash."""

SORTS = ("created_at", "updated_at", "sort_name", "size_bytes")


def _list_indexes() -> list[Index]:
    """Returns, for each sort, one index over public assets and one over an owner's private ones: a list merges two
    scans."""
    made: list[Index] = []
    for sort in SORTS:
        made.append(
            Index(
                f"ix_assets_public_{sort}",
                "type",
                sort,
                "id",
                postgresql_where=text(f"{LISTED} AND visibility = 'public'"),
            )
        )
        made.append(
            Index(
                f"ix_assets_private_{sort}",
                "owner_user_id",
                "type",
                sort,
                "id",
                postgresql_where=text(f"{LISTED} AND visibility = 'private'"),
            )
        )
    return made


def _one_of(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


class Asset(Model):
    """One file of the library, or a sidecar of one. Sizes are bytes, times are UTC, `sha256` is hexadecimal."""

    __tablename__ = "assets"
    __table_args__ = (
        CheckConstraint(_one_of("type", AssetType), name="type"),
        CheckConstraint(_one_of("status", AssetStatus), name="status"),
        CheckConstraint(_one_of("sidecar", Sidecar), name="sidecar"),
        CheckConstraint(_one_of("visibility", ("public", "private")), name="visibility"),
        CheckConstraint("taken_down_at IS NULL OR visibility = 'private'", name="private_while_down"),
        CheckConstraint(
            "status <> 'ready' OR (object_key IS NOT NULL AND size_bytes IS NOT NULL)", name="ready_has_bytes"
        ),
        # Each user has a name space of their own: one row for each key that they ever asked for.
        Index("uq_assets_owner_wanted", "owner_user_id", "wanted_key", unique=True),
        Index("uq_assets_ownerless_wanted", "wanted_key", unique=True, postgresql_where=text("owner_user_id IS NULL")),
        Index("ix_assets_stem", "stem", "owner_user_id"),
        Index("ix_assets_main", "main_id", postgresql_where=text("main_id IS NOT NULL")),
        Index("ix_assets_change", "change_seq"),
        Index("ix_assets_taken_down", "owner_user_id", "sha256", postgresql_where=text("taken_down_at IS NOT NULL")),
        Index("ix_assets_public_again", "owner_user_id", postgresql_where=text("public_again")),
        Index("ix_assets_trash", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
        # Words, tags and names in one index: Postgres never combines two partial indexes with the same condition.
        Index(
            "ix_assets_search",
            "terms",
            "tags",
            "display_name",
            postgresql_using="gin",
            postgresql_ops={"display_name": "gin_trgm_ops"},
            postgresql_where=text(LISTED),
        ),
        Index("ix_assets_triangles", "type", "triangles", postgresql_where=text("triangles IS NOT NULL")),
        Index("ix_assets_duration", "type", "duration_seconds", postgresql_where=text("duration_seconds IS NOT NULL")),
        Index("ix_assets_created", "created_at", "id", postgresql_where=text("sidecar IS NULL")),
        Index(
            "ix_assets_unready",
            "status",
            "created_at",
            "id",
            postgresql_where=text("sidecar IS NULL AND status <> 'ready'"),
        ),
        Index(
            "ix_assets_uninspected",
            "id",
            postgresql_where=text("status = 'ready' AND sidecar IS NULL AND inspected_key IS DISTINCT FROM object_key"),
        ),
        *_list_indexes(),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    type: Mapped[str]
    sidecar: Mapped[str | None]
    s3_key: Mapped[str] = mapped_column(unique=True)
    wanted_key: Mapped[str]
    stem: Mapped[str]
    main_id: Mapped[UUID | None] = mapped_column(ForeignKey("assets.id", ondelete="SET NULL"))
    """The file that a sidecar belongs to; None while there is none of its name."""
    of_studio: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether an operator published or replaced it: it goes before users' files under a plain name. What has no owner does
    as well."""
    title: Mapped[str | None]
    """The display name that follows from the key."""
    named: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether a person chose the display name, so that no `_meta.json` changes it."""
    display_name: Mapped[str]
    sort_name: Mapped[str] = mapped_column(
        Text(collation="C"), Computed('lower(display_name) COLLATE "C"', persisted=True), deferred=True
    )
    mime_type: Mapped[str]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    status: Mapped[str]
    owner_user_id: Mapped[str | None]
    visibility: Mapped[str]
    ever_public: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    object_key: Mapped[str | None]
    sha256: Mapped[str | None]
    etag: Mapped[str | None]
    last_checked_at: Mapped[datetime | None]
    missing_since: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    description: Mapped[str] = mapped_column(server_default=text("''"))
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    meta: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    duration_seconds: Mapped[float | None]
    thumbnail_key: Mapped[str | None]
    """The thumbnail's public key; `own_thumbnail_key` is its wanted key."""
    own_thumbnail_key: Mapped[str | None]
    change_seq: Mapped[int] = mapped_column(BigInteger)
    facts: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    """Facts of the object named by `inspected_key`; `inspect_error` is the code of why there are none."""
    inspected_key: Mapped[str | None]
    inspect_error: Mapped[str | None]
    triangles: Mapped[int | None] = mapped_column(BigInteger)
    terms: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    """Words of the facts that lists filter by, such as `licence.commercial=allowed` or `expression=happy`."""
    public_again: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether it was public before its owner was suspended or it was taken down, and is to be public afterwards."""
    taken_down_at: Mapped[datetime | None]
    taken_down_reason: Mapped[str | None]
    """Why an operator has taken it down, for its owner to read."""
    summary: Mapped[str] = mapped_column(
        Computed("butai_asset_summary(type, status, visibility, triangles, facts)", persisted=True), deferred=True
    )
    """The fields of a search's item beyond those of `item` (function `butai_asset_summary` of migration 0004)."""
    item: Mapped[str] = mapped_column(
        Computed(
            "butai_asset_item(id, type, wanted_key, display_name, mime_type, size_bytes, visibility, created_at, updated_at, "
            "tags, thumbnail_key, description, meta, duration_seconds)",
            persisted=True,
        ),
        deferred=True,
    )
    names: Mapped[str] = mapped_column(
        Computed("butai_asset_names(type, s3_key, thumbnail_key)", persisted=True), deferred=True
    )
    own_names: Mapped[str] = mapped_column(
        Computed("butai_asset_names(type, wanted_key, own_thumbnail_key)", persisted=True), deferred=True
    )


class PlainName(Model):
    """A key as the name by which all callers find a file: that of the first user who published under it, or of the studio's own
    file. It outlives the asset, so that the name stays with its holder."""

    __tablename__ = "plain_names"
    __table_args__ = (
        Index("ix_plain_names_stem", "stem", "type"),
        Index("ix_plain_names_owner", "owner_user_id"),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    of_studio: Mapped[bool] = mapped_column(primary_key=True)
    owner_user_id: Mapped[str | None]
    type: Mapped[str]
    stem: Mapped[str]
    asset_id: Mapped[UUID]
    published_at: Mapped[datetime] = mapped_column(server_default=func.now())


class AssetObject(Model):
    """The ledger: each key of the bucket that was ever minted or adopted, so that every object is known.

    `state` is one of `object_states.ObjectState`. While it is `writing`: until `lease_until` its writer counts as
    alive, or its signed URL as valid; at `next_look_at` the sweep checks whether a signed upload has arrived.
    `settled_at`: when the state last changed. `upload_id`: the store's multipart upload, while its parts may have to be
    removed. `writable_until`: until then a URL of the store may write the object, whatever its state is.
    `claimed_until`: until then one request or sweep has the arrived object to itself; of a signed PUT to this service,
    that its one request has begun. `held_bytes`: bytes that count in
    its owner's quota while it is condemned and either still stored or still writable."""

    __tablename__ = "asset_objects"
    __table_args__ = (
        CheckConstraint(_one_of("state", ObjectState), name="state"),
        CheckConstraint(_one_of("origin", ORIGINS), name="origin"),
        Index(
            "ix_asset_objects_writing",
            "lease_until",
            "next_look_at",
            postgresql_where=text(f"state = '{ObjectState.WRITING}'"),
        ),
        Index("ix_asset_objects_condemned", "settled_at", postgresql_where=text(f"state = '{ObjectState.CONDEMNED}'")),
        Index("ix_asset_objects_asset", "asset_id"),
    )

    object_key: Mapped[str] = mapped_column(primary_key=True)
    asset_id: Mapped[UUID | None] = mapped_column(ForeignKey("assets.id", ondelete="SET NULL"))
    origin: Mapped[str]
    state: Mapped[str]
    attempt: Mapped[int]
    upload_id: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    next_look_at: Mapped[datetime | None]
    writable_until: Mapped[datetime | None]
    claimed_until: Mapped[datetime | None]
    declared_size: Mapped[int | None] = mapped_column(BigInteger)
    declared_sha256: Mapped[str | None]
    held_bytes: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    settled_at: Mapped[datetime | None]


class AssetWaveform(Model):
    """The waveform of the object named by `object_key`: the loudest sample of each equal stretch, 0 to 32767."""

    __tablename__ = "asset_waveforms"

    asset_id: Mapped[UUID] = mapped_column(ForeignKey("assets.id", ondelete="CASCADE"), primary_key=True)
    object_key: Mapped[str]
    peaks: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))


class AssetEvent(Model):
    """One event of an asset. Outlives the asset itself."""

    __tablename__ = "asset_events"
    __table_args__ = (Index("ix_asset_events_asset", "asset_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    asset_id: Mapped[UUID]
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    event: Mapped[str]
    from_status: Mapped[str | None]
    to_status: Mapped[str]
    actor: Mapped[str | None]
    attempt: Mapped[int]
    error_code: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))


class AssetTombstone(Model):
    """The record that remains of a purged asset, for readers of the change feed."""

    __tablename__ = "asset_tombstones"
    __table_args__ = (Index("ix_asset_tombstones_change", "change_seq"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    type: Mapped[str]
    owner_user_id: Mapped[str | None]
    ever_public: Mapped[bool]
    change_seq: Mapped[int] = mapped_column(BigInteger)
    deleted_at: Mapped[datetime] = mapped_column(server_default=func.now())
