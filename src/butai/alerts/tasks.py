"""Background jobs of alerts."""

from __future__ import annotations

from procrastinate import App, JobContext, RetryStrategy

from butai.alerts.delivery import AlertNotDelivered, deliver
from butai.alerts.rules import apply_rules
from butai.alerts.service import DELIVER
from butai.config import Settings
from butai.database import Database
from butai.errors import DatabaseUnavailable

# 4 s, 16 s, … the ninth wait is three days: a service that is down over a weekend still gets its message.
_RETRY = RetryStrategy(max_attempts=10, exponential_wait=4, retry_exceptions={AlertNotDelivered, DatabaseUnavailable})


def _context(context: JobContext) -> tuple[Database, Settings]:
    return context.additional_context["library"].database, context.additional_context["settings"]


async def deliver_message(context: JobContext, message_id: int) -> None:
    """Sends one message to all services that have not accepted it yet."""
    database, settings = _context(context)
    await deliver(database, settings.alerts, message_id)


async def check_rules(context: JobContext, timestamp: int) -> None:
    """Raises and resolves alerts by the rules."""
    database, settings = _context(context)
    async with database.transaction() as session:
        await apply_rules(session, settings.alerts)


def register(app: App) -> None:
    """Makes the tasks known to a procrastinate app."""
    app.task(name=DELIVER, pass_context=True, retry=_RETRY)(deliver_message)
    rules = app.task(name="alerts.watch", pass_context=True, queueing_lock="alerts.watch")(check_rules)
    app.periodic(cron="* * * * * */15")(rules)
