"""When a relay's process is on standby, and what a start gets when it died, hangs or is still loading; in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
import structlog.testing

from butai.live.egress.relay import standby
from butai.live.egress.relay.process import WatchedProcess
from butai.live.egress.relay.standby import Standby, WaitingProcess
from butai.live.reconcile.timing import Timing
from tests.virtual_time import run_virtually

TIMING = Timing()
LOADING = 1.5


class FakeProcess:
    """A process that waits. `hang`: it answers nothing from then on."""

    def __init__(self, number: int, loading: float, ending: float) -> None:
        self.pid, self._loading, self._ending = number, loading, ending
        self.begun, self.loaded = asyncio.get_running_loop().time(), False
        self.hangs = self.died = self.ended = self.released = False
        self.given: list[str] = []
        self._over = asyncio.Event()

    @property
    def process(self) -> WatchedProcess:
        return cast("WatchedProcess", self)

    async def ask(self) -> None:
        if not self.loaded:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self.begun + self._loading):
                    await self._over.wait()
        if self.hangs:
            await self._over.wait()
        if self.died or self.ended:
            raise ConnectionResetError
        self.loaded = True

    async def give(self, broadcast_id: str) -> None:
        await self.ask()
        self.given.append(broadcast_id)

    def release(self) -> None:
        self.released = True

    async def end(self, seconds: float) -> None:
        assert seconds == TIMING.kill_limit
        self.ended = True
        self._over.set()
        if self._ending:
            await asyncio.sleep(self._ending)


class Machine:
    """A controller's standby, and all processes that it has made."""

    def __init__(self) -> None:
        self.made: list[FakeProcess] = []
        self.errors: list[OSError | None] = []
        """Raised by the next starts. None: another controller has one."""
        self.ending = 0.0
        """Seconds that a killed process takes to end."""
        self.loading = LOADING
        self.standby = Standby(("relay",), Path("/relays"), TIMING, self._make)

    async def _make(self, command: Sequence[str], folder: Path) -> FakeProcess | None:
        assert (tuple(command), folder) == (("relay",), Path("/relays"))
        if self.errors:
            error = self.errors.pop(0)
            if error is not None:
                raise error
            return None
        self.made.append(FakeProcess(len(self.made) + 1, self.loading, self.ending))
        assert len(self.waiting) == 1, "never two at once"
        return self.made[-1]

    @property
    def waiting(self) -> list[FakeProcess]:
        return [one for one in self.made if not one.ended and not one.released]


def virtually(test: Callable[[Machine], Awaitable[None]]) -> Callable[[], None]:
    """Runs a test of a machine in virtual time; nothing is left waiting at its end."""

    def run() -> None:
        async def act() -> None:
            machine = Machine()
            try:
                await test(machine)
            finally:
                await machine.standby.close()
            assert machine.waiting == []

        run_virtually(act())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def now() -> float:
    return asyncio.get_running_loop().time()


@virtually
async def test_without_a_sign_there_is_none(machine: Machine) -> None:
    await asyncio.sleep(3600)
    assert machine.made == []
    assert await machine.standby.take("b1") is None


@virtually
async def test_it_waits_for_a_while_after_the_last_sign(machine: Machine) -> None:
    machine.standby.expect()
    await asyncio.sleep(TIMING.standby_for / 2)
    assert [one.loaded for one in machine.waiting] == [True]
    machine.standby.expect()
    await asyncio.sleep(TIMING.standby_for - 1)
    assert len(machine.made) == len(machine.waiting) == 1
    await asyncio.sleep(2)
    assert machine.waiting == []
    await asyncio.sleep(3600)
    assert len(machine.made) == 1
    machine.standby.expect()
    await asyncio.sleep(LOADING * 2)
    assert len(machine.made) == 2


@virtually
async def test_a_start_takes_it_at_once_and_the_next_one_is_loaded_later(machine: Machine) -> None:
    machine.standby.expect()
    await asyncio.sleep(60)
    begun = now()
    taken = await machine.standby.take("b1")
    assert now() == begun
    (first,) = machine.made
    assert taken is first.process and first.given == ["b1"] and first.released and not first.ended
    # A start right after it finds none, and does not wait for one.
    assert await machine.standby.take("b2") is None
    assert now() == begun
    await asyncio.sleep(TIMING.standby_pause - 0.1)
    assert len(machine.made) == 1
    await asyncio.sleep(TIMING.standby_check_every + LOADING + 1)
    assert [one.loaded for one in machine.waiting] == [True]
    assert await machine.standby.take("b3") is machine.made[1].process


@virtually
async def test_one_that_is_still_loading_is_taken_when_it_has(machine: Machine) -> None:
    machine.standby.expect()
    await asyncio.sleep(LOADING / 3)
    taken = await machine.standby.take("b1")
    assert now() == LOADING
    assert taken is machine.made[0].process and machine.made[0].given == ["b1"]


