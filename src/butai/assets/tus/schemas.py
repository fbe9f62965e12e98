"""The types of requests and answers about resumable uploads: validated, encoded and documented."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class UploadCheck(BaseModel):
    """A file to be uploaded. `size` in bytes."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"sha256": "ab" * 32, "size": 12345678}]})

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]
    size: Annotated[int | None, Field(ge=1, le=2**53)] = None


class KnownAsset(msgspec.Struct, frozen=True):
    """An asset of the caller with the same bytes."""

    id: UUID
    s3_key: str
    display_name: str
    url: str


class UploadKnown(msgspec.Struct, frozen=True):
    """Whether the caller has stored these bytes already."""

    known: bool
    asset: KnownAsset | None


class UsageOut(msgspec.Struct, frozen=True):
    """The caller's usage, in bytes and files. A quota of null means no limit. Reserved: uploads under way, failed uploads,
    and bytes that are being removed but are still stored or can still be written by a signed URL."""

    bytes: int
    files: int
    reserved_bytes: int
    reserved_files: int
    quota_bytes: int | None
    quota_files: int | None
