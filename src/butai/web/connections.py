"""How many connections a process takes, in all and from one address, and which one makes room when there are too many.

A connection without a request (silent, slow with its head, idle between two requests) never keeps another one out: the
one that has waited longest is closed. Where all carry requests, a few more are taken in to answer `/healthz`, so that the
process is not taken for dead, and to answer 503 to everything else.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

import structlog
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from butai.errors import TooManyConnections
from butai.web.problems import answer_error

log = structlog.get_logger(__name__)

RESERVE = 16
"""Connections beyond the limit, for `/healthz` and for answers of 503."""

ALWAYS = "/healthz"
"""The path that is answered when all connections are in use."""

_OTHER_FILES = 64
"""Files that a process has open besides: the pools of the database have 30 at most, the notification feed one."""

_LOG_SECONDS = 10.0


def most_connections(wanted: int) -> int:
    """The most connections that this process can serve, at most `wanted`. Raises its soft limit of open files to the
    hard one. Each connection may need a second file, to the store."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > soft:
        soft = max(soft, min(hard, 1 << 16) if hard != resource.RLIM_INFINITY else 1 << 16)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found = max(RESERVE, min(wanted, (soft - _OTHER_FILES) // 2))
    if found < wanted:
        log.warning("connections.limited_by_open_files", most=found, wanted=wanted, open_files=soft)
    return found


UNKNOWN = "unknown"
"""The one client that all are whose address is no IP address: of a unix socket, or what a proxy forwards that hides it."""

_LONGEST_ADDRESS = 64
"""Letters of the longest address, with the name of an interface. Longer texts are not kept."""


def one_client(host: str) -> str:
    """An address as limits count it: of IPv6 the first 64 bits, since a subscriber has that many addresses. A text that
    is no IP address is `UNKNOWN`, however many a caller may write."""
    return _one_client(host) if len(host) <= _LONGEST_ADDRESS else UNKNOWN


@lru_cache(maxsize=4096)
def _one_client(host: str) -> str:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return UNKNOWN
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)


_InOrder = OrderedDict[asyncio.Transport, None]


@dataclass(slots=True)
class _Address:
    name: str
    count: int = 0
    waiting: _InOrder = field(default_factory=OrderedDict)


class Connections:
    """The connections of one process, by their transports.

    `most`: in all. `most_of_address`: of one address, as `one_client` counts it; `is_proxy` exempts those of a trusted
    proxy, whose requests `RequestsOfAddress` counts.
    """

    def __init__(self, most: int, most_of_address: int, is_proxy: Callable[[str], bool] = lambda _: False) -> None:
        # A quarter stays for others.
        self._most, self._most_of_address = most, min(most_of_address, max(1, most * 3 // 4))
        self._is_proxy = is_proxy
        self._open: dict[asyncio.Transport, _Address] = {}
        self._addresses: dict[str, _Address] = {}
        self._waiting: _InOrder = OrderedDict()
        self._reserve: _InOrder = OrderedDict()
        self._logged = float("-inf")

    def __len__(self) -> int:
        return len(self._open) + len(self._reserve)

    def admit(self, transport: asyncio.Transport, host: str) -> bool:
        """Counts a new connection. False: it may ask for `ALWAYS` alone, and then ends."""
        name = "" if self._is_proxy(host) else one_client(host)
        address = self._addresses.get(name) or _Address(name)
        room = not name or address.count < self._most_of_address or self._end_longest(address.waiting)
        if not room or (len(self._open) >= self._most and not self._end_longest(self._waiting)):
            self._note(host)
            if len(self._reserve) >= RESERVE:
                self._end_longest(self._reserve)
            self._reserve[transport] = None
            return False
        # Again: the last one of an address may just have ended.
        address = self._addresses.setdefault(name, address)
        self._open[transport] = address
        address.count += 1
        self.wait(transport)
        return True

    def wait(self, transport: asyncio.Transport) -> None:
        """Notes that a connection has no request now."""
        if (address := self._open.get(transport)) is not None:
            self._waiting[transport] = address.waiting[transport] = None

    def work(self, transport: asyncio.Transport) -> None:
        """Notes that a connection has a request now."""
        if (address := self._open.get(transport)) is not None:
            self._waiting.pop(transport, None)
            address.waiting.pop(transport, None)

    def lost(self, transport: asyncio.Transport) -> None:
        """Notes the end of a connection. Idempotent."""
        self._reserve.pop(transport, None)
        self.work(transport)
        if (address := self._open.pop(transport, None)) is not None:
            address.count -= 1
            if not address.count:
                del self._addresses[address.name]

    def _end_longest(self, waiting: _InOrder) -> bool:
        """Ends the connection that has waited longest, rather one that has taken its answers; False when none waits."""
        idle = (transport for transport in waiting if not transport.get_write_buffer_size())
        transport = next(idle, None) or next(iter(waiting), None)
        if transport is None:
            return False
        self.lost(transport)
        transport.abort()
        return True

    def _note(self, host: str) -> None:
        now = time.monotonic()
        if now >= self._logged + _LOG_SECONDS:
            self._logged = now
            log.warning("connections.all_in_use", open=len(self._open), most=self._most, client=host)


class RequestsOfAddress:
    """Middleware: answers 503 `too_many_connections` when a client's address has `most` requests under way, also behind a
    trusted proxy. Pure ASGI, because every request pays for it."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self._most = app, most
        self._running: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one WebSocket."""
        if scope["type"] == "lifespan" or scope["path"] == ALWAYS:
            await self.app(scope, receive, send)
            return
        address = one_client((scope.get("client") or ("",))[0])
        running = self._running.get(address, 0)
        if running >= self._most:
            answer = answer_error(HTTPConnection(scope), TooManyConnections())
            await answer(scope, receive, send)
            return
        self._running[address] = running + 1
        try:
            await self.app(scope, receive, send)
        finally:
            left = self._running[address] - 1
            if left:
                self._running[address] = left
            else:
                del self._running[address]
