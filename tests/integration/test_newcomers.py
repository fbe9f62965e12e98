"""How newcomers are found and taken: `Admission` against a real Postgres, without engines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from butai.config import LiveSettings, RetrySettings
from butai.database import Database
from butai.live.egress.presets import RELAY_COSTS
from butai.live.reconcile.admission import Admission
from butai.live.reconcile.capacity import LATE_REPORTS, STEADY_REPORTS, Admitted, Capacity, EngineLoad, cost_key
from butai.live.reconcile.draft import Policy
from butai.live.reconcile.leases import BATCH
from butai.live.reconcile.timing import Timing
from butai.live.reconcile.transitions import Lease
from tests.live_api import sql
from tests.shows import Shows, shows, until

TABLE = {cost_key("relay", preset): cost for preset, cost in RELAY_COSTS.items()}
RULES = RetrySettings()


class Newcomers(Admission):
    """The newcomers of one controller; `paused`: whether it stops in the middle of its transaction."""

    def __init__(
        self, database: Database, name: str, cores: float, *, host: str = "", timing: Timing | None = None
    ) -> None:
        policy = Policy({"custom": RULES}, host or name, lambda: 0.5, timing or Timing())
        self.capacity = Capacity(cores, TABLE)
        super().__init__(
            database,
            name,
            host or name,
            LiveSettings().lease,
            self.capacity,
            policy=policy,
            egresses=["relay"],
        )
        self.paused, self.taking, self.go_on = False, asyncio.Event(), asyncio.Event()

    async def _take(self, session: AsyncSession, admitted: Admitted) -> Lease | None:
        taken = await super()._take(session, admitted)
        if self.paused:
            self.taking.set()
            await self.go_on.wait()
        return taken

    async def take(self) -> list[UUID]:
        """The broadcasts that it takes now."""
        return [lease.broadcast_id for lease, _ in await self.admit([])]

    def report(self, *, second: float, late: float = 0.0, cores: float = 0.34) -> None:
        """A report of an engine of this machine."""
        self.capacity.observe([EngineLoad("r1", second, cost_key("relay", "720p30"), cores, late, steady=True)], second)


@pytest.fixture
def stage(database_url: str) -> Iterator[Shows]:
    with shows(database_url) as made:
        yield made


async def lose(database: Database, broadcast_id: UUID) -> None:
    """The lease expires before there is an engine."""
    await sql(database, "UPDATE broadcasts SET lease_until = now() - interval '1 s' WHERE id = :id", id=broadcast_id)


async def run_on(database: Database, host: str, broadcast_id: UUID) -> None:
    """An engine of an earlier controller, which is held by none."""
    await sql(
        database,
        "UPDATE broadcasts SET engine_host = :host, engine_ref = 'r', lease_holder = NULL, lease_until = NULL WHERE id = :id",
        host=host,
        id=broadcast_id,
    )


async def test_a_newcomer_that_fits_is_taken_however_many_wait_before_it(stage: Shows, database: Database) -> None:
    first = await stage.begin("rtmp://a/app")
    newcomers = Newcomers(database, "c1", 1.0)
    assert await newcomers.take() == [first]
    large = [await stage.begin("rtmp://a/app", preset="1080p60") for _ in range(BATCH + 1)]
    small = await stage.begin("rtmp://a/app")
    assert await newcomers.take() == [small]
    # At most so many in one statement's time.
    assert await Newcomers(database, "c2", 1000.0).take() == large[:BATCH]


async def take_meanwhile(one: Newcomers, other: Newcomers) -> tuple[list[UUID], list[UUID]]:
    """What each takes, the other one while the first has not committed."""
    one.paused = True
    taking = asyncio.create_task(one.take())
    await one.taking.wait()
    of_other = await other.take()
    one.go_on.set()
    return await taking, of_other


async def test_newcomers_that_one_controller_does_not_take_are_there_for_another_at_the_same_time(
    stage: Shows, database: Database
) -> None:
    ids = [await stage.begin("rtmp://a/app") for _ in range(3)]
    one, other = Newcomers(database, "c1", 0.5), Newcomers(database, "c2", 8.0)
    assert await take_meanwhile(one, other) == (ids[:1], ids[1:])


async def test_a_newcomer_that_another_controller_took_meanwhile_stays_there(stage: Shows, database: Database) -> None:
    ids = [await stage.begin("rtmp://a/app") for _ in range(2)]
    one, other = Newcomers(database, "c1", 8.0), Newcomers(database, "c2", 0.5)
    assert await take_meanwhile(one, other) == (ids[:1], ids[1:])
    rows = await sql(database, "SELECT lease_holder, lease_epoch FROM broadcasts ORDER BY created_at")
    assert [tuple(row) for row in rows] == [("c1", 1), ("c2", 1)]


async def test_a_newcomer_that_is_taken_twice_is_lowered_once_from_what_its_host_chose(
    stage: Shows, database: Database
) -> None:
    newcomers = Newcomers(database, "c1", 8.0)
    await stage.begin("rtmp://a/app")
    assert len(await newcomers.take()) == 1
    for second in range(LATE_REPORTS):
        newcomers.report(second=float(second), late=0.15)
    lowered = await stage.begin("rtmp://b/app", preset="1080p60")
    for _ in range(2):
        assert await newcomers.take() == [lowered]
        row = await stage.broadcast(lowered)
        assert (row["preset"], row["chosen_preset"]) == ("1080p30", "1080p60")
        await lose(database, lowered)
    assert [event["event"] for event in await stage.events(lowered)] == ["broadcast.preset_lowered"]
    # It never was on air: on a machine that is not behind it gets what its host chose.
    assert await Newcomers(database, "c2", 8.0).take() == [lowered]
    row = await stage.broadcast(lowered)
    assert (row["preset"], row["chosen_preset"]) == ("1080p60", None)


async def test_a_controller_goes_by_what_the_other_ones_of_its_machine_say(stage: Shows, database: Database) -> None:
    newcomers = Newcomers(database, "c1", 2.0, host="h")
    await sql(
        database,
        "INSERT INTO controllers (id, host, capacity, costs, admits) "
        """VALUES ('c2', 'h', 2, '{"relay 720p30": 1.2}', 'all'), ('c3', 'elsewhere', 2, '{}', 'none')""",
    )
    first, second = await stage.begin("rtmp://a/app"), await stage.begin("rtmp://b/app")
    assert await newcomers.take() == [first]
    await sql(database, "UPDATE controllers SET costs = CAST(:costs AS jsonb)", costs='{"relay 720p30": 0.5}')
    await sql(database, "UPDATE controllers SET admits = 'none' WHERE id = 'c2'")
    assert await newcomers.take() == []
    # One that is silent says nothing.
    await sql(database, "UPDATE controllers SET seen_at = now() - interval '20 seconds'")
    assert await newcomers.take() == [second]


async def test_a_controller_that_resumes_engines_measures_them_before_it_fills_its_machine(
    stage: Shows, database: Database
) -> None:
    on_air = [await stage.begin("rtmp://a/app") for _ in range(2)]
    for broadcast_id in on_air:
        await run_on(database, "h", broadcast_id)
    newcomer = await stage.begin("rtmp://b/app")
    newcomers = Newcomers(database, "c1", 2.0, host="h")
    assert await newcomers.take() == []
    # It is not told that there is no room, which is not known yet.
    await sql(database, "UPDATE broadcasts SET created_at = now() - interval '1 minute'")
    await newcomers.tell_waiting()
    assert (await stage.broadcast(newcomer))["waiting_since"] is None
    for second in range(STEADY_REPORTS):
        newcomers.report(second=float(second))
    assert await newcomers.take() == [newcomer]

    # Some engines never say what they take.
    await lose(database, newcomer)
    unmeasured = Newcomers(database, "c2", 2.0, host="h", timing=Timing(capacity_measured=0.3))
    assert await unmeasured.take() == []

    async def taken() -> list[UUID]:
        return await unmeasured.take()

    assert await until(taken) == [newcomer]


async def test_a_full_controller_gives_back_what_it_took_to_end_when_its_host_wants_it_on_air(
    database_url: str,
) -> None:
    with shows(database_url, capacity=0.0) as stage:
        broadcast_id = await stage.begin("rtmp://a/app")
        await stage.do("UPDATE outputs SET wanted = 'off'")
        async with stage.controller() as controller:
            acquire = controller._leases.acquire

            async def and_the_host_retries(held: list[UUID]) -> list[tuple[Lease, str]]:
                taken = await acquire(held)
                if taken:
                    await stage.do("UPDATE outputs SET wanted = 'on', retry_asked_at = now()")
                return taken

            controller._leases.acquire = and_the_host_retries  # pyright: ignore[reportAttributeAccessIssue]

            async def told() -> bool:
                [output] = (await stage.outputs(broadcast_id)).values()
                return output["error_code"] == "no_capacity" or bool(stage.heard(broadcast_id))

            await until(told)
            assert stage.heard(broadcast_id) == []
            assert controller.held == set()
