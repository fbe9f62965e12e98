"""The shapes of the patrol's answers, for the documentation."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

FindingKind = Literal["missing", "mismatch", "object_without_row", "row_without_object"]


class PatrolRunOut(BaseModel):
    """One run. `due` is how many assets it set out to check; the other counts add up to `checked`."""

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
    """One disagreement of index and store."""

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
    """How many findings are open. `unmatched`: objects without a row and rows without an object, found by a listing."""

    missing: int
    mismatch: int
    unmatched: int


class PatrolOut(BaseModel):
    """The patrol at a glance. `stale`: no run has finished for too long (`BUTAI_ALERT_STALE_HOURS`)."""

    lastFinishedAt: datetime | None
    stale: bool
    openFindings: OpenFindings
    runs: list[PatrolRunOut]
    findings: list[FindingOut]


class PatrolRequest(BaseModel):
    """A run that an operator requests. `dryRun`: count, and change nothing."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"dryRun": True}]})

    dryRun: bool = False
