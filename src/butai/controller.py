"""The controller process: takes leases on broadcasts, and runs a reconciler for each.

Any number may run. A clean stop gives the leases back and leaves the engines running: a restart interrupts no
broadcast, since the next controller adopts its engine. An engine that no controller adopts ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import structlog
from psycopg.types.json import Jsonb

from butai.config import LiveSettings, Settings
from butai.database import Connection, Database
from butai.errors import DatabaseUnavailable
from butai.live.expected import EXPECTED
from butai.live.reconcile.admission import Admission
from butai.live.reconcile.capacity import Capacity, cost_key
from butai.live.reconcile.draft import Policy
from butai.live.reconcile.leases import Leases
from butai.live.reconcile.machine import cores_for_engines
from butai.live.reconcile.port import Egress
from butai.live.reconcile.reconciler import BroadcastReconciler, NotAdmitted, RowAccess
from butai.live.reconcile.reports import MetricsReport
from butai.live.reconcile.timing import Timing
from butai.live.reconcile.transitions import Lease

log = structlog.get_logger(__name__)

TRANSACTIONS = 6
"""Concurrent transactions, of the pool's ten connections."""

_METRICS = """
    INSERT INTO output_metrics (output_id, attempt, at, data)
    SELECT output_id, attempt, now(), data
    FROM unnest(%s::uuid[], %s::int[], %s::jsonb[]) AS m (output_id, attempt, data)
    ON CONFLICT (output_id) DO UPDATE SET attempt = excluded.attempt, at = excluded.at, data = excluded.data
"""


