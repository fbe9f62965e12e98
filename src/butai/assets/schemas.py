"""The shapes of the library's requests and answers, for validation and for the documentation."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# NUL and lone surrogates cannot be stored by Postgres; other control characters have no place in a name.
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=255, strip_whitespace=True, pattern=r"^[^\x00-\x1f\x7f]*$")
]
Prose = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]
Tag = Annotated[
    str, StringConstraints(min_length=1, max_length=64, strip_whitespace=True, pattern=r"^[^\x00-\x1f\x7f]*$")
]

AssetTypeName = Literal["vrm", "animation", "bgm", "hdr", "scene"]


class AssetOut(BaseModel):
    """One asset. Times are UTC, sizes bytes. `errorCode`, `attempts` and `errorDetail` speak of uploads that failed.

    `facts` is what the file itself says, in sections (`model`, `licence`, `animation`, `sound`, `picture`); it comes a
    moment after the upload. `inspectError` is the code of why there is none. `warnings` are codes too.
    """

    id: UUID
    type: AssetTypeName
    s3Key: str
    displayName: str
    description: str
    mimeType: str
    sizeBytes: int | None
    status: Literal["uploading", "ready", "failed", "missing"]
    ownerUserId: str | None
    visibility: Literal["public", "private"]
    createdAt: datetime
    updatedAt: datetime
    errorCode: str | None
    errorDetail: str | None
    attempts: int
    sha256: str | None
    tags: list[str]
    meta: dict[str, Any]
    sidecar: Literal["thumb", "meta"] | None
    url: str
    thumbnail: str | None
    missingSince: datetime | None
    deletedAt: datetime | None
    changeSeq: int
    facts: dict[str, Any]
    inspectError: str | None
    triangles: int | None
    durationSeconds: float | None
    warnings: list[str]


class WaveformOut(BaseModel):
    """The loudest sample of each of at most 800 equal stretches, 0 to 32767; the whole lasts `durationSeconds`."""

    peaks: list[int]
    durationSeconds: float


class AssetEdit(BaseModel):
    """What may be changed; what is left out stays."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"displayName": "Aoi", "visibility": "public"}]}
    )

    displayName: Name | None = None
    visibility: Literal["public", "private"] | None = None
    description: Prose | None = None
    tags: Annotated[list[Tag], Field(max_length=64)] | None = None


class ChangesOut(BaseModel):
    """What changed since a place. Call again with `nextSince`; at once when `hasMore`."""

    assets: list[dict[str, Any]] = Field(
        description="The newest state of each: an item as lists have it, and its status."
    )
    gone: list[UUID] = Field(description="Ids that were purged, trashed or made private: forget them.")
    nextSince: int
    hasMore: bool


class AssetPage(BaseModel):
    """A page of a search. Each item is as lists have it (`id`, `name`, `url`, `category`, `tags`, …), with `status`,
    `triangles`, `facts` (what is inside the file), `warnings` (such as `licence_forbids_redistribution`) and `ownedByMe`."""

    items: list[dict[str, Any]]
    nextCursor: str | None = Field(description="None on the last page")
    total: int | None = Field(description="How many match in all, when that was asked for")
    totalIsExact: bool


class FacetCount(BaseModel):
    """How many assets have a value."""

    value: str
    count: int


class FacetsOut(BaseModel):
    """What is among the assets that match: each facet's values, most frequent first, 50 at most."""

    counted: int = Field(description="Assets that were looked at")
    isExact: bool = Field(description="Whether those were all that match")
    types: list[FacetCount]
    formats: list[FacetCount]
    licence: dict[str, list[FacetCount]] = Field(description="By part: `commercial`, `redistribution`, …")
    expressions: list[FacetCount]
    tags: list[FacetCount]


class ResourcePage(BaseModel):
    """A page of a list, as the studio contract has it."""

    class Pagination(BaseModel):
        """Where the page lies. `total` is counted up to 10,000 and estimated beyond (`totalIsExact`)."""

        page: int
        pageSize: int
        total: int | None
        totalIsExact: bool
        hasMore: bool
        nextCursor: str | None

    success: Literal[True]
    data: list[dict[str, Any]]
    pagination: Pagination


class UploadData(BaseModel):
    """What was stored. `fileName` is the key as it was sent, `s3Key` the one that is unique over all users."""

    fileName: str
    originalName: str
    size: int
    type: str
    url: str
    id: UUID
    s3Key: str


class UploadOut(BaseModel):
    """An upload that is stored and indexed."""

    success: Literal[True]
    message: str
    data: UploadData


class PresignRequest(BaseModel):
    """What is going to be uploaded. `size` and `sha256` are checked when given."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"fileName": "vrm/Aoi.vrm", "fileType": "model/gltf-binary", "size": 12345678}]}
    )

    # That they are not empty is checked where the answer can be the contract's MISSING_PARAMETERS.
    fileName: str = Field(max_length=4096, json_schema_extra={"minLength": 1})
    fileType: str = Field(max_length=255, json_schema_extra={"minLength": 1})
    contentType: str | None = Field(None, max_length=255)
    size: int | None = Field(None, ge=1, le=5 * 1024**3)
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")] | None = None


class PresignData(BaseModel):
    """PUT the bytes to `url` with `headers`, then POST to `completeUrl`."""

    url: str
    expiresIn: int
    method: Literal["PUT"]
    headers: dict[str, str]
    id: UUID
    fileName: str
    s3Key: str
    readUrl: str
    completeUrl: str


class PresignOut(BaseModel):
    """A signed upload."""

    success: Literal[True]
    data: PresignData
