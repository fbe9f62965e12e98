"""Background tasks of going live."""

from __future__ import annotations

from datetime import timedelta

import structlog
from procrastinate import App, JobContext, RetryStrategy
from sqlalchemy import delete, func, select

from butai.config import LiveSettings, Settings
from butai.database import Database
from butai.errors import Unavailable
from butai.live.ingresses.sweep import end_revoked, sweep
from butai.live.models import LiveKitWebhook
from butai.live.projects import Projects
from butai.live.rooms import idle, invitations, removal

log = structlog.get_logger(__name__)

SWEEP_BATCH = 5_000
"""Rows deleted in one transaction: a few tens of milliseconds, during which new webhooks are still stored."""

_PERSISTENT = RetryStrategy(max_attempts=12, exponential_wait=2, retry_exceptions={Unavailable})
"""For about an hour; after that the sweep goes on."""

LEAST_DAYS = 1 / 24
"""Days: a webhook is kept for at least an hour, whatever the setting. A duplicate is recognised by the stored id, and a
signature is accepted for ten minutes (`webhooks.signatures.WINDOW`)."""


async def sweep_webhooks(context: JobContext, timestamp: int) -> None:
    """Deletes webhooks older than `BUTAI_WEBHOOK_DAYS`, in batches of `SWEEP_BATCH`."""
    database: Database = context.additional_context["library"].database
    settings: LiveSettings = context.additional_context["live"]
    kept = timedelta(days=max(settings.webhook_days, LEAST_DAYS))
    old = (
        select(LiveKitWebhook.id)
        .where(LiveKitWebhook.received_at < func.now() - kept)
        .order_by(LiveKitWebhook.received_at)
        .limit(SWEEP_BATCH)
        .with_for_update(skip_locked=True)
    )
    removed = 0
    while True:
        async with database.transaction() as session:
            found = list(await session.scalars(old))
            if found:
                await session.execute(delete(LiveKitWebhook).where(LiveKitWebhook.id.in_(found)))
        removed += len(found)
        if len(found) < SWEEP_BATCH:
            break
    if removed:
        log.info("webhooks.removed", count=removed)


async def sweep_ingresses(context: JobContext, timestamp: int) -> None:
    """Ends at LiveKit the ingresses that a crash or a lost answer left, and marks their rows `failed`; and those that a
    revoked host token made."""
    database: Database = context.additional_context["library"].database
    settings: Settings = context.additional_context["settings"]
    projects = Projects(settings.livekit, settings.live)
    cleared, ended = await sweep(database, projects), await end_revoked(database, projects)
    if cleared or ended:
        log.info("ingresses.cleared", count=cleared, revoked=ended)


async def remove_revoked(context: JobContext, room_id: str) -> None:
    """Removes the holders of revoked tokens from a room, and deletes the ingresses that such a token made."""
    database: Database = context.additional_context["library"].database
    settings: Settings = context.additional_context["settings"]
    projects = Projects(settings.livekit, settings.live)
    await removal.remove_revoked(database, projects, room_id)
    await end_revoked(database, projects, room_id)


async def sweep_revoked(context: JobContext, timestamp: int) -> None:
    """Removes the holders of revoked tokens from all rooms that they may have joined again; deletes old invitations."""
    database: Database = context.additional_context["library"].database
    settings: Settings = context.additional_context["settings"]
    removed = await removal.sweep(database, Projects(settings.livekit, settings.live))
    if removed:
        log.info("rooms.participants_removed", count=removed)
    await invitations.forget(database)


async def sweep_idle_rooms(context: JobContext, timestamp: int) -> None:
    """Deletes at LiveKit the rooms of ours that are not used."""
    database: Database = context.additional_context["library"].database
    settings: Settings = context.additional_context["settings"]
    await idle.sweep_idle(database, Projects(settings.livekit, settings.live))


def register(app: App) -> None:
    """Adds the tasks and their schedules to a procrastinate app."""
    sweep = app.task(name="live.sweep_webhooks", pass_context=True, queueing_lock="live.sweep_webhooks")(sweep_webhooks)
    app.periodic(cron="17 * * * *")(sweep)
    ingresses = app.task(name="live.sweep_ingresses", pass_context=True, queueing_lock="live.sweep_ingresses")
    app.periodic(cron="* * * * *")(ingresses(sweep_ingresses))
    app.task(name=removal.REMOVE_REVOKED, pass_context=True, retry=_PERSISTENT)(remove_revoked)
    revoked = app.task(name="live.sweep_revoked", pass_context=True, queueing_lock="live.sweep_revoked")
    app.periodic(cron="* * * * *")(revoked(sweep_revoked))
    unused = app.task(name="live.sweep_idle_rooms", pass_context=True, queueing_lock="live.sweep_idle_rooms")
    app.periodic(cron="*/5 * * * *")(unused(sweep_idle_rooms))
