"""Steps of requests on the event loop: one of each address in a pass, while more than one address asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from butai.web.event_loop_turns import ALONE_SECONDS, EventLoopTurns

STEPS = 40


def scope(address: str, path: str = "/api") -> Scope:
    return {"type": "http", "path": path, "client": (address, 1)}


async def nothing(*_: Any) -> Any:
    raise AssertionError


class Application:
    """Notes the address of each step of its requests."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.ended: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            for _ in range(STEPS):
                self.ran.append(scope["client"][0])
                await asyncio.sleep(0)
        finally:
            self.ended.append(scope["client"][0])

    def between(self, address: str) -> int:
        """The most steps of others between two steps of `address`."""
        at = [number for number, name in enumerate(self.ran) if name == address]
        return max(later - earlier - 1 for earlier, later in pairwise(at))


async def ask(app: Callable[..., Awaitable[None]], *addresses: str) -> None:
    await asyncio.gather(*(app(scope(address), nothing, nothing) for address in addresses))


async def test_a_step_waits_for_one_of_each_other_address() -> None:
    bare, shared = Application(), Application()
    asked = [*["192.0.2.1"] * 20, "192.0.2.2", *["192.0.2.3"] * 20]
    await ask(bare, *asked)
    await ask(EventLoopTurns(shared), *asked)
    assert bare.between("192.0.2.2") == 40
    # At the beginning, those who came before another address was known of have run a step each.
    assert _later(shared).between("192.0.2.2") <= 4
    assert len(shared.ran) == len(bare.ran) == len(asked) * STEPS
    assert len(shared.ended) == len(asked)


def _later(whole: Application) -> Application:
    later = Application()
    later.ran = whole.ran[len(whole.ended) :]
    return later


async def test_one_address_alone_waits_for_nothing() -> None:
    passes, application = 0, Application()

    async def count() -> None:
        nonlocal passes
        while not application.ended:
            passes += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await ask(EventLoopTurns(application), *["192.0.2.1"] * 20)
    await counting
    assert passes <= STEPS + 5


async def test_a_long_request_has_its_turns_as_long_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    application, now = Application(), 0.0

    def time() -> float:
        nonlocal now
        now += ALONE_SECONDS / 20
        return now

    monkeypatch.setattr(asyncio.get_running_loop(), "time", time)
    app = EventLoopTurns(application)
    # It began long before the others, who go on asking: none of its requests is new.
    long = asyncio.create_task(ask(app, "192.0.2.2"))
    while not long.done():
        await ask(app, *["192.0.2.1"] * 20)
    assert now > 3 * ALONE_SECONDS
    assert _later(application).between("192.0.2.2") <= 3


async def test_addresses_of_one_network_have_one_turn() -> None:
    application = Application()
    network = [f"2001:db8::{number}" for number in range(1, 21)]
    await ask(EventLoopTurns(application), *network, "192.0.2.2")
    later = _later(application)
    assert later.between("192.0.2.2") <= 2


async def test_health_never_waits() -> None:
    application = Application()
    app = EventLoopTurns(application)
    health = [app(scope("192.0.2.1", "/healthz"), nothing, nothing) for _ in range(20)]
    await asyncio.gather(ask(app, *["192.0.2.1"] * 20, "192.0.2.2"), *health)
    assert application.ended[:20] == ["192.0.2.1"] * 20
    assert len(application.ended) == 41


@pytest.mark.parametrize("passes", range(6))
async def test_a_cancelled_request_ends_wherever_it_waits(passes: int) -> None:
    application = Application()
    app = EventLoopTurns(application)
    tasks = [asyncio.create_task(ask(app, address)) for address in ["192.0.2.1"] * 5 + ["192.0.2.2"]]
    for _ in range(passes + 2):
        await asyncio.sleep(0)
    for task in tasks[:5]:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 5 + [type(None)]
    assert sorted(application.ended) == ["192.0.2.1"] * 5 + ["192.0.2.2"]


async def test_an_error_passes_through() -> None:
    async def fails(*_: Any) -> None:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            raise ValueError("as the application raised it") from None

    app = EventLoopTurns(fails)
    with pytest.raises(ValueError, match="as the application raised it"):
        await ask(app, "192.0.2.1", "192.0.2.2")
