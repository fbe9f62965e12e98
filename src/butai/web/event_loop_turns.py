"""Turns on the event loop: however much one address asks for, the requests of others are not behind all of it.

An event loop runs whatever is ready in the order in which it became ready. One address with twenty requests under way
would have twenty steps in each pass of the loop, and a step of another address would wait for all of them. Here each
address has one step in each pass; its others wait for the next passes. While one address alone asks, nothing waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Generator
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from butai.web.connections import ALWAYS, one_client

ALONE_SECONDS = 1.0
"""Seconds without a step, after which an address counts as one that asks for nothing."""


@dataclass(slots=True)
class _Address:
    ran: bool = False
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class EventLoopTurns:
    """Middleware that shares the loop among addresses, as `one_client` counts them. Pure ASGI, because every request
    pays for it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._addresses: dict[str, _Address] = {}
        self._latest, self._latest_at, self._shared_until = "", float("-inf"), float("-inf")
        self._pass_noted = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one WebSocket."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        address = one_client((scope.get("client") or ("",))[0])
        handling = self.app(scope, receive, send)
        if scope["path"] == ALWAYS:
            self._is_shared(address)
            await handling
        else:
            await _Steps(handling, self, address)

    def _is_shared(self, name: str) -> bool:
        """Notes a step of an address. Returns whether another one had a step within `ALONE_SECONDS`."""
        now = asyncio.get_running_loop().time()
        if name != self._latest:
            if now < self._latest_at + ALONE_SECONDS:
                self._shared_until = now + ALONE_SECONDS
            self._latest = name
        self._latest_at = now
        return now < self._shared_until

    def turn(self, name: str) -> asyncio.Future[None] | None:
        """None when a step of an address may run in this pass, else what is done when it may."""
        if not self._is_shared(name):
            return None
        loop = asyncio.get_running_loop()
        if not self._pass_noted:
            self._pass_noted = True
            loop.call_soon(self._next_pass)
        address = self._addresses.get(name)
        if address is None:
            address = self._addresses[name] = _Address()
        if not address.ran:
            address.ran = True
            return None
        turn = loop.create_future()
        address.waiting.append(turn)
        return turn

    def _next_pass(self) -> None:
        self._pass_noted = False
        for name, address in list(self._addresses.items()):
            address.ran = False
            while address.waiting and not address.ran:
                turn = address.waiting.popleft()
                if not turn.done():
                    # It runs in the next pass, in which the others of its address wait for the one after.
                    turn.set_result(None)
                    address.ran = True
            if not address.ran:
                del self._addresses[name]
        if self._addresses:
            self._pass_noted = True
            asyncio.get_running_loop().call_soon(self._next_pass)


class _Steps:
    """Awaits a coroutine whose steps, from one of its waits to the next, have turns."""

    __slots__ = ("_address", "_handling", "_turns")

    def __init__(self, handling: Awaitable[None], turns: EventLoopTurns, address: str) -> None:
        self._handling, self._turns, self._address = handling, turns, address

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._handling.__await__()
        thrown: BaseException | None = None
        while True:
            turn = None if thrown is not None else self._turns.turn(self._address)
            if turn is not None:
                try:
                    yield from turn
                except BaseException as error:  # noqa: BLE001 - a cancellation is the handler's
                    thrown = error
            try:
                awaited = steps.send(None) if thrown is None else steps.throw(thrown)
            except StopIteration:
                return
            thrown = None
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001 - what is thrown in is the handler's
                thrown = error
