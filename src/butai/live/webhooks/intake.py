"""The intake of LiveKit's webhooks: each is verified, stored, added to the timeline, and passed on as a notification.

A webhook is answered once it is committed: one that was answered 200 survives any crash, and LiveKit sends the others
again. To save commits, webhooks that arrive within `GATHER` share one statement (group commit); while a batch is
written the next one gathers. A webhook never changes an output's state: LiveKit drops events after 30 s, merges updates
and sends them late. Listeners of `butai_livekit` look up the state at LiveKit instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

import structlog

from butai.database import Connection, Database
from butai.errors import DatabaseUnavailable, InvalidRequest, WebhookRefused
from butai.live.projects import Projects
from butai.live.stream_keys import Sealer
from butai.live.webhooks import batch as webhook_batch
from butai.live.webhooks.batch import VerifiedWebhook
from butai.live.webhooks.payload import read
from butai.live.webhooks.signatures import Sender, read_sender
from butai.web.metrics import Metrics

log = structlog.get_logger(__name__)

GATHER = 0.003
"""Seconds for which a batch's first webhook waits for others. Costs nothing under load, where the database takes
longer; LiveKit waits for seconds."""

AT_ONCE = 256
"""Most webhooks in one statement."""

MOST_WAITING = 32 * 1024**2
"""Most bytes of bodies that may wait for the database. Beyond them LiveKit is answered 503 and sends them again."""


@dataclass(slots=True)
class _Waiting:
    webhook: VerifiedWebhook
    size: int
    done: asyncio.Future[None] = field(repr=False)

    def answer(self, error: Exception | None) -> None:
        """Ends the wait of `Intake.take`, unless its request was cancelled."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class Intake:
    """The intake of one process. An async context manager: it writes what has arrived before it closes."""

    def __init__(
        self,
        database: Database,
        projects: Projects,
        sealer: Sealer,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: seconds since 1970, for the age of signatures."""
        self._database, self._projects, self._sealer, self._metrics = database, projects, sealer, metrics
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._bytes = 0
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)

    def sender(self, authorization: bytes | None) -> Sender:
        """Who sends a webhook with this `Authorization`. Raises `WebhookRefused`."""
        try:
            return read_sender(self._projects, authorization, self._clock())
        except WebhookRefused as error:
            self._refused(error.more["reason"])
            raise

    async def take(self, sender: Sender, body: bytes) -> None:
        """Takes one webhook; returns when it is committed, or was committed before.

        Raises `WebhookRefused`, `InvalidRequest`, `DatabaseUnavailable`.
        """
        try:
            sender.check_body(body)
            event = read(body)
            text = body.decode()
        except WebhookRefused as error:
            self._refused(error.more["reason"])
            raise
        except UnicodeDecodeError:
            self._refused("rubbish")
            raise InvalidRequest("This is not a webhook of LiveKit") from None
        except InvalidRequest:
            self._refused("rubbish")
            raise
        # Bodies hold secrets: without a key to seal them they are not stored.
        sealed = self._sealer.seal(text, sealed_for(event.id)) if self._sealer.ready else b""
        await self._write(VerifiedWebhook(sender.project.name, event, sealed), len(body))
        self._metrics.webhook(event.event if event.timeline_event else "other").inc()

    def _refused(self, reason: str) -> None:
        self._metrics.webhook_refused(reason).inc()
        log.info("webhook.refused", reason=reason)

    async def _write(self, webhook: VerifiedWebhook, size: int) -> None:
        if self._bytes + size > MOST_WAITING:
            raise DatabaseUnavailable("Too many webhooks wait for the database")
        waiting = _Waiting(webhook, size, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._bytes += size
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        await waiting.done

    async def _write_all(self) -> None:
        """Writes batch after batch until none waits."""
        await asyncio.sleep(GATHER)
        while self._waiting:
            batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            self._bytes -= sum(one.size for one in batch)
            try:
                await self._commit([one.webhook for one in batch])
            except DatabaseUnavailable:
                # The batches after this one would fail, too: answer all now, not after one time-out each.
                batch, self._waiting, self._bytes = batch + self._waiting, [], 0
                for one in batch:
                    one.answer(DatabaseUnavailable())
            except Exception as error:  # noqa: BLE001 - each webhook is tried alone then
                log.error("webhooks.not_written", count=len(batch), reason=type(error).__name__)
                await self._one_by_one(batch)
            else:
                for one in batch:
                    one.answer(None)

    async def _one_by_one(self, batch: list[_Waiting]) -> None:
        """Writes each webhook in a statement of its own, so that one that Postgres refuses does not fail the others."""
        for one in batch:
            try:
                await self._commit([one.webhook])
            except DatabaseUnavailable as error:
                one.answer(error)
            except Exception as error:  # noqa: BLE001 - is passed to who waits for the answer
                log.error("webhook.not_written", event_id=one.webhook.event.id, reason=type(error).__name__)
                one.answer(error)
            else:
                one.answer(None)

    async def _commit(self, batch: list[VerifiedWebhook]) -> None:
        """Writes a batch in one autocommitted statement. Idempotent: stored ids are skipped."""

        async def act(connection: Connection) -> None:
            await connection.execute(webhook_batch.STATEMENT, webhook_batch.parameters(batch))

        await self._database.execute(act)


def sealed_for(event_id: str) -> UUID:
    """The subject under which a webhook's body is sealed; unique for each event id."""
    return UUID(bytes=hashlib.sha256(b"butai livekit webhook\0" + event_id.encode()).digest()[:16])
