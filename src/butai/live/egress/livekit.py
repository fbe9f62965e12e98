"""LiveKit Egress behind the port: whatever the size of the house, the same states and the same truth.

Picked by `butai.cli`. There is no process of ours that could die: a broadcast's engine is here no more than its orders and
its rows (`ledger`), which any controller can take over. What became of an egress is found out by the project's poller
(`poller`), whoever holds it, and read here from the rows; so webhooks and answers only ever make the same news come sooner.

An attempt's row is written before StartEgress goes out, under the lease of the broadcast: of each attempt there is one
request, whoever crashes when. What stays without an answer is in doubt: LiveKit's list says in the end whether there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

import aiohttp
import psycopg
import structlog
from livekit import api
from livekit.protocol.egress import EgressInfo

from butai.config import LiveSettings
from butai.database import UNREACHABLE, Database
from butai.errors import DatabaseUnavailable
from butai.live.desired import BroadcastRow
from butai.live.egress import evidence
from butai.live.egress.gateway import (
    Gateway,
    GatewayError,
    Refused,
    Unauthorized,
    Unreachable,
    open_http,
)
from butai.live.egress.ledger import Attempt, Ledger, Note
from butai.live.egress.poller import Pace, Poller
from butai.live.egress.port import Hear
from butai.live.egress.requests import full_url, start_request
from butai.live.egress.stopping import stop_attempt
from butai.live.observations import EngineGone, OutputReport, SourceReport
from butai.live.projects import Projects
from butai.live.states import Code

log = structlog.get_logger(__name__)

HOST = "livekit"
"""`engine_host` of all broadcasts here: any controller can find them."""

STARTS_AT_ONCE = 32

_SHARED_TRIED = 2
"""Egresses of a broadcast that are asked to take an address more: the newest."""

_LEAVE_PATIENCE = 5.0
"""Seconds for requests under way when this controller stops: an answer that nobody waits for would be in doubt."""

OpenKey = Callable[[bytes], str]


class LiveKitEgress:
    """All of one controller. `run` is a task of its own, from the first engine to `close`."""

    name = "livekit"
    host = HOST

    def __init__(
        self,
        settings: LiveSettings,
        projects: Projects,
        database: Database,
        open_key: OpenKey,
        *,
        controller: str,
        pace: Pace | None = None,
    ) -> None:
        """`open_key`: a sealed stream key's text; any exception means that it cannot be opened."""
        self.settings, self.projects, self.open_key = settings, projects, open_key
        self.ledger = Ledger(database)
        self.pace = pace or Pace()
        self.starts = asyncio.Semaphore(STARTS_AT_ONCE)
        self._database, self._controller = database, controller
        self._http: aiohttp.ClientSession | None = None
        self._gateways: dict[str, Gateway] = {}
        self._pollers: dict[str, tuple[Poller, asyncio.Task[None]]] = {}
        self._engines: dict[UUID, LiveKitEngine] = {}
        self._changed: set[UUID] = set()
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loops: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begins to look after projects, and to listen. Called once, in the event loop."""
        self._loops = [asyncio.create_task(work) for work in (self._listen(), self._read_rows(), self._keep_pollers())]

    async def find(self, broadcast_id: UUID, epoch: int) -> LiveKitEngine | None:
        """Always one: nothing of it can have ended without its rows."""
        return self._engine(broadcast_id, epoch)

    async def start(self, broadcast_id: UUID, epoch: int) -> LiveKitEngine:
        """As `find`."""
        return self._engine(broadcast_id, epoch)

    def may_feed(self, allowed: bool) -> None:
        """Nothing here lives on our word."""

    async def close(self) -> None:
        """Leaves all egresses running."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LEAVE_PATIENCE)
        for _, task in self._pollers.values():
            task.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *(task for _, task in self._pollers.values()), return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def _engine(self, broadcast_id: UUID, epoch: int) -> LiveKitEngine:
        if not self._loops:
            self.open()
        before = self._engines.get(broadcast_id)
        if before is not None:
            before.leave()
        engine = self._engines[broadcast_id] = LiveKitEngine(self, broadcast_id, epoch)
        return engine

    # For engines

    def gateway(self, project: str) -> Gateway:
        """To LiveKit."""
        if self._http is None:
            self._http = open_http()
        if project not in self._gateways:
            self._gateways[project] = Gateway(self.projects, project, self._http, self.pace.patience)
        return self._gateways[project]

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work that is finished also when its engine has been left."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def look(self, broadcast_id: UUID) -> None:
        """Reads its rows soon."""
        self._changed.add(broadcast_id)
        self._news.set()

    def forget(self, engine: LiveKitEngine) -> None:
        """It is gone, or left."""
        if self._engines.get(engine.broadcast_id) is engine:
            del self._engines[engine.broadcast_id]

    # Rows

    async def _read_rows(self) -> None:
        """Of broadcasts whose rows have changed: all in one statement."""
        while True:
            await self._news.wait()
            self._news.clear()
            changed, self._changed = self._changed & self._engines.keys(), set()
            if not changed:
                continue
            try:
                rows: dict[UUID, list[Attempt]] = {broadcast_id: [] for broadcast_id in changed}
                for row in await self.ledger.of_broadcasts(changed):
                    rows[row.broadcast_id].append(row)
            except DatabaseUnavailable:
                self._changed |= changed
                await asyncio.sleep(0.5)
                self._news.set()
                continue
            for broadcast_id, found in rows.items():
                engine = self._engines.get(broadcast_id)
                if engine is not None:
                    engine.take(found)

    async def _listen(self) -> None:
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._database.url, autocommit=True, connect_timeout=5, keepalives_idle=5, keepalives_interval=2
                ) as connection:
                    await connection.execute("LISTEN butai_egress")
                    await connection.execute("LISTEN butai_livekit")
                    # What was said while nobody listened.
                    for broadcast_id in self._engines:
                        self.look(broadcast_id)
                    async for notice in connection.notifies():
                        if notice.channel == "butai_egress":
                            with contextlib.suppress(ValueError):
                                self.look(UUID(notice.payload))
                        else:
                            for poller, _ in self._pollers.values():
                                poller.hint(notice.payload)
            except UNREACHABLE as error:
                log.debug("livekit.listen_lost", error=type(error).__name__)
            await asyncio.sleep(0.5)

    async def _keep_pollers(self) -> None:
        """One for each project that there is."""
        while True:
            for name in self.projects.names:
                if name not in self._pollers:
                    poller = Poller(name, self.gateway(name), self.ledger, self._controller, self.open_key, self.pace)
                    self._pollers[name] = (poller, asyncio.create_task(poller.run()))
            await asyncio.sleep(self.pace.look_every)


