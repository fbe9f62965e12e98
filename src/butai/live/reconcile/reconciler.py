"""Brings one broadcast to what is wanted and keeps it there, as long as this controller holds its lease.

Made by `butai.controller`, one for each broadcast. It sleeps until something happens: the host's wish (NOTIFY), a word of
the engine, a timer. Then it plans, writes in one transaction, and only then gives orders. While Postgres is away nothing
is planned; the engine goes on, what it says is kept, and is written when Postgres is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

import structlog

from butai.database import Database
from butai.errors import Code, DatabaseUnavailable
from butai.live.reconcile import transitions
from butai.live.reconcile.commands import (
    Configure,
    KillEngine,
    Order,
    StartEngine,
    StartOutput,
    StopEngine,
    StopOutput,
    Write,
)
from butai.live.reconcile.draft import Policy
from butai.live.reconcile.plan import KILL_AFTER, plan
from butai.live.reconcile.port import Egress, Engine, EngineFenced, EngineUnavailable
from butai.live.reconcile.reports import EngineGone, Heard, MetricsReport, Observations, StartFailed
from butai.live.reconcile.rows import BroadcastRow
from butai.live.reconcile.transitions import Lease, LeaseLost, RowsMoved

log = structlog.get_logger(__name__)

DATABASE_PATIENCE = 8.0
"""Seconds for one transaction: a Postgres that does not answer is as far away as one that refuses."""
DATABASE_PAUSE = (0.25, 1.0)
"""Seconds between two tries while it is away: the first, and the longest."""
_MOVED_PAUSE = 0.05
LOOK_ANEW = 30.0
"""Seconds after which the rows are read without any reason."""


class RowAccess:
    """So many transactions at once, and one clock: shared by all reconcilers of a controller."""

    def __init__(self, database: Database, at_once: int) -> None:
        self._database, self._turns = database, asyncio.Semaphore(at_once)
        self.offset = 0.0
        """Postgres's clock minus ours, in seconds."""

    def now(self) -> float:
        """By Postgres's clock: timers in the tables are read by controllers on other machines, too."""
        return time.time() + self.offset

    async def read(self, lease: Lease) -> BroadcastRow:
        """Raises `LeaseLost`, `DatabaseUnavailable`."""
        async with self._turns, _patience(), self._database.transaction() as session:
            return await transitions.read(session, lease)

    async def write(self, lease: Lease, writes: Sequence[Write]) -> BroadcastRow:
        """Raises as `transitions.write`, and `DatabaseUnavailable`."""
        async with self._turns, _patience(), self._database.transaction() as session:
            return await transitions.write(session, lease, writes)


@contextlib.asynccontextmanager
async def _patience() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(DATABASE_PATIENCE):
            yield
    except TimeoutError as error:
        raise DatabaseUnavailable from error


