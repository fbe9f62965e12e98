"""The shapes of the patrol's answers, for the documentation."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

FindingKind = Literal["missing", "mismatch", "object_without_row", "row_without_object"]


class PatrolRunOut(BaseModel):
    """One run. `due` is how many assets it set out to look for; the other counts add up to `checked`."""

    id: int
    kind: Literal["scheduled", "asked", "reconcile"]
    dryRun: bool
    state: Literal["running", "finished", "stopped"]
    stopCode: str | None
    detail: str | None
    requestedBy: str | None
    startedAt: datetime
    heartbeatAt: datetime
    endedAt: datetime | None
    hidesAbsence: bool | None
    due: int
    checked: int
    found: int
    suspected: int
    missing: int
    recovered: int
    mismatched: int
    undecided: int


class FindingOut(BaseModel):
    """What does not agree between index and store."""

    id: int
    kind: FindingKind
    objectKey: str
    assetId: UUID | None
    runId: int | None
    detail: dict[str, Any]
    foundAt: datetime
    seenAt: datetime
    resolvedAt: datetime | None
    resolution: str | None
    resolvedBy: str | None


class OpenFindings(BaseModel):
    """How many findings are open. `unmatched`: objects without a row, and rows without an object, of a listing."""

    missing: int
    mismatch: int
    unmatched: int


class PatrolOut(BaseModel):
    """The patrol at a glance. `stale`: no round has come to its end for too long."""

    lastFinishedAt: datetime | None
    stale: bool
    openFindings: OpenFindings
    runs: list[PatrolRunOut]
    findings: list[FindingOut]


class PatrolAsked(BaseModel):
    """A round that is asked for."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"dryRun": True}]})

    dryRun: bool = False
