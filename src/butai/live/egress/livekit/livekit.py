"""LiveKit Egress behind the port: whatever the size of the house, the same states and the same truth.

Picked by `butai.cli`. There is no process of ours that could die: a broadcast's engine (`livekit_engine`) is no more than its
orders and its rows (`ledger`), which any controller can take over. What became of an egress is found out by the project's
poller (`poller`), whoever holds it, and read here from the rows; webhooks and answers only make the same news come sooner.

An attempt's row is written before StartEgress goes out, under the lease of the broadcast: of each attempt there is one
request, whoever crashes when. What stays without an answer is in doubt: LiveKit's list says in the end whether there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
from uuid import UUID

import structlog

from butai.config import LiveSettings
from butai.database import Database
from butai.errors import DatabaseUnavailable
from butai.live.egress.livekit.ledger import Attempt
from butai.live.egress.livekit.livekit_engine import LiveKitEngine
from butai.live.egress.livekit.means import Means, OpenKey
from butai.live.egress.livekit.poller import Pace, Poller
from butai.live.egress.presets import LIVEKIT_COST, PRESETS
from butai.live.projects import Projects
from butai.live.reconcile.capacity import EngineLoad

log = structlog.get_logger(__name__)

HOST = "livekit"
"""`engine_host` of all broadcasts here: any controller can find them."""


class LiveKitEgress:
    """All of one controller."""

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
        self.means = Means(settings, projects, database, open_key, pace or Pace())
        self._database, self._controller = database, controller
        self._pollers: dict[str, tuple[Poller, asyncio.Task[None]]] = {}
        self._engines: dict[UUID, LiveKitEngine] = {}
        self._changed: set[UUID] = set()
        self._news = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Where LiveKit carries nothing and never did, nothing is looked after until it does."""
        if self.means.settings.egress == "livekit" or await self.means.ledger.any_open():
            self._start_loops()

    def _start_loops(self) -> None:
        if not self._loops:
            works = (
                self._database.listen(["butai_egress", "butai_livekit"], self._heard, self._look_at_all),
                self._read_rows(),
                self._keep_pollers(),
            )
            self._loops = [asyncio.create_task(work) for work in works]

    async def find(self, broadcast_id: UUID, epoch: int) -> LiveKitEngine | None:
        """Always one: nothing of it can have ended without its rows."""
        return self._engine(broadcast_id, epoch)

    async def start(self, broadcast_id: UUID, epoch: int) -> LiveKitEngine:
        """As `find`."""
        return self._engine(broadcast_id, epoch)

    @property
    def costs(self) -> dict[str, float]:
        """The controller's own share: the encoding is on other machines."""
        return dict.fromkeys(PRESETS, LIVEKIT_COST)

    def loads(self) -> list[EngineLoad]:
        """Nothing of an egress runs on this host."""
        return []

    def expect_start(self) -> None:
        """No-op: nothing of an egress is loaded here."""

    def allow_keepalive(self, *, allowed: bool) -> None:
        """Nothing here lives on our word."""

    async def close(self) -> None:
        """Leaves all egresses running."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        pollers = [task for _, task in self._pollers.values()]
        for task in pollers:
            task.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)
        await self.means.close()

    def _engine(self, broadcast_id: UUID, epoch: int) -> LiveKitEngine:
        self._start_loops()
        before = self._engines.get(broadcast_id)
        if before is not None:
            before.detach()
        engine = LiveKitEngine(self.means, broadcast_id, epoch, look=self.look, forget=self.forget)
        self._engines[broadcast_id] = engine
        return engine

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
                for row in await self.means.ledger.of_broadcasts(changed):
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

    def _look_at_all(self) -> None:
        for broadcast_id in self._engines:
            self.look(broadcast_id)

    def _heard(self, channel: str, payload: str) -> None:
        if channel == "butai_egress":
            with contextlib.suppress(ValueError):
                self.look(UUID(payload))
        else:
            for poller, _ in self._pollers.values():
                poller.hint(payload)

    async def _keep_pollers(self) -> None:
        """One for each project that there is."""
        while True:
            means = self.means
            for name in means.projects.names:
                if name not in self._pollers:
                    gateway = means.gateway(name)
                    poller = Poller(name, gateway, means.ledger, self._controller, means.open_key, means.pace)
                    self._pollers[name] = (poller, asyncio.create_task(poller.run()))
            await asyncio.sleep(means.pace.look_every)