class BroadcastReconciler:
    """One broadcast. `run` until it is over or the lease is lost; cancelled, it leaves the engine running."""

    def __init__(
        self, lease: Lease, gate: RowAccess, egress: Egress, policy: Policy, measured: Callable[[MetricsReport], None]
    ) -> None:
        self.lease = lease
        self._gate, self._egress, self._policy, self._measured = gate, egress, policy, measured
        self._seen = Observations()
        self._row: BroadcastRow | None = None
        self._engine: Engine | None = None
        self._starting: asyncio.Task[None] | None = None
        self._finding: asyncio.Task[None] | None = None
        self._happened = asyncio.Event()
        self._stale = True
        self._fenced = False
        self._log = log.bind(broadcast_id=str(lease.broadcast_id), epoch=lease.epoch)

    @property
    def has_engine(self) -> bool:
        """An engine runs and hears us."""
        return self._engine is not None

    def wake(self) -> None:
        """The rows may have changed."""
        self._stale = True
        self._happened.set()

    def lose(self) -> None:
        """The lease is lost: let go at once."""
        self._fenced = True
        self._happened.set()

    async def run(self) -> None:
        """Returns when nothing is left to do here."""
        try:
            await self._run()
        except (LeaseLost, EngineFenced):
            self._log.info("broadcast.let_go")
        finally:
            await self._let_go()

    async def _run(self) -> None:
        pause = DATABASE_PAUSE[0]
        while True:
            self._happened.clear()
            if self._fenced:
                raise LeaseLost
            try:
                wake_at = await self._pass()
                pause = DATABASE_PAUSE[0]
            except RowsMoved:
                self._stale = True
                await asyncio.sleep(_MOVED_PAUSE)
                continue
            except DatabaseUnavailable:
                self._stale = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, DATABASE_PAUSE[1])
                continue
            if self._row is not None and self._row.ended_at is not None:
                await self._see_engine_off()
                return
            await self._sleep(wake_at)

    async def _sleep(self, wake_at: float | None) -> None:
        seconds = LOOK_ANEW if wake_at is None else min(max(wake_at - self._gate.now(), 0.0), LOOK_ANEW)
        try:
            async with asyncio.timeout(seconds):
                await self._happened.wait()
        except TimeoutError:
            self._stale = self._stale or seconds == LOOK_ANEW

    async def _pass(self) -> float | None:
        """Looks, plans, writes, orders. When to look again."""
        if self._stale or self._row is None:
            first = self._row is None
            self._stale = False
            self._row = await self._gate.read(self.lease)
            if first:
                await self._find(self._row)
        seen = self._seen.snapshot()
        made = plan(self._row, seen, self._gate.now(), self._policy)
        if made.writes:
            row = await self._gate.write(self.lease, made.writes)
            self._row = row
        self._seen.written(seen)
        for order in made.orders:
            self._order(self._row, order)
        return made.wake_at

    # The engine

    async def _find(self, row: BroadcastRow) -> None:
        """What an earlier controller left running. Not where we cannot look: on another host."""
        if row.ended_at is not None or row.engine_host not in (None, self._egress.host):
            return
        engine = await self._egress.find(row.id, self.lease.epoch)
        if engine is not None:
            self._follow(engine)

    def _follow(self, engine: Engine) -> None:
        self._engine = engine
        self._seen.engine_running(engine.ref, self._gate.now())
        engine.follow(self._hear, self._disconnected)
        self._happened.set()

    def _hear(self, report: Heard) -> None:
        if isinstance(report, MetricsReport):
            self._measured(report)
            return
        if isinstance(report, EngineGone):
            self._engine = None
        if self._seen.heard(report):
            self._happened.set()

    def _disconnected(self) -> None:
        """The engine may run, but we are not heard any more: a newer controller, or a broken conversation."""
        self._engine = None
        self._finding = asyncio.create_task(self._find_again())

    async def _find_again(self) -> None:
        try:
            engine = await self._egress.find(self.lease.broadcast_id, self.lease.epoch)
        except EngineFenced:
            self.lose()
            return
        finally:
            self._finding = None
        if engine is not None:
            self._follow(engine)
        else:
            self._seen.heard(EngineGone(self._gate.now(), Code.EGRESS_LOST, "it hung up"))
            self._happened.set()

    async def _start(self) -> None:
        try:
            engine = await self._egress.start(self.lease.broadcast_id, self.lease.epoch)
        except asyncio.CancelledError:
            self._seen.engine_dropped()
            raise
        except EngineFenced:
            self.lose()
        except EngineUnavailable as error:
            self._log.warning("engine.unavailable", detail=str(error))
            self._seen.engine_failed(StartFailed(self._gate.now(), str(error)))
        except Exception as error:
            self._log.exception("engine.start_crashed")
            self._seen.engine_failed(StartFailed(self._gate.now(), type(error).__name__))
        else:
            self._follow(engine)
        finally:
            self._starting = None
            self._happened.set()

    def _order(self, row: BroadcastRow, order: Order) -> None:
        now, engine = self._gate.now(), self._engine
        match order:
            case StartEngine():
                if self._starting is None:
                    self._seen.engine_starting()
                    self._starting = asyncio.create_task(self._start())
            case StopEngine() if self._starting is not None:
                self._starting.cancel()
            case KillEngine():
                self._seen.ordered_end(now, killed=True)
                if engine is not None:
                    engine.kill()
            case StopEngine():
                self._seen.ordered_end(now)
                if engine is not None:
                    engine.stop()
            case Configure() if engine is not None:
                self._seen.ordered_configuration()
                engine.configure(row)
            case StartOutput() if engine is not None:
                self._log.info("output.starting", output_id=str(order.output_id), attempt=order.attempt)
                self._seen.ordered_start(order.output_id, order.attempt)
                engine.start_output(order.output_id, order.attempt, order.url, order.sealed_key)
            case StopOutput() if engine is not None:
                self._seen.ordered_stop(order.output_id, now)
                engine.stop_output(order.output_id)
            case _:
                pass

    # The end

    async def _see_engine_off(self) -> None:
        """The broadcast is over in the tables; its engine has its own goodbyes to say, and must not stay."""
        self._log.info("broadcast.ended")
        await self._drop(self._starting)
        deadline = time.monotonic() + KILL_AFTER
        while self._engine is not None and time.monotonic() < deadline:
            self._happened.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._happened.wait()
        if self._engine is not None:
            self._engine.kill()

    async def _let_go(self) -> None:
        await self._drop(self._starting)
        await self._drop(self._finding)
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.leave()

    @staticmethod
    async def _drop(task: asyncio.Task[None] | None) -> None:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
