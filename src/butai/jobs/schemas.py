"""The types of answers about background jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

JobStatus = Literal["todo", "doing", "failed", "cancelled", "aborted", "succeeded"]
"""procrastinate's states of a job."""


class JobOut(msgspec.Struct, frozen=True):
    """One job. `error_code` and `error_detail` are of its last failed attempt."""

    id: int
    task: str
    status: JobStatus
    attempts: int
    scheduled_at: datetime | None
    changed_at: datetime | None
    args: dict[str, Any]
    error_code: str | None
    error_detail: str | None


class JobsOut(msgspec.Struct, frozen=True):
    """Jobs, newest first. `next`: `before` of the next page; null on the last."""

    jobs: list[JobOut]
    next: int | None