class Controller:
    """Reconciles broadcasts from `run` until `stop`."""

    def __init__(
        self,
        settings: LiveSettings,
        database: Database,
        egresses: Sequence[Egress],
        name: str,
        timing: Timing | None = None,
    ) -> None:
        """`egresses`: at most one of each kind. The first gives this host's name. `name`: unique among controllers."""
        self._settings, self._database, self._timing = settings, database, timing or Timing()
        self._egresses = {egress.name: egress for egress in egresses}
        self._host = egresses[0].host
        self._leases = Leases(database, name, self._host, settings.lease, list(self._egresses), self._timing)
        self._rows = RowAccess(database, min(TRANSACTIONS, database.settings.pool_size), self._timing)
        rules = {"youtube": settings.youtube_retry, "twitch": settings.twitch_retry, "custom": settings.custom_retry}
        self._policies = {egress.name: Policy(rules, egress.host, random.random, self._timing) for egress in egresses}
        table = {cost_key(one.name, preset): cost for one in egresses for preset, cost in one.costs.items()}
        self._capacity = Capacity(cores_for_engines(settings), table, settings.admit_when_late)
        self._admission = Admission(
            database,
            name,
            self._host,
            settings.lease,
            self._capacity,
            policy=self._policies[egresses[0].name],
            egresses=list(self._egresses),
        )
        self._held: dict[UUID, tuple[BroadcastReconciler, asyncio.Task[None]]] = {}
        self._metrics: dict[UUID, MetricsReport] = {}
        self._look_now = asyncio.Event()
        self._stopping = asyncio.Event()
        self._renewed_at = time.monotonic()
        self._clock_known = asyncio.Event()
        self._steady_from = 0.0
        self._alone = True
        self._away = False

    @property
    def held(self) -> set[UUID]:
        """The broadcasts that this controller holds."""
        return set(self._held)

    @property
    def capacity(self) -> Capacity:
        """What this controller's host can carry."""
        return self._capacity

    def stop(self) -> None:
        """Makes `run` return soon."""
        self._stopping.set()

    async def run(self) -> None:
        """Returns after `stop`, with all engines still running."""
        log.info(
            "controller.started",
            controller=self._leases.holder,
            host=self._host,
            egresses=list(self._egresses),
            cores_for_engines=round(self._capacity.cores, 2),
        )
        loops = [
            asyncio.create_task(work)
            for work in (
                self._every(self._settings.lease / 3, self._renew),
                self._every(self._timing.heartbeat_every, self._heartbeat),
                self._every(self._timing.metrics_every, self._write_metrics),
                self._measure(),
                self._open_egresses(),
                self._sweep(),
                self._database.listen(["butai_wanted", EXPECTED], self._wake, self._wake_all),
            )
        ]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([stopping, *loops], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (stopping, *loops):
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._release_all()
            log.info("controller.stopped")

    async def _open_egresses(self) -> None:
        for egress in self._egresses.values():
            while True:
                try:
                    await egress.open()
                    break
                except DatabaseUnavailable:
                    await asyncio.sleep(self._timing.open_pause)
        await asyncio.Event().wait()

    async def _release_all(self) -> None:
        held = [reconciler.lease for reconciler, _ in self._held.values()]
        tasks = [task for _, task in self._held.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(self._timing.release_limit):
                await self._leases.release(held)
                await self._leases.deregister()

    async def _every(self, seconds: float, act: Callable[[], Any]) -> None:
        """Repeats `act`, and records whether the database is reachable."""
        while True:
            begun = time.monotonic()
            try:
                async with asyncio.timeout(self._timing.statement_limit):
                    await act()
                self._note_database(away=False)
            except (DatabaseUnavailable, TimeoutError):
                self._note_database(away=True)
            self._update_keepalive()
            await asyncio.sleep(max(seconds - (time.monotonic() - begun), 0.05))

    def _note_database(self, *, away: bool) -> None:
        if away is not self._away:
            self._away = away
            log.warning("controller.database_away" if away else "controller.database_back", broadcasts=len(self._held))

    # Leases

    async def _sweep(self) -> None:
        await self._clock_known.wait()
        while True:
            self._look_now.clear()
            try:
                async with asyncio.timeout(self._timing.statement_limit):
                    if not await self._clock_is_steady():
                        await asyncio.sleep(self._timing.sweep_every)
                        continue
                    while taken := await self._leases.acquire(list(self._held)):
                        for lease, egress in taken:
                            self._hold(lease, egress, admitted=False)
                    while taken := await self._admission.admit(list(self._held)):
                        for lease, egress in taken:
                            self._hold(lease, egress, admitted=True)
                    await self._admission.tell_waiting()
            except (DatabaseUnavailable, TimeoutError):
                await asyncio.sleep(self._timing.database_pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.sweep_every):
                    await self._look_now.wait()

    def _hold(self, lease: Lease, egress: str, *, admitted: bool) -> None:
        log.info("lease.taken", broadcast_id=str(lease.broadcast_id), epoch=lease.epoch)
        reconciler = BroadcastReconciler(
            lease,
            self._rows,
            self._egresses[egress],
            self._policies[egress],
            self._record_metrics,
            admitted=admitted,
        )
        task = asyncio.create_task(self._reconcile(reconciler))
        self._held[lease.broadcast_id] = (reconciler, task)

    async def _reconcile(self, reconciler: BroadcastReconciler) -> None:
        broadcast_id = reconciler.lease.broadcast_id
        try:
            await reconciler.run()
            if reconciler.is_over:
                # Its host may begin another one.
                self._expect_start()
        except NotAdmitted:
            log.info("lease.given_back", broadcast_id=str(broadcast_id))
            # Otherwise it expires.
            with contextlib.suppress(DatabaseUnavailable):
                await self._leases.release([reconciler.lease])
        except Exception:
            log.exception("broadcast.crashed", broadcast_id=str(broadcast_id))
            # The lease expires, and the controller that takes it begins again.
            await asyncio.sleep(self._timing.crash_pause)
        finally:
            del self._held[broadcast_id]
            self._look_now.set()

    async def _renew(self) -> None:
        begun = time.monotonic()
        held = [reconciler for reconciler, _ in self._held.values()]
        kept = await self._leases.renew([(one.lease, one.has_engine) for one in held])
        self._renewed_at = begun
        for one in held:
            if one.lease.broadcast_id not in kept:
                one.lose_lease()

    async def _heartbeat(self) -> None:
        before = time.monotonic()
        heartbeat = await self._leases.heartbeat(len(self._held), self._capacity)
        self._note_clock(heartbeat.database_time, before)
        self._alone = heartbeat.alone

    async def _clock_is_steady(self) -> bool:
        """Whether Postgres's clock was not set just now. After that all leases seem to have ended, or to last for long,
        until their holders have renewed them."""
        before = time.monotonic()
        self._note_clock(await self._leases.database_time(), before)
        return time.monotonic() >= self._steady_from

    def _note_clock(self, database_time: float, before: float) -> None:
        """Follows Postgres's clock. Reconcilers that run have their own, which goes on."""
        after = time.monotonic()
        offset = database_time - (before + after) / 2
        differs = offset - self._rows.offset
        # An answer that took long gives no information about the clock, but a first one may be needed.
        unsure = max(after - before, self._timing.clock_tolerance)
        first, took_long = not self._clock_known.is_set(), after - before >= self._timing.clock_tolerance
        self._clock_known.set()
        if abs(differs) <= unsure or (took_long and not first):
            return
        log.warning("controller.clock_differs", seconds=round(differs, 3))
        self._rows.offset = offset
        if not first and abs(differs) > self._settings.lease / 3:
            self._steady_from = after + self._settings.lease

    def _update_keepalive(self) -> None:
        """While Postgres is unreachable, engines are kept alive as long as no other host can have taken them over."""
        fresh = time.monotonic() - self._renewed_at < self._timing.keepalive_for
        for egress in self._egresses.values():
            egress.allow_keepalive(allowed=fresh or self._alone)

    # Notifications

    def _wake(self, channel: str, payload: str) -> None:
        if channel == EXPECTED:
            self._expect_start()
            return
        try:
            held = self._held.get(UUID(payload))
        except ValueError:
            return
        if held is not None:
            held[0].wake()
        else:
            self._look_now.set()

    def _expect_start(self) -> None:
        for egress in self._egresses.values():
            egress.expect_start()

    def _wake_all(self) -> None:
        self._look_now.set()
        for reconciler, _ in self._held.values():
            reconciler.wake()

    # Capacity

    async def _measure(self) -> None:
        """Takes what the engines report of themselves into the capacity, and logs when it admits other newcomers."""
        while True:
            before = self._capacity.admits
            loads = [load for egress in self._egresses.values() for load in egress.loads()]
            self._capacity.observe(loads, time.monotonic())
            if (admits := self._capacity.admits) != before:
                log.warning("controller.admits", newcomers=admits, engines=len(loads))
            await asyncio.sleep(self._timing.metrics_every)

    # Metrics

    def _record_metrics(self, report: MetricsReport) -> None:
        self._metrics[report.output_id] = report

    async def _write_metrics(self) -> None:
        # In the order of ids, so that two controllers cannot deadlock.
        reports = [self._metrics[output_id] for output_id in sorted(self._metrics)]
        self._metrics.clear()
        if not reports:
            return
        columns = (
            [report.output_id for report in reports],
            [report.attempt for report in reports],
            [Jsonb(dict(report.data)) for report in reports],
        )

        async def act(connection: Connection) -> None:
            await connection.execute(_METRICS, columns)

        await self._database.execute(act)


def make_name() -> str:
    """A name that is unique among all controllers: host, process id, and a random part."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


async def run(
    settings: Settings,
    make_egresses: Callable[[str, Database], Sequence[Egress]],
    timing: Timing | None = None,
) -> None:
    """Runs a controller until SIGTERM or SIGINT. `make_egresses`: takes the controller's name and the database.

    `timing`: not a setting for operators; tests use shorter durations.
    """
    name = make_name()
    async with Database(settings.database) as database:
        egresses = make_egresses(name, database)
        controller = Controller(settings.live, database, egresses, name, timing)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, controller.stop)
        try:
            await controller.run()
        finally:
            for egress in egresses:
                await egress.close()
