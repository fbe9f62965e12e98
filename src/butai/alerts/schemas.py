"""The types of the answers about alerts."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec


class AlertOut(msgspec.Struct, frozen=True):
    """One alert. It is open until `resolved_at`; `count` is how often it was raised while open. `notified`: whether its first
    message has reached all services; null before the first try, and when no service is configured."""

    id: int
    key: str
    code: str
    severity: Literal["info", "warning", "failure"]
    title: str
    body: str
    count: int
    opened_at: datetime
    seen_at: datetime
    resolved_at: datetime | None
    notified: bool | None


class AlertsOut(msgspec.Struct, frozen=True):
    """Alerts, newest first. `next`: `before` of the next page; null on the last."""

    alerts: list[AlertOut]
    next: int | None