class LiveKitEngine:
    """One broadcast's."""

    def __init__(self, egress: LiveKitEgress, broadcast_id: UUID, epoch: int) -> None:
        self._egress, self.broadcast_id, self._epoch = egress, broadcast_id, epoch
        self._hear: Hear = lambda _: None
        self._broadcast: BroadcastRow | None = None
        self._rows: list[Attempt] = []
        self._ending = False
        self._gone = False
        self._read = False
        self._orders: dict[UUID, asyncio.Lock] = {}
        self._shared = asyncio.Lock()
        self._grace: asyncio.TimerHandle | None = None

    @property
    def ref(self) -> str:
        """The same for each controller: what it carries is in the rows."""
        return f"livekit-{self.broadcast_id}"

    def follow(self, hear: Hear, lost: Callable[[], None]) -> None:
        """Begins with the rows, which come at once."""
        self._hear = hear
        self._egress.look(self.broadcast_id)

    def configure(self, broadcast: BroadcastRow) -> None:
        """What to carry."""
        self._broadcast = broadcast
        self._egress.look(self.broadcast_id)

    def start_output(self, output_id: UUID, attempt: int, url: str, sealed_key: bytes) -> None:
        """The key is opened here, and goes to LiveKit and nowhere else."""
        self._egress.spawn(self._guarded(output_id, attempt, self._start(output_id, attempt, url, sealed_key)))

    def stop_output(self, output_id: UUID) -> None:
        """Its egress, or its address of a shared one."""
        self._egress.spawn(self._guarded(output_id, None, self._stop(output_id)))

    def stop(self) -> None:
        """All of the broadcast's."""
        self._ending = True
        self._egress.spawn(self._guarded(None, None, self._stop(None)))

    def kill(self) -> None:
        """They are asked to end already; what does not is swept by the poller."""
        log.warning("livekit.given_up", broadcast_id=str(self.broadcast_id))
        self._end(Code.STOP_UNCONFIRMED)

    def leave(self) -> None:
        """Nothing is heard any more."""
        self._gone = True
        if self._grace is not None:
            self._grace.cancel()
        self._egress.forget(self)

    # Orders

    async def _guarded(self, output_id: UUID | None, attempt: int | None, work: Coroutine[Any, Any, None]) -> None:
        """A database that is away: the order is given again by the next plan, or its time runs out."""
        try:
            await work
        except DatabaseUnavailable:
            log.warning("livekit.order_waits", broadcast_id=str(self.broadcast_id))
            if output_id is not None and attempt is not None:
                self._say_failed(output_id, attempt, Code.EGRESS_UNAVAILABLE, "the database does not answer")
        except Exception as error:
            # Not its text: it may hold the address with the key.
            log.error(
                "livekit.order_crashed",
                broadcast_id=str(self.broadcast_id),
                error=type(error).__name__,
                where=str(traceback.extract_tb(error.__traceback__)[-1:]),
            )
            if output_id is not None and attempt is not None:
                self._say_failed(output_id, attempt, Code.EGRESS_CRASHED, type(error).__name__)

    async def _start(self, output_id: UUID, attempt: int, door: str, sealed_key: bytes) -> None:
        broadcast, egress = self._broadcast, self._egress
        assert broadcast is not None, "an engine is configured before it starts anything"
        try:
            key = egress.open_key(sealed_key)
        except Exception as error:
            log.error("output.key_sealed", output_id=str(output_id), error=type(error).__name__)
            detail = "the stream key cannot be opened with the keys of this installation"
            self._say_failed(output_id, attempt, Code.INVALID_DESTINATION, detail)
            return
        project = broadcast.livekit_project
        async with self._orders.setdefault(output_id, asyncio.Lock()), egress.starts:
            if self._gone:
                return
            wait_until = await egress.ledger.may_start(project, egress.pace.probe)
            if wait_until is not None:
                detail = "no egress worker was there a moment ago"
                self._say_failed(output_id, attempt, Code.EGRESS_UNAVAILABLE, detail, wait_until)
                return
            if any(row.output_id == output_id and row.egress_id is None and row.over_at is None for row in self._rows):
                if not any(row.output_id == output_id and row.attempt == attempt for row in self._rows):
                    detail = "an earlier start was not answered, and may have been done"
                    until = time.time() + egress.pace.probe
                    self._say_failed(output_id, attempt, Code.EGRESS_UNAVAILABLE, detail, until)
                    return
            asked = await egress.ledger.ask(
                self.broadcast_id, self._epoch, output_id, attempt, project, broadcast.room_id, door
            )
            if asked is None:
                # Another controller's now; that one is told by its own rows.
                return
            row, ours = asked
            if not ours:
                # Asked for before, by us or by a controller that is no more: the poller finds out what became of it.
                egress.look(self.broadcast_id)
                return
            await self._end_lost(row)
            await self._ask_livekit(broadcast, row, full_url(door, key))

    async def _end_lost(self, row: Attempt) -> None:
        """Attempts before this one whose worker was taken for dead: should it live, it must not push beside the new one."""
        gateway = self._egress.gateway(row.project)
        for one in await self._egress.ledger.of_broadcasts([self.broadcast_id]):
            before = one.output_id == row.output_id and one.attempt == row.attempt - 1
            if before and one.seen.status == "lost" and one.egress_id and one.stop_asked_at is None:
                with contextlib.suppress(GatewayError):
                    await gateway.stop(one.egress_id)

    async def _ask_livekit(self, broadcast: BroadcastRow, row: Attempt, url: str) -> None:
        egress, now = self._egress, time.time()
        gateway = egress.gateway(row.project)
        try:
            if egress.settings.livekit_shared:
                info = await self._ask_shared(gateway, broadcast, row, url)
            else:
                info = await _request(gateway, egress.settings, broadcast, [url])
        except Unreachable as error:
            if error.sent:
                # It may be running: the row stays in doubt.
                log.warning("livekit.start_in_doubt", output_id=str(row.output_id), detail=str(error))
                return
            await self._no_engine(row, f"LiveKit does not answer: {error}")
        except Unauthorized as error:
            await self._no_engine(row, f"LiveKit refuses our key: {error}")
        except Refused as error:
            if error.status in (429, 503) or error.code in ("unavailable", "resource_exhausted"):
                await self._no_engine(row, f"LiveKit has no egress worker: {error}")
                return
            seen = evidence.refused(_start_code(error), str(error), now)
            await egress.ledger.note([Note(row.id, None, seen, over=True)])
        else:
            seen = evidence.heard(
                row.seen, info, [evidence.shown(url)], time.time(), await self._nth(row, info), egress.pace.rules
            )
            await egress.ledger.note([Note(row.id, info.egress_id, seen, seen.over)])
            await egress.ledger.worker_there(row.project)
            log.info("livekit.started", output_id=str(row.output_id), attempt=row.attempt, egress_id=info.egress_id)
            await self._stop_if_unwanted(row, gateway, info.egress_id)
        egress.look(self.broadcast_id)

    async def _nth(self, row: Attempt, info: EgressInfo) -> int:
        """How often this output's address was given to this egress."""
        if not self._egress.settings.livekit_shared:
            return 1
        rows = await self._egress.ledger.of_broadcasts([self.broadcast_id])
        return 1 + sum(one.output_id == row.output_id and one.egress_id == info.egress_id for one in rows)

    async def _stop_if_unwanted(self, row: Attempt, gateway: Gateway, egress_id: str) -> None:
        """A stop that came while the start was under way."""
        rows = await self._egress.ledger.of_broadcasts([row.broadcast_id])
        mine = next((one for one in rows if one.id == row.id), None)
        if mine is not None and mine.stop_asked_at is not None:
            await self._stop_row(mine, gateway, egress_id)

    async def _no_engine(self, row: Attempt, detail: str) -> None:
        """The project's matter, not the destination's: it costs no budget, and all wait together."""
        egress = self._egress
        again_at = await egress.ledger.worker_missing(row.project, egress.pace.worker_base, egress.pace.worker_cap)
        log.warning("livekit.unavailable", project=row.project, detail=detail, seconds=round(again_at - time.time(), 1))
        seen = evidence.refused(Code.EGRESS_UNAVAILABLE, detail, time.time())
        await egress.ledger.note([Note(row.id, None, seen, over=True)])
        self._say_failed(row.output_id, row.attempt, Code.EGRESS_UNAVAILABLE, detail, again_at)

    async def _ask_shared(self, gateway: Gateway, broadcast: BroadcastRow, row: Attempt, url: str) -> EgressInfo:
        """The broadcast's one egress gets another address, or is started with it. One at a time: an egress that is asked for
        twice would be two."""
        async with self._shared:
            rows = await self._egress.ledger.of_broadcasts([self.broadcast_id])
            # Also one whose streams have all failed: it goes on without any.
            known = [one.egress_id for one in reversed(rows) if one.egress_id and one.id != row.id]
            for egress_id in list(dict.fromkeys(known))[:_SHARED_TRIED]:
                with contextlib.suppress(Refused):
                    return await gateway.update(api.UpdateStreamRequest(egress_id=egress_id, add_output_urls=[url]))
            return await _request(gateway, self._egress.settings, broadcast, [url])

    async def _stop(self, output_id: UUID | None) -> None:
        # Written first: whoever takes over, or the poller, ends what we could not.
        rows = await self._egress.ledger.ask_stop(self.broadcast_id, output_id)
        if not rows:
            self._egress.look(self.broadcast_id)
            if output_id is not None and not any(one.output_id == output_id for one in self._rows):
                self._hear(OutputReport(output_id, 0, "ended", time.time()))
            return
        known = [row for row in rows if row.egress_id]
        await asyncio.gather(
            *(self._stop_row(row, self._egress.gateway(row.project), row.egress_id or "") for row in known)
        )
        self._egress.look(self.broadcast_id)

    async def _stop_row(self, row: Attempt, gateway: Gateway, egress_id: str) -> None:
        await stop_attempt(self._egress.ledger, gateway, row, egress_id, self._egress.open_key)

    # News

    def take(self, rows: list[Attempt]) -> None:
        """What the rows say now: told on as an engine's reports."""
        if self._gone:
            return
        self._rows, self._read = rows, True
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
                self._hear(OutputReport(row.output_id, row.attempt, "connecting", row.asked_at))
            else:
                self._say(row, row.seen.phase, row.seen.code, row.seen.detail)
        if self._ending and all(row.over_at is not None for row in rows):
            self._end("")

    def _say(self, row: Attempt, phase: evidence.Phase, code: str, detail: str) -> None:
        at = row.seen.at or row.asked_at
        self._hear(OutputReport(row.output_id, row.attempt, phase, at, code, detail))

    def _say_failed(self, output_id: UUID, attempt: int, code: Code, detail: str, not_before: float = 0.0) -> None:
        if not self._gone:
            self._hear(OutputReport(output_id, attempt, "failed", time.time(), code, detail, not_before))

    def _tell_source(self, rows: list[Attempt]) -> None:
        """The host's media, as far as LiveKit tells: tracks in the room, when it was looked at; a stream that has begun; an
        egress that ended by itself with `Source closed`."""
        running = [row.seen for row in rows if row.over_at is None and row.seen.started_at is not None]
        closed = [row.seen for row in rows if row.seen.source_closed and row.seen.over and row.stop_asked_at is None]
        if closed and not running:
            self._hear(SourceReport("ended", closed[-1].at, Code.SOURCE_ENDED, "the room or its host is gone"))
            return
        looked = max((seen for seen in running if seen.host), key=lambda seen: seen.host_at, default=None)
        if looked is not None and looked.host == "silent":
            self._lose_source(looked.host_at)
        elif running:
            self._keep_source()
            self._hear(SourceReport("live", looked.host_at if looked else running[0].at))
        elif not rows:
            self._hear(SourceReport("waiting", time.time()))

    def _lose_source(self, at: float) -> None:
        """The grace begins; LiveKit itself sends the last picture meanwhile."""
        self._hear(SourceReport("lost", at, Code.NO_MEDIA))
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
        self._egress.spawn(self._end_source())

    async def _end_source(self) -> None:
        """Only by a look that was fresh: a LiveKit that does not answer is no reason to end a show."""
        broadcast = self._broadcast
        assert broadcast is not None
        with contextlib.suppress(DatabaseUnavailable):
            polled_at = await self._egress.ledger.polled_at(broadcast.livekit_project)
            fresh = polled_at is not None and time.time() - polled_at < 3 * self._egress.pace.look_every
            still = any(row.seen.host == "silent" for row in self._rows if row.over_at is None)
            if fresh and still and not self._gone:
                self._hear(SourceReport("ended", time.time(), Code.SOURCE_ENDED, "no media from the host"))
                return
        # Not known, or back: the next rows tell.
        self._egress.look(self.broadcast_id)

    def _end(self, code: str) -> None:
        if not self._gone:
            self._hear(EngineGone(time.time(), code))
            self.leave()


async def _request(gateway: Gateway, settings: LiveSettings, broadcast: BroadcastRow, urls: list[str]) -> EgressInfo:
    request = start_request(settings, broadcast, urls)
    if isinstance(request, api.ParticipantEgressRequest):
        return await gateway.start_participant(request)
    return await gateway.start(request)


def _start_code(error: Refused) -> Code:
    return {
        400: Code.INVALID_DESTINATION,
        404: Code.ROOM_NOT_FOUND,
        408: Code.EGRESS_START_TIMEOUT,
        412: Code.EGRESS_CRASHED,
        413: Code.EGRESS_UNAVAILABLE,
    }.get(error.status, Code.EGRESS_CRASHED)
