"""Prints the answers of `butai alerts`: the newest alerts, and the delivery of a test message."""

from __future__ import annotations

import sys

from butai.alerts import queries
from butai.alerts.delivery import send, services
from butai.config import AlertSettings
from butai.database import Database

ADVICE = {
    "refused": "the service refused it, or was not reached",
    "timeout": "no answer in time",
    "unknown": "Apprise does not know this kind of URL",
    "failed": "could not be sent",
}


async def send_test(settings: AlertSettings) -> int:
    """Sends a test message to each service now, and prints each result. Returns 1 when one failed, or none is
    configured."""
    targets = services(settings)
    if not targets:
        print(
            "butai: BUTAI_ALERT_URLS is not set, such as discord://… or mailto://…: see docs/settings.md",
            file=sys.stderr,
        )
        return 1
    status = 0
    for target in targets:
        reason = await send(target, "info", "Butai: a test message", "Alerts of this Butai arrive here.")
        print(f"{target.name}: {'delivered' if reason is None else f'not delivered ({ADVICE[reason]})'}")
        status |= reason is not None
    return status


async def show(database: Database) -> None:
    """Prints the newest alerts."""
    for one in await queries.alerts(database, 50):
        state = "open" if one.resolved_at is None else f"until {one.resolved_at:%Y-%m-%d %H:%M}"
        print(f"{one.opened_at:%Y-%m-%d %H:%M}  {state}  {one.severity}  {one.code}  {one.title}")
