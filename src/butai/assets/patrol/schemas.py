"""The types of the patrol's requests and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from butai.assets.patrol.finding_states import FindingAction, FindingKind, FindingState
from butai.assets.patrol.states import RunState

FindingKindName = Literal["missing", "mismatch", "object_without_row", "row_without_object"]
FindingActionName = Literal["adopt", "trash", "ignore"]
"""The values of `FindingKind` and `FindingAction` as parameters of a request: the document has the enums by name
already, from the answers, and takes no second schema of one name."""


class PatrolRunOut(msgspec.Struct, frozen=True):
    """One run. `due` is the number of assets to check; the other counts add up to `checked`."""

    id: int
    kind: Literal["scheduled", "asked", "reconcile"]
    dry_run: bool
    state: RunState
    stop_code: str | None
    detail: str | None
    requested_by: str | None
    started_at: datetime
    heartbeat_at: datetime
    ended_at: datetime | None
    hides_absence: bool | None
    due: int
    checked: int
    found: int
    suspected: int
    missing: int
    recovered: int
    mismatched: int
    undecided: int


class FindingOut(msgspec.Struct, frozen=True):
    """One disagreement of index and store. `actions`: what an operator can do about it now; empty once it is
    resolved."""

    id: int
    kind: FindingKind
    object_key: str
    asset_id: UUID | None
    run_id: int | None
    detail: dict[str, Any]
    found_at: datetime
    seen_at: datetime
    resolved_at: datetime | None
    resolution: FindingState | None
    resolved_by: str | None
    actions: tuple[FindingAction, ...]


class OpenFindings(msgspec.Struct, frozen=True):
    """How many findings are open. `unmatched`: objects without a row and rows without an object, found by a listing."""

    missing: int
    mismatch: int
    unmatched: int


class PatrolSummary(msgspec.Struct, frozen=True):
    """The time of the last finished run, whether that is too long ago, and the number of open findings."""

    last_finished_at: datetime | None
    stale: bool
    open_findings: OpenFindings


class PatrolOut(msgspec.Struct, frozen=True):
    """An overview of the patrol. `stale`: no run has finished for too long (`BUTAI_ALERT_STALE_HOURS`). `runs` and
    `findings` are the newest; all of them are at `/api/assets/patrol/runs` and `/api/assets/findings`."""

    last_finished_at: datetime | None
    stale: bool
    open_findings: OpenFindings
    runs: list[PatrolRunOut]
    findings: list[FindingOut]


class PatrolRunsOut(msgspec.Struct, frozen=True):
    """Runs, newest first. `next`: `before` of the next page; null on the last."""

    runs: list[PatrolRunOut]
    next: int | None


class FindingsOut(msgspec.Struct, frozen=True):
    """Findings, newest first. `next`: `before` of the next page; null on the last."""

    findings: list[FindingOut]
    next: int | None


class PatrolRequest(BaseModel):
    """A run that an operator requests. `dry_run`: count, and change nothing. `dryRun` is its old name, accepted for one
    version."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"dry_run": True}]})

    dry_run: bool = False
    dryRun: Annotated[bool, Field(json_schema_extra={"deprecated": True})] = False
