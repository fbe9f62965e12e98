"""Brings one broadcast to the wanted state and keeps it there, while this controller holds its lease.

A reconciler sleeps until a wish of the host (NOTIFY), a report of the engine, or a timer. Then it plans, writes in one
transaction, and gives orders after the commit. While Postgres is unreachable it writes nothing and gives no orders; the
engine continues, and its reports are kept until they can be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence

import structlog

from butai.database import Database
from butai.errors import Code, DatabaseUnavailable
from butai.live.reconcile import transitions
from butai.live.reconcile.commands import (
    CheckDestinations,
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
from butai.live.reconcile.fold import RowsChanged
from butai.live.reconcile.plan import plan
from butai.live.reconcile.port import Egress, Engine, EngineFenced, EngineUnavailable
from butai.live.reconcile.reports import (
    CheckReport,
    EngineGone,
    EngineReport,
    MetricsReport,
    Observations,
    StartFailed,
    dated,
)
from butai.live.reconcile.rows import BroadcastRow
from butai.live.reconcile.timing import Timing
from butai.live.reconcile.transitions import Lease, LeaseLost

log = structlog.get_logger(__name__)


class RowAccess:
    """Access to rows that all reconcilers of a controller share: bounds concurrent transactions, and has one clock."""

    def __init__(self, database: Database, at_once: int, timing: Timing) -> None:
        self._database, self._turns, self._limit = database, asyncio.Semaphore(at_once), timing.transaction_limit
        self.offset = time.time() - time.monotonic()
        """Postgres's clock minus this machine's monotonic one, in seconds, as far as it is known."""

    def now(self) -> float:
        """Seconds since 1970 by Postgres's clock, since controllers on other machines read the same timers."""
        return time.monotonic() + self.offset

    def clock(self) -> Callable[[], float]:
        """`now` as it would go on if no clock was set from here on."""
        offset = self.offset
        return lambda: time.monotonic() + offset

    async def read(self, lease: Lease) -> BroadcastRow:
        """Reads a broadcast. Raises `LeaseLost`, `DatabaseUnavailable`."""
        async with self._turns, _time_limit(self._limit), self._database.transaction() as session:
            return await transitions.read(session, lease)

    async def write(self, lease: Lease, writes: Sequence[Write]) -> BroadcastRow:
        """Applies writes and returns the rows after them. Raises as `transitions.write`, and `DatabaseUnavailable`."""
        async with self._turns, _time_limit(self._limit), self._database.transaction() as session:
            return await transitions.write(session, lease, writes)


@contextlib.asynccontextmanager
async def _time_limit(seconds: float) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise DatabaseUnavailable from error


class NotAdmitted(Exception):
    """The broadcast needs its first engine, and its controller has not looked for room: `admission` has to take it."""


