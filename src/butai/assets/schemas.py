"""The types of the library's requests and answers: validated, encoded and documented."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# Postgres cannot store NUL and lone surrogates; other control characters do not belong in a name.
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=255, strip_whitespace=True, pattern=r"^[^\x00-\x1f\x7f]*$")
]
Prose = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]
Tag = Annotated[
    str, StringConstraints(min_length=1, max_length=64, strip_whitespace=True, pattern=r"^[^\x00-\x1f\x7f]*$")
]

AssetTypeName = Literal["vrm", "animation", "bgm", "hdr", "scene"]


StatusName = Literal["uploading", "ready", "failed", "missing"]
VisibilityName = Literal["public", "private"]


class AssetOut(msgspec.Struct, frozen=True):
    """One asset. Times are UTC, sizes bytes. `error_code`, `attempts` and `error_detail` are about uploads that failed.

    `facts` is read from inside the file, in sections (`model`, `licence`, `animation`, `sound`, `picture`); it comes a
    moment after the upload. `inspect_error` is the code of why there are no facts. `warnings` are codes too. `s3_key` and `url`
    are by the key that its owner asked for, for its owner, and by its public key for others; `public_url` is for all.
    """

    id: UUID
    type: AssetTypeName
    s3_key: str
    display_name: str
    description: str
    mime_type: str
    size_bytes: int | None
    status: StatusName
    owner_user_id: str | None
    visibility: VisibilityName
    created_at: datetime
    updated_at: datetime
    error_code: str | None
    error_detail: str | None
    attempts: int
    sha256: str | None
    tags: list[str]
    meta: dict[str, Any]
    sidecar: Literal["thumb", "meta"] | None
    url: str
    public_url: str
    thumbnail: str | None
    missing_since: datetime | None
    deleted_at: datetime | None
    change_seq: int
    facts: dict[str, Any]
    inspect_error: str | None
    triangles: int | None
    duration_seconds: float | None
    warnings: list[str]
    taken_down_at: datetime | None
    taken_down_reason: str | None


class WaveformOut(msgspec.Struct, frozen=True):
    """The loudest sample of each of at most 800 equal stretches, 0 to 32767; the whole lasts `duration_seconds`."""

    peaks: list[int]
    duration_seconds: float


class TakenDownOut(msgspec.Struct, frozen=True):
    """Since when an operator has taken a file down, and why: in its owner's lists alone."""

    at: datetime
    reason: str


class AssetItem(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """One asset in a list; the fields of its `_meta.json` stand beside these. `size` in bytes, `duration` in seconds.

    In camelCase, as the studio contract requires: all lists show the same item. Postgres writes it (function
    `butai_asset_item` of migration 0031), and a page is sent as it was written.
    """

    id: UUID
    name: str
    url: str
    s3_key: str
    size: int
    type: str
    category: AssetTypeName
    mime_type: str
    visibility: VisibilityName
    created_at: datetime
    updated_at: datetime
    tags: list[str]
    has_thumbnail: bool
    description: str
    thumbnail: str | None = None
    duration: float | None = None
    taken_down: TakenDownOut | None = None


class ChangedAsset(AssetItem, frozen=True, rename="camel", kw_only=True):
    """An item of the change feed."""

    status: StatusName


class FoundAsset(ChangedAsset, frozen=True, rename="camel", kw_only=True):
    """An item of a search. `facts` is a summary of the file's facts; `warnings` are codes, such as
    `licence_forbids_redistribution`."""

    triangles: int | None
    facts: dict[str, Any]
    warnings: list[str]
    owned_by_me: bool


class ChangesOut(msgspec.Struct, frozen=True):
    """The changes since a place. `next`: `after` of the next call, never null; call again at once when `has_more`."""

    assets: Annotated[list[ChangedAsset], msgspec.Meta(description="The newest state of each changed asset")]
    gone: Annotated[list[UUID], msgspec.Meta(description="Ids that were purged, trashed or made private: delete them.")]
    next: int
    has_more: bool


class AssetPage(msgspec.Struct, frozen=True):
    """A page of a search. `next`: `cursor` of the next page; null on the last."""

    items: list[FoundAsset]
    next: str | None
    total: Annotated[int | None, msgspec.Meta(description="How many assets match, if the request asked for it")]
    total_is_exact: bool


class FacetCount(msgspec.Struct, frozen=True):
    """How many assets have a value."""

    value: str
    count: int


class FacetsOut(msgspec.Struct, frozen=True):
    """The values of each facet among the matching assets: most frequent first, 50 at most."""

    counted: Annotated[int, msgspec.Meta(description="Assets that were counted")]
    is_exact: Annotated[bool, msgspec.Meta(description="Whether these are all matching assets")]
    types: list[FacetCount]
    formats: list[FacetCount]
    licence: Annotated[
        dict[str, list[FacetCount]], msgspec.Meta(description="By part: `commercial`, `redistribution`, …")
    ]
    expressions: list[FacetCount]
    tags: list[FacetCount]


class AssetEdit(BaseModel):
    """The fields to change; absent fields stay as they are. `displayName` is an old name, accepted for one version."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"display_name": "Aoi", "visibility": "public"}]}
    )

    display_name: Name | None = None
    displayName: Annotated[Name | None, Field(json_schema_extra={"deprecated": True})] = None
    visibility: Literal["public", "private"] | None = None
    description: Prose | None = None
    tags: Annotated[list[Tag], Field(max_length=64)] | None = None


class Pagination(msgspec.Struct, frozen=True, rename="camel"):
    """The position of a page. `total` is counted up to 10,000 and estimated beyond (`totalIsExact`)."""

    page: int
    page_size: int
    total: int | None
    total_is_exact: bool
    has_more: bool
    next_cursor: str | None


class ResourcePage(msgspec.Struct, frozen=True):
    """A page of a list in the studio contract's form. `success` is true."""

    success: bool
    data: list[AssetItem]
    pagination: Pagination


class UploadData(msgspec.Struct, frozen=True, rename="camel"):
    """The stored file. `fileName` and `s3Key` are the key under which its owner has it."""

    file_name: str
    original_name: str
    size: int
    type: str
    url: str
    id: UUID
    s3_key: str


class UploadOut(msgspec.Struct, frozen=True):
    """An upload that is stored and indexed. `success` is true."""

    success: bool
    message: str
    data: UploadData


class PresignRequest(BaseModel):
    """The file to be uploaded. `size` and `sha256` are checked when given."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"fileName": "vrm/Aoi.vrm", "fileType": "model/gltf-binary", "size": 12345678}]}
    )

    # Empty values are refused in the route, where the answer can be the contract's MISSING_PARAMETERS.
    fileName: str = Field(max_length=4096, json_schema_extra={"minLength": 1})
    fileType: str = Field(max_length=255, json_schema_extra={"minLength": 1})
    contentType: str | None = Field(None, max_length=255)
    size: int | None = Field(None, ge=1, le=5 * 1024**3)
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")] | None = None


class PresignData(msgspec.Struct, frozen=True, rename="camel"):
    """PUT the bytes to `url` with `headers`, then POST to `completeUrl`."""

    url: str
    expires_in: int
    method: Literal["PUT"]
    headers: dict[str, str]
    id: UUID
    file_name: str
    s3_key: str
    read_url: str
    complete_url: str


class PresignOut(msgspec.Struct, frozen=True):
    """A signed upload. `success` is true."""

    success: bool
    data: PresignData