@virtually
async def test_one_that_died_costs_no_start_and_is_replaced(machine: Machine) -> None:
    machine.standby.expect()
    await asyncio.sleep(60)
    machine.made[0].died = True
    begun = now()
    assert await machine.standby.take("b1") is None
    assert now() == begun
    assert machine.made[0].ended
    await asyncio.sleep(TIMING.standby_pause + TIMING.standby_check_every + LOADING)
    machine.made[1].died = True
    # Nothing starts, and it is replaced all the same.
    await asyncio.sleep(TIMING.standby_pause + 2 * TIMING.standby_check_every + LOADING)
    assert machine.made[1].ended and [one.loaded for one in machine.waiting] == [True]


@virtually
async def test_one_that_hangs_is_found_by_a_check_or_costs_a_start_the_time_for_an_answer(machine: Machine) -> None:
    machine.standby.expect()
    await asyncio.sleep(60)
    machine.made[0].hangs = True
    await asyncio.sleep(TIMING.standby_check_every + TIMING.standby_answer_limit)
    assert machine.made[0].ended
    begun = now()
    assert await machine.standby.take("b1") is None
    assert now() == begun
    await asyncio.sleep(TIMING.standby_pause + TIMING.standby_check_every + LOADING)
    machine.made[1].hangs = True
    begun = now()
    assert await machine.standby.take("b2") is None
    assert now() - begun == TIMING.standby_answer_limit
    assert machine.made[1].ended


@virtually
async def test_one_that_never_loads_is_given_up(machine: Machine) -> None:
    machine.loading = 1e6
    machine.standby.expect()
    await asyncio.sleep(1)
    assert await machine.standby.take("b1") is None
    # As long as it would wait for one that begins with it.
    assert now() == pytest.approx(TIMING.relay_start_limit)
    assert machine.made[0].ended
    await asyncio.sleep(TIMING.standby_load_limit)
    assert len(machine.waiting) == 1
    await asyncio.sleep(TIMING.standby_pause + TIMING.standby_check_every)
    assert machine.made[1].ended


@virtually
async def test_a_start_that_is_cancelled_leaves_no_process(machine: Machine) -> None:
    machine.standby.expect()
    await asyncio.sleep(60)
    machine.made[0].hangs = True
    taking = asyncio.create_task(machine.standby.take("b1"))
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert machine.made[0].ended


@virtually
async def test_where_none_can_be_started_it_is_tried_again(machine: Machine) -> None:
    # Another controller of this machine has one, then there is no memory.
    machine.errors += [None, OSError(12, "Cannot allocate memory")]
    machine.standby.expect()
    await asyncio.sleep(TIMING.standby_check_every + 1)
    assert machine.errors == [] and machine.made == []
    assert await machine.standby.take("b1") is None
    await asyncio.sleep(TIMING.standby_pause + TIMING.standby_check_every + LOADING)
    assert [one.loaded for one in machine.waiting] == [True]


@virtually
async def test_one_that_may_not_be_forked_is_told_and_tried_again_after_a_pause(machine: Machine) -> None:
    machine.errors.append(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"))
    with structlog.testing.capture_logs() as logs:
        machine.standby.expect()
        await asyncio.sleep(TIMING.standby_pause - 1)
        assert machine.errors == [] and machine.made == []
        assert [(one["event"], one["error"]) for one in logs] == [
            ("relay.standby_not_started", "Resource temporarily unavailable")
        ]
    await asyncio.sleep(TIMING.standby_check_every + LOADING + 1)
    assert [one.loaded for one in machine.waiting] == [True]


@virtually
async def test_a_sign_while_the_last_one_ends_loads_another(machine: Machine) -> None:
    machine.ending = 1.0
    machine.standby.expect()
    await asyncio.sleep(TIMING.standby_for + 0.5)
    assert [one.ended for one in machine.made] == [True]
    machine.standby.expect()
    await asyncio.sleep(LOADING + 1)
    assert [one.loaded for one in machine.waiting] == [True]


async def test_only_the_lock_of_another_controller_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(standby, "spawn_standby", fork)
    with pytest.raises(BlockingIOError):
        await WaitingProcess.start(("relay",), tmp_path)
    with (tmp_path / "standby.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert await WaitingProcess.start(("relay",), tmp_path) is None


def test_checks_fit_into_the_time_for_which_one_waits() -> None:
    for timing in (TIMING, TIMING.faster(4)):
        assert timing.standby_answer_limit < timing.relay_start_limit < timing.standby_load_limit
        assert timing.standby_check_every + timing.standby_pause < timing.standby_for / 10