class BroadcastReconciler:
    """Reconciles one broadcast. `run` returns when it is over or the lease is lost; when cancelled, it leaves the
    engine running."""

    def __init__(
        self,
        lease: Lease,
        rows: RowAccess,
        egress: Egress,
        policy: Policy,
        on_metrics: Callable[[MetricsReport], None],
        *,
        admitted: bool,
    ) -> None:
        """`admitted`: whether this host has room for the broadcast's first engine."""
        self.lease, self._admitted = lease, admitted
        self._rows, self._egress, self._policy, self._on_metrics = rows, egress, policy, on_metrics
        self._timing = policy.timing
        # Its timers run by this clock to the end, whatever becomes of Postgres's.
        self._now = rows.clock()
        self._seen = Observations(held_since=self._now())
        self._row: BroadcastRow | None = None
        self._engine: Engine | None = None
        self._starting: asyncio.Task[None] | None = None
        self._finding: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._stale = True
        self._fenced = False
        self._log = log.bind(broadcast_id=str(lease.broadcast_id), epoch=lease.epoch)

    @property
    def has_engine(self) -> bool:
        """Whether an engine runs that this controller is connected to."""
        return self._engine is not None

    @property
    def is_over(self) -> bool:
        """Whether the broadcast has ended."""
        return self._row is not None and self._row.ended_at is not None

    def wake(self) -> None:
        """Makes the reconciler read the rows again: they may have changed."""
        self._stale = True
        self._woken.set()

    def lose_lease(self) -> None:
        """Makes `run` return without another write: the lease is lost."""
        self._fenced = True
        self._woken.set()

    async def run(self) -> None:
        """Returns when nothing is left to do for this broadcast. Raises `NotAdmitted`."""
        try:
            await self._run()
        except (LeaseLost, EngineFenced):
            self._log.info("broadcast.released")
        finally:
            await self._release()

    async def _run(self) -> None:
        pause = self._timing.database_pause
        while True:
            self._woken.clear()
            if self._fenced:
                raise LeaseLost
            try:
                wake_at = await self._reconcile_once()
                pause = self._timing.database_pause
            except RowsChanged:
                self._stale = True
                await asyncio.sleep(self._timing.changed_pause)
                continue
            except DatabaseUnavailable:
                self._stale = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._timing.database_pause_cap)
                continue
            if self.is_over:
                await self._await_engine_end()
                return
            await self._sleep(wake_at)

    async def _sleep(self, wake_at: float | None) -> None:
        longest = self._timing.reread_every
        seconds = longest if wake_at is None else min(max(wake_at - self._now(), 0.0), longest)
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            self._stale = self._stale or seconds == longest

    async def _reconcile_once(self) -> float | None:
        """Reads if the rows may be stale, plans, writes, and gives orders. Returns the time of the next plan."""
        if self._stale or self._row is None:
            first = self._row is None
            self._stale = False
            self._row = await self._rows.read(self.lease)
            if first:
                await self._find(self._row)
        seen = self._seen.snapshot()
        made = plan(self._row, seen, self._now(), self._policy)
        if made.writes:
            row = await self._rows.write(self.lease, made.writes)
            self._row = row
        self._seen.mark_written(seen)
        for order in made.orders:
            self._carry_out(self._row, order)
        return made.wake_at

    # The engine

    async def _find(self, row: BroadcastRow) -> None:
        """Adopts an engine that an earlier controller left running on this host."""
        if row.ended_at is not None or row.engine_host not in (None, self._egress.host):
            return
        engine = await self._egress.find(row.id, self.lease.epoch)
        if engine is not None:
            self._follow(engine)

    def _follow(self, engine: Engine) -> None:
        self._engine = engine
        self._seen.engine_running(engine.ref, self._now())
        engine.follow(self._on_report, self._on_disconnect)
        self._woken.set()

    def _on_report(self, report: EngineReport) -> None:
        if isinstance(report, MetricsReport):
            self._on_metrics(report)
            return
        told = report if isinstance(report, CheckReport) else dated(report, self._now())
        if isinstance(told, EngineGone):
            self._engine = None
        if self._seen.record(told):
            self._woken.set()

    def _on_disconnect(self) -> None:
        """Finds the engine again, which may still run: a newer controller connected to it, or the connection broke."""
        self._engine = None
        self._finding = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        try:
            engine = await self._egress.find(self.lease.broadcast_id, self.lease.epoch)
        except EngineFenced:
            self.lose_lease()
            return
        finally:
            self._finding = None
        if engine is not None:
            self._follow(engine)
        else:
            self._seen.record(EngineGone(self._now(), Code.EGRESS_LOST, "it hung up"))
            self._woken.set()

    async def _start(self) -> None:
        try:
            engine = await self._egress.start(self.lease.broadcast_id, self.lease.epoch)
        except asyncio.CancelledError:
            self._seen.engine_dropped()
            raise
        except EngineFenced:
            self.lose_lease()
        except EngineUnavailable as error:
            self._log.warning("engine.unavailable", detail=str(error))
            self._seen.engine_failed(StartFailed(self._now(), str(error)))
        except Exception as error:  # noqa: BLE001 - becomes a report of the failed start
            self._log.exception("engine.start_crashed")
            self._seen.engine_failed(StartFailed(self._now(), type(error).__name__))
        else:
            self._follow(engine)
        finally:
            self._starting = None
            self._woken.set()

    def _carry_out(self, row: BroadcastRow, order: Order) -> None:
        now, engine = self._now(), self._engine
        match order:
            case StartEngine():
                if row.engine_host is None and not self._admitted:
                    # It was taken to be ended, and its host wants it on air again.
                    raise NotAdmitted
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
            case CheckDestinations() | StartOutput() | StopOutput() if engine is not None:
                self._order_output(row, engine, order)
            case _:
                pass

    def _order_output(
        self, row: BroadcastRow, engine: Engine, order: CheckDestinations | StartOutput | StopOutput
    ) -> None:
        match order:
            case CheckDestinations():
                self._seen.ordered_checks(order.outputs)
                engine.check_destinations(order.outputs)
            case StartOutput():
                self._log.info("output.starting", output_id=str(order.output_id), attempt=order.attempt)
                self._seen.ordered_start(order.output_id, order.attempt)
                output = next(one for one in row.outputs if one.id == order.output_id)
                hurried = self._policy.retry[output.platform].window > 0
                engine.start_output(
                    output.id, order.attempt, output.attempt_ingest_url, output.sealed_key, hurried=hurried
                )
            case StopOutput():
                self._seen.ordered_stop(order.output_id, self._now())
                engine.stop_output(order.output_id)

    # The end

    async def _await_engine_end(self) -> None:
        """Waits for the engine of a broadcast that is over in the tables, and kills it when it takes too long."""
        self._log.info("broadcast.ended")
        await self._cancel(self._starting)
        deadline = time.monotonic() + self._timing.kill_after
        while self._engine is not None and time.monotonic() < deadline:
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._woken.wait()
        if self._engine is not None:
            self._engine.kill()

    async def _release(self) -> None:
        await self._cancel(self._starting)
        await self._cancel(self._finding)
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.detach()

    @staticmethod
    async def _cancel(task: asyncio.Task[None] | None) -> None:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
