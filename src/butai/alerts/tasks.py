"""Background jobs of alerts. `butai.worker` registers and runs them."""

from __future__ import annotations

from procrastinate import App, JobContext, RetryStrategy

from butai.alerts.delivery import AlertNotDelivered, deliver
from butai.alerts.rules import watch
from butai.alerts.service import DELIVER
from butai.config import Settings
from butai.database import Database
from butai.errors import DatabaseUnavailable

# 4 s, 16 s, … the ninth wait is three days: a service that is away over a weekend still hears.
_PERSISTENT = RetryStrategy(
    max_attempts=10, exponential_wait=4, retry_exceptions={AlertNotDelivered, DatabaseUnavailable}
)


def _parts(context: JobContext) -> tuple[Database, Settings]:
    return context.additional_context["library"].database, context.additional_context["settings"]


async def deliver_message(context: JobContext, message_id: int) -> None:
    """Takes one message to all services that do not have it yet."""
    database, settings = _parts(context)
    await deliver(database, settings.alerts, message_id)


async def watch_all(context: JobContext, timestamp: int) -> None:
    """Looks for what an operator must know."""
    database, settings = _parts(context)
    async with database.transaction() as session:
        await watch(session, settings.alerts)


def register(app: App) -> None:
    """Makes the tasks known to a procrastinate app."""
    app.task(name=DELIVER, pass_context=True, retry=_PERSISTENT)(deliver_message)
    look = app.task(name="alerts.watch", pass_context=True, queueing_lock="alerts.watch")(watch_all)
    app.periodic(cron="* * * * * */15")(look)
