"""The shapes around resumable uploads, for validation and the documentation."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class UploadCheck(BaseModel):
    """A file that somebody is about to upload."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"sha256": "ab" * 32, "size": 12345678}]})

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]
    size: Annotated[int | None, Field(ge=1, le=2**53)] = None


class KnownAsset(BaseModel):
    """An asset of the caller's own with the same bytes."""

    id: UUID
    s3Key: str
    displayName: str
    url: str


class UploadKnown(BaseModel):
    """Whether the caller has these bytes here already."""

    known: bool
    asset: KnownAsset | None


class UsageOut(BaseModel):
    """What the caller keeps, in bytes and files. A quota of null is none."""

    bytes: int
    files: int
    reservedBytes: int
    reservedFiles: int
    quotaBytes: int | None
    quotaFiles: int | None
