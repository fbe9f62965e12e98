"""One broadcast at LiveKit: orders become rows and requests, rows become reports. Made by `livekit.LiveKitEgress`."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any
from uuid import UUID

import structlog

from butai.errors import Code, DatabaseUnavailable
from butai.live.egress.livekit import evidence
from butai.live.egress.livekit.ledger import Attempt
from butai.live.egress.livekit.means import Means
from butai.live.egress.livekit.requests import full_url
from butai.live.egress.livekit.starting import Wanted, start_attempts
from butai.live.egress.livekit.stopping import stop_attempt
from butai.live.reconcile.port import OnReport
from butai.live.reconcile.reports import EngineGone, OutputReport, SourceReport
from butai.live.reconcile.rows import BroadcastRow
from butai.relay.rtmp.resolver import refusal

log = structlog.get_logger(__name__)

_TOGETHER = 0.1
"""Seconds in which attempts of a shared egress are gathered for one request."""
_TOGETHER_MOST = 2.0
"""Seconds to wait for one that was ordered and is not written yet: the database is slow, or another broadcast's turn."""
_WRITE_AGAIN = 0.5
"""Seconds."""


class LiveKitEngine:
    """One broadcast's."""

    def __init__(
        self,
        means: Means,
        broadcast_id: UUID,
        epoch: int,
        *,
        look: Callable[[UUID], None],
        forget: Callable[[LiveKitEngine], None],
    ) -> None:
        """`look`: asks for `take` with the broadcast's rows. `forget`: told at the end."""
        self._means, self.broadcast_id, self._epoch = means, broadcast_id, epoch
        self._look, self._forget = look, forget
        self._on_report: OnReport = lambda _: None
        self._broadcast: BroadcastRow | None = None
        self._rows: list[Attempt] = []
        self._ending: frozenset[UUID] | None = None
        """The rows that were asked to end, once they were."""
        self._gone = False
        self._wanted: dict[UUID, int] = {}
        """The attempt of each output that was ordered last, until its end is."""
        self._asking = asyncio.Lock()
        """A row is written before an end is asked for, or not at all."""
        self._orders: dict[UUID, asyncio.Lock] = {}
        self._shared = asyncio.Lock()
        self._joining: list[Wanted] = []
        self._coming: set[tuple[UUID, int]] = set()
        self._all_came = asyncio.Event()
        self._permits = 0
        self._permit_lock = asyncio.Lock()
        self._grace: asyncio.TimerHandle | None = None

    @property
    def ref(self) -> str:
        """The same for each controller: what it carries is in the rows."""
        return f"livekit-{self.broadcast_id}"

    def follow(self, on_report: OnReport, on_disconnect: Callable[[], None]) -> None:  # noqa: ARG002 - of the port
        """Begins with the rows, which come at once."""
        self._on_report = on_report
        self._look(self.broadcast_id)

    def configure(self, broadcast: BroadcastRow) -> None:
        """What to carry."""
        self._broadcast = broadcast
        self._look(self.broadcast_id)

    def check_destinations(self, outputs: Sequence[tuple[UUID, str]]) -> None:
        """No-op: LiveKit's workers connect from elsewhere."""

    def start_output(
        self,
        output_id: UUID,
        attempt: int,
        url: str,
        sealed_key: bytes,
        *,
        hurried: bool = False,  # noqa: ARG002 - LiveKit waits as long as it does
    ) -> None:
        """The key is opened here, and goes to LiveKit and nowhere else."""
        self._wanted[output_id] = attempt
        self._coming.add((output_id, attempt))
        self._all_came.clear()
        self._means.spawn(self._guarded(output_id, attempt, self._start(output_id, attempt, url, sealed_key)))

    def stop_output(self, output_id: UUID) -> None:
        """Its egress, or its address of a shared one."""
        self._wanted.pop(output_id, None)
        self._means.spawn(self._guarded(output_id, None, self._stop(output_id)))

    def stop(self) -> None:
        """All of the broadcast's."""
        self._wanted.clear()
        self._means.spawn(self._guarded(None, None, self._stop_all()))

    def kill(self) -> None:
        """They are asked to end already; what does not is swept by the poller."""
        log.warning("livekit.given_up", broadcast_id=str(self.broadcast_id))
        self._end(Code.STOP_UNCONFIRMED)

    def detach(self) -> None:
        """Nothing is heard any more."""
        self._gone = True
        if self._grace is not None:
            self._grace.cancel()
        self._forget(self)

    # Orders

    async def _guarded(self, output_id: UUID | None, attempt: int | None, work: Coroutine[Any, Any, None]) -> None:
        """A database that is away: the order is given again by the next plan, or its time runs out."""
        try:
            await work
        except DatabaseUnavailable:
            log.warning("livekit.order_waits", broadcast_id=str(self.broadcast_id))
            if output_id is not None and attempt is not None:
                self._say_failed(output_id, attempt, Code.EGRESS_UNAVAILABLE, "the database does not answer")
        except Exception as error:  # noqa: BLE001 - becomes a report of the failed attempt
            # Not its text: it may hold the address with the key.
            log.error(
                "livekit.order_crashed",
                broadcast_id=str(self.broadcast_id),
                error=type(error).__name__,
                where=str(traceback.extract_tb(error.__traceback__)[-1:]),
            )
            if output_id is not None and attempt is not None:
                self._say_failed(output_id, attempt, Code.EGRESS_CRASHED, type(error).__name__)

    async def _start(self, output_id: UUID, attempt: int, ingest_url: str, sealed_key: bytes) -> None:
        broadcast = self._broadcast
        assert broadcast is not None, "an engine is configured before it starts anything"
        try:
            key = self._means.open_key(sealed_key)
        except Exception as error:  # noqa: BLE001 - whatever unsealing raises, the key is lost
            self._came(output_id, attempt)
            log.error("output.key_sealed", output_id=str(output_id), error=type(error).__name__)
            detail = "the stream key cannot be opened with the keys of this installation"
            self._say_failed(output_id, attempt, Code.INVALID_DESTINATION, detail)
            return
        # LiveKit looks the name up again by itself: only its machine's firewall holds what it then connects to.
        if why := await refusal(ingest_url, allow_private=self._means.settings.allow_private_ingest):
            self._came(output_id, attempt)
            self._say_failed(output_id, attempt, Code.INVALID_DESTINATION, why)
            return
        try:
            async with self._orders.setdefault(output_id, asyncio.Lock()), self._permit():
                async with self._asking:
                    row = await self._ask(broadcast, output_id, attempt, ingest_url)
                if row is not None:
                    await self._request(broadcast, Wanted(row, full_url(ingest_url, key)))
        finally:
            self._came(output_id, attempt)

    def _came(self, output_id: UUID, attempt: int) -> None:
        self._coming.discard((output_id, attempt))
        if not self._coming:
            self._all_came.set()

    @contextlib.asynccontextmanager
    async def _permit(self) -> AsyncGenerator[None]:
        """Bounds how many starts are under way. Attempts of a shared egress are one start."""
        starts = self._means.starts
        if not self._means.settings.livekit_shared:
            async with starts:
                yield
            return
        async with self._permit_lock:
            if not self._permits:
                await starts.acquire()
            self._permits += 1
        try:
            yield
        finally:
            self._permits -= 1
            if not self._permits:
                starts.release()

    async def _ask(self, broadcast: BroadcastRow, output_id: UUID, attempt: int, ingest_url: str) -> Attempt | None:
        """The attempt's row, when LiveKit is to be asked for it, and by us."""
        means, project = self._means, broadcast.livekit_project
        if self._gone:
            return None
        if self._wanted.get(output_id) != attempt:
            self._on_report(OutputReport(output_id, attempt, "ended", time.time()))
            return None
        own = [row for row in self._rows if row.output_id == output_id]
        wait_until, why = await means.ledger.may_start(project, means.pace.probe), "no egress worker was there"
        if any(row.egress_id is None and row.over_at is None and row.attempt < attempt for row in own):
            wait_until, why = (
                time.time() + means.pace.probe,
                "an earlier start was not answered, and may have been done",
            )
        if wait_until is not None and not any(row.attempt == attempt for row in own):
            self._say_failed(output_id, attempt, Code.EGRESS_UNAVAILABLE, why, wait_until)
            return None
        asked = await means.ledger.ask(
            self.broadcast_id,
            self._epoch,
            output_id,
            attempt,
            project=project,
            room_id=broadcast.room_id,
            door=ingest_url,
        )
        if asked is None:
            # Another controller's now; that one is told by its own rows.
            return None
        row, ours = asked
        # Asked for before, by us or by a controller that is no more: the poller finds out what became of it.
        self._look(self.broadcast_id)
        return row if ours else None

    async def _request(self, broadcast: BroadcastRow, wanted: Wanted) -> None:
        if not self._means.settings.livekit_shared:
            await start_attempts(self._means, broadcast, [wanted], self._unavailable)
            return
        # One request at a time: an egress that is asked for twice would be two.
        self._joining.append(wanted)
        self._came(wanted.row.output_id, wanted.row.attempt)
        async with self._shared:
            await asyncio.sleep(_TOGETHER)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TOGETHER_MOST):
                    await self._all_came.wait()
            # In an order of their own: they come as their rows were written.
            batch, self._joining = sorted(self._joining, key=lambda one: one.row.output_id), []
            if batch:
                await start_attempts(self._means, broadcast, batch, self._unavailable)

    def _unavailable(self, row: Attempt, why: str, again_at: float) -> None:
        self._say_failed(row.output_id, row.attempt, Code.EGRESS_UNAVAILABLE, why, again_at)

    async def _stop(self, output_id: UUID | None) -> None:
        # Written first: whoever takes over, or the poller, ends what we could not.
        async with self._asking:
            rows = await self._means.ledger.ask_stop(self.broadcast_id, output_id)
        if output_id is None:
            self._ending = frozenset(row.id for row in rows)
        if not rows:
            self._look(self.broadcast_id)
            if output_id is not None and not any(one.output_id == output_id for one in self._rows):
                self._on_report(OutputReport(output_id, 0, "ended", time.time()))
            return
        known = [row for row in rows if row.egress_id]
        await asyncio.gather(*(self._stop_row(row, row.egress_id or "") for row in known))
        self._look(self.broadcast_id)

    async def _stop_all(self) -> None:
        """Until it is written, also when the engine has been given up: nobody asks again, and it would stay on air."""
        while True:
            try:
                await self._stop(None)
                return
            except DatabaseUnavailable:
                log.warning("livekit.stop_waits", broadcast_id=str(self.broadcast_id))
                await asyncio.sleep(_WRITE_AGAIN)

    async def _stop_row(self, row: Attempt, egress_id: str) -> None:
        means = self._means
        await stop_attempt(means.ledger, means.gateway(row.project), row, egress_id, means.open_key)

    # News

    def take(self, rows: list[Attempt]) -> None:
        """What the rows say now: told on as an engine's reports."""
        if self._gone:
            return
        self._rows = rows
        self._tell_source(rows)
        for row in rows:
            if row.seen.source_closed and row.seen.over and not row.stop_asked_at:
                # The broadcast's end, told by the source.
                continue
            if row.over_at is not None and row.seen.phase not in ("failed", "ended"):
                self._say(row, "ended", "", "")
            elif row.seen.phase == "ended" and not row.stop_asked_at:
                self._say(row, "failed", Code.EGRESS_LOST, row.seen.error)
            elif row.egress_id is None and row.over_at is None:
                self._on_report(OutputReport(row.output_id, row.attempt, "connecting", row.asked_at))
            else:
                self._say(row, row.seen.phase, row.seen.code, row.seen.detail)
        # Rows that were read before the orders were written are none of the end.
        known = {row.id for row in rows}
        if self._ending is not None and self._ending <= known and all(row.over_at is not None for row in rows):
            self._end("")

    def _say(self, row: Attempt, phase: evidence.Phase, code: str, detail: str) -> None:
        at = row.seen.at or row.asked_at
        # GStreamer says the same of a refused key and of a platform that hangs up.
        known = Code.DESTINATION_CLOSED if code == Code.KEY_REJECTED else ""
        # Rows are read again and again, and have no number but their time.
        number = round(at * 1e6)
        self._on_report(
            OutputReport(row.output_id, row.attempt, phase, at, code, detail, if_key_worked=known, number=number)
        )

    def _say_failed(self, output_id: UUID, attempt: int, code: Code, detail: str, not_before: float = 0.0) -> None:
        if not self._gone:
            self._on_report(OutputReport(output_id, attempt, "failed", time.time(), code, detail, not_before))

    def _tell_source(self, rows: list[Attempt]) -> None:
        """The host's media, as far as LiveKit tells: tracks in the room, when it was looked at; a stream that has begun; an
        egress that ended by itself with `Source closed`."""
        running = [row.seen for row in rows if row.over_at is None and row.seen.started_at is not None]
        closed = [row.seen for row in rows if row.seen.source_closed and row.seen.over and row.stop_asked_at is None]
        if closed and not running:
            self._on_report(SourceReport("ended", closed[-1].at, Code.SOURCE_ENDED, "the room or its host is gone"))
            return
        looked = max((seen for seen in running if seen.host), key=lambda seen: seen.host_at, default=None)
        if looked is not None and looked.host == "silent":
            self._lose_source(looked.host_at)
        elif running:
            self._keep_source()
            self._on_report(SourceReport("live", looked.host_at if looked else running[0].at))
        elif not rows:
            self._on_report(SourceReport("waiting", time.time()))

    def _lose_source(self, at: float) -> None:
        """The grace begins; LiveKit itself sends the last picture meanwhile."""
        self._on_report(SourceReport("lost", at, Code.NO_MEDIA))
        broadcast = self._broadcast
        if broadcast is None or broadcast.on_source_lost != "end" or self._grace is not None:
            return
        wait = max(at + broadcast.source_grace - time.time(), 0.0)
        self._grace = asyncio.get_running_loop().call_later(wait, self._grace_is_over)

    def _keep_source(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _grace_is_over(self) -> None:
        self._grace = None
        self._means.spawn(self._end_source())

    async def _end_source(self) -> None:
        """Only by a look that was fresh: a LiveKit that does not answer is no reason to end a show."""
        broadcast = self._broadcast
        assert broadcast is not None
        with contextlib.suppress(DatabaseUnavailable):
            polled_at = await self._means.ledger.polled_at(broadcast.livekit_project)
            fresh = polled_at is not None and time.time() - polled_at < 3 * self._means.pace.look_every
            silent = any(row.seen.host == "silent" for row in self._rows if row.over_at is None)
            if not silent:
                return
            if fresh and not self._gone:
                self._on_report(SourceReport("ended", time.time(), Code.SOURCE_ENDED, "no media from the host"))
                return
        # Not known: asked again when LiveKit has been. A host who is back stops the clock.
        if not self._gone and self._grace is None:
            later = self._means.pace.look_every
            self._grace = asyncio.get_running_loop().call_later(later, self._grace_is_over)

    def _end(self, code: str) -> None:
        if not self._gone:
            self._on_report(EngineGone(time.time(), code))
            self.detach()
