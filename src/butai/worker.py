"""The process that runs background jobs: `butai worker`.

Any number may run: procrastinate gives each job to one of them. A worker that dies leaves its jobs `doing`;
`retry_stalled` puts them back into the queue.
"""

from __future__ import annotations

import asyncio
import random
import signal
from typing import Any

import structlog
from procrastinate import App, JobContext, PsycopgConnector
from procrastinate.exceptions import ConnectorException, UniqueViolation
from procrastinate.jobs import DeleteJobCondition, Status

from butai.alerts import tasks as alert_tasks
from butai.assets import tasks
from butai.assets.library import assemble
from butai.assets.patrol import tasks as patrol_tasks
from butai.assets.storage.client import Store
from butai.assets.tus import tasks as resumable_tasks
from butai.config import Settings
from butai.database import UNREACHABLE, Database
from butai.errors import Code
from butai.jobs.queue import QUEUES, queue_of
from butai.jobs.service import MOST_DEATHS, explain_failures, forget, note_failure
from butai.live import tasks as live_tasks
from butai.operations import tasks as operation_tasks

log = structlog.get_logger(__name__)

HEARTBEAT = 3.0
"""Seconds between a worker's heartbeats; its jobs are taken from it after three missed ones."""

KEPT_DAYS = 30.0
"""Days for which jobs that failed for good are kept."""

CONNECTIONS = 7
"""Most connections of one worker to Postgres for the queues: each queue listens on one."""

POLLING = 1.0
"""Seconds after which a queue is looked at without a notification: one that comes while a worker looks is lost."""

GRACE = 10
"""Seconds that running jobs have to end when the worker is asked to stop."""


async def retry_stalled(context: JobContext, timestamp: int) -> None:
    """Puts jobs of dead workers back into the queue, with their attempt counted."""
    manager = context.app.job_manager
    database: Database = context.additional_context["library"].database
    for job in await manager.get_stalled_jobs(seconds_since_heartbeat=HEARTBEAT * 3):
        log.warning("job.stalled", job_id=job.id, task=job.task_name, attempts=job.attempts)
        if job.attempts + 1 < MOST_DEATHS or job.id is None:
            try:
                await manager.retry_job(job)
            except UniqueViolation:
                # An equal job is waiting already: of those with a queueing lock, only one may wait.
                await manager.finish_job(job, Status.ABORTED, delete_job=True)
            continue
        # The job itself may be what kills its workers.
        await manager.finish_job(job, Status.FAILED, delete_job=False)
        await note_failure(database, job.id, Code.WORKER_DIED, f"its worker died {MOST_DEATHS} times")


async def forget_jobs(context: JobContext, timestamp: int) -> None:
    """Deletes jobs that ended more than `KEPT_DAYS` ago."""
    database: Database = context.additional_context["library"].database
    await forget(database, KEPT_DAYS)


def make_app(url: str) -> App:
    """A procrastinate app that knows all tasks."""
    app = App(connector=PsycopgConnector(conninfo=url, min_size=1, max_size=CONNECTIONS))
    tasks.register(app)
    patrol_tasks.register(app)
    resumable_tasks.register(app)
    live_tasks.register(app)
    alert_tasks.register(app)
    operation_tasks.register(app)
    stalled = app.task(name="jobs.retry_stalled", pass_context=True, queueing_lock="jobs.retry_stalled")(retry_stalled)
    app.periodic(cron="* * * * * */10")(stalled)
    tidy = app.task(name="jobs.forget", pass_context=True, queueing_lock="jobs.forget")(forget_jobs)
    app.periodic(cron="41 4 * * *")(tidy)
    for task in app.tasks.values():
        task.queue = queue_of(task.name)
    explain_failures(app)
    return app


async def run(settings: Settings) -> None:
    """Runs jobs until SIGTERM or SIGINT; running jobs then have `GRACE` seconds. Waits while the database is
    unavailable."""
    delay = 0.5
    async with Database(settings.database) as database, Store(settings.store) as store:
        library = assemble(database, store, settings.assets, settings.http)
        while True:
            app = make_app(settings.database.url.get_secret_value())
            try:
                async with app.open_async():
                    log.info("worker.started")
                    delay = 0.5
                    if await _run_queues(app, {"library": library, "live": settings.live, "settings": settings}):
                        return
                # procrastinate's worker may return instead of raising when it loses the database.
                log.warning("worker.queue_ended", retry_in=round(delay, 1))
            except (ConnectorException, *UNREACHABLE) as error:
                log.warning("worker.database_away", error=type(error).__name__, retry_in=round(delay, 1))
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - spreads load, keeps no secret
            delay = min(delay * 2, 5)


async def _run_queues(app: App, context: dict[str, Any]) -> bool:
    """Runs the jobs of each queue, with a number of its own at a time, until a signal comes or one of them ends. Returns
    whether a signal came. Raises the errors of the job library."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    stopped = asyncio.create_task(stop.wait())
    running = [
        asyncio.create_task(
            app.run_worker_async(
                queues=[queue],
                name=f"butai.{queue}",
                concurrency=at_once,
                additional_context=context,
                delete_jobs=DeleteJobCondition.SUCCESSFUL,
                update_heartbeat_interval=HEARTBEAT,
                stalled_worker_timeout=HEARTBEAT * 3,
                fetch_job_polling_interval=POLLING,
                shutdown_graceful_timeout=GRACE,
                # Each would replace the one of the others.
                install_signal_handlers=False,
            )
        )
        for queue, at_once in QUEUES.items()
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        ended, _ = await asyncio.wait([stopped, *running], return_when=asyncio.FIRST_COMPLETED)
        for one in ended - {stopped}:
            one.result()
        return stop.is_set()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        for one in (stopped, *running):
            # A worker that is cancelled gives its jobs their time first.
            one.cancel()
        await asyncio.gather(stopped, *running, return_exceptions=True)
