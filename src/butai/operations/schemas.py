"""The types of the answers about the service itself: its health, its process, the signed-in user."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType

PartName = Literal["database", "store", "livekit", "worker", "controller", "patrol"]
PartState = Literal["ok", "warning", "down", "off", "unknown"]


class PartDetailOut(Struct, frozen=True):
    """Details of a component. Workers and controllers: how many are `alive`, and `seconds` since the last heartbeat of
    any. LiveKit: whether egress workers are free, as of `polled_at`. The patrol: when a run last finished."""

    alive: int | UnsetType = UNSET
    seconds: float | UnsetType | None = UNSET
    egress_workers: bool | UnsetType = UNSET
    polled_at: datetime | UnsetType | None = UNSET
    last_finished_at: datetime | UnsetType | None = UNSET


class PartOut(Struct, frozen=True):
    """One component. `off` is not part of this installation, `unknown` could not be checked. `code`: the fault. `ms`:
    the time of its answer. `project`: of LiveKit's."""

    name: PartName
    state: PartState
    code: str | None = None
    ms: float | None = None
    detail: PartDetailOut = PartDetailOut()
    project: str | None = None


class FiguresOut(Struct, frozen=True):
    """Figures; null could not be counted in time. Requests are this process's; the rate is of the last minute."""

    broadcasts_on_air: int | None
    outputs_live: int | None
    outputs_in_trouble: int | None
    relays: int | None
    jobs_waiting: int | None
    jobs_running: int | None
    jobs_failed: int | None
    alerts_open: int | None
    findings_open: int | None
    uploads: int | None
    assets: dict[str, int] | None
    requests_in_flight: int
    requests_per_second: float


class HealthOut(Struct, frozen=True):
    """`down`: database or store does not answer; `degraded`: another component has a fault."""

    status: Literal["ok", "degraded", "down"]
    at: datetime
    version: str
    parts: list[PartOut]
    figures: FiguresOut


class AliveOut(Struct, frozen=True):
    """An API process that can answer."""

    status: Literal["ok"]
    version: str


class ReadyOut(Struct, frozen=True):
    """Whether an API process can serve, and which of its parts answer."""

    ready: bool
    database: bool
    store: bool


class SessionOut(Struct, frozen=True):
    """The signed-in user, as far as the credential identifies one. `dev_sign_in`: whether the links of `butai sign-in` work."""

    user_id: str | None
    name: str | None
    operator: bool
    dev_sign_in: bool
    version: str


class SuspendedUserOut(Struct, frozen=True):
    """A suspended user. `suspended_by`: the operator, as an actor of the audit trail."""

    user_id: str
    reason: str
    suspended_at: datetime
    suspended_by: str | None


class SuspendedUsersOut(Struct, frozen=True):
    """Suspended users, the newest first."""

    data: list[SuspendedUserOut]


class TakenDownAsset(Struct, frozen=True):
    """A file that is taken down, and the reason that its owner reads."""

    id: UUID
    s3_key: str
    owner_user_id: str | None
    reason: str
    taken_down_at: datetime


class TakenDownAssets(Struct, frozen=True):
    """Files that are taken down, the newest first."""

    data: list[TakenDownAsset]
