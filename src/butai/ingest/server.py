"""Accepts the connections of encoders on a listening socket: plain or TLS, directly or from trusted proxies."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial

import structlog

from butai.ingest.connection import Admit, Bounds, EncoderConnection, Publication, Receiver
from butai.ingest.proxy_protocol import ProxyHeaderInvalid, begins_header, client_address

log = structlog.get_logger(__name__)

_BREATH = 0.1
"""Seconds before the next try where the machine has no socket left to accept with."""


class Ingest:
    """The server. `trusted`: tells whether an IP address is one of our proxies. A connection from there may begin with a header
    of the PROXY protocol; one without it has the peer's own address, as that of an encoder on the machine of the proxy."""

    def __init__(
        self,
        admit: Admit,
        *,
        bounds: Bounds | None = None,
        trusted: Callable[[str], bool] = lambda _: False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """Connections since the start: `connections`; `accepted` keys; and those that ended otherwise, by reason: `full` (the
        oldest without an accepted key, or the new one where all have theirs), `address_full`, `proxy`, `tls`, `late`,
        `too_much`, `malformed`, `refused`, `failed`, `silent`, `unread`."""
        self._admit, self._bounds, self._trusted, self._tls = admit, bounds or Bounds(), trusted, tls
        self._of_address: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.Task[None], None] = {}
        """Those of `_tasks` whose key is not accepted yet, the oldest first."""
        self._leaving: set[asyncio.Task[None]] = set()
        """Those of `_tasks` that made room for others."""
        self._open: set[EncoderConnection] = set()

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._tasks) - len(self._leaving)

    async def serve(self, listening: socket.socket) -> None:
        """Accepts connections until it is cancelled. Those that are open go on: another process may accept on the same socket."""
        loop = asyncio.get_running_loop()
        listening.setblocking(False)  # noqa: FBT003 - has no other form
        while True:
            try:
                raw, peer = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("ingest.accept_failed", error=error.strerror)
                await asyncio.sleep(_BREATH)
                continue
            self.counts["connections"] += 1
            if not self._has_room():
                raw.close()
                continue
            task = loop.create_task(self._take(raw, str(ipaddress.ip_address(peer[0].partition("%")[0]))))
            self._tasks.add(task)
            self._waiting[task] = None
            task.add_done_callback(self._forget)

    def _has_room(self) -> bool:
        """Whether there is room for one more connection, for which the oldest one without an accepted key may be closed."""
        of_all = self.connections < self._bounds.connections
        if of_all and len(self._waiting) < self._bounds.connections_without_key:
            return True
        self.counts["full"] += 1
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        del self._waiting[oldest]
        self._leaving.add(oldest)
        oldest.cancel()
        return True

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._leaving.discard(task)
        self._waiting.pop(task, None)

    async def finished(self) -> None:
        """Waits until no connection is open."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Closes all connections at once."""
        for connection in tuple(self._open):
            connection.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, raw: socket.socket, peer: str) -> None:
        """Serves one connection until it is closed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._bounds.publish_within
        place, address = "", _plain(peer)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._trusted(address):
                async with asyncio.timeout_at(until):
                    if begins_header(await _first_byte(raw)):
                        address = _plain(await client_address(partial(loop.sock_recv, raw)) or address)
            if self._of_address[_network(address)] >= self._bounds.connections_of_address:
                self.counts["address_full"] += 1
                return
            place = _network(address)
            self._of_address[place] += 1
            await self._serve(raw, address, until)
        except ProxyHeaderInvalid:
            self.counts["proxy"] += 1
        except TimeoutError:
            self.counts["late"] += 1
        except OSError:
            # The TLS handshake failed, or the connection was lost before there was anything to read.
            self.counts["tls"] += 1
        finally:
            raw.close()
            if place:
                self._of_address[place] -= 1
                self._of_address += Counter()

    async def _serve(self, raw: socket.socket, address: str, until: float) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        left = until - loop.time()

        async def admit(candidates: tuple[str, ...], publication: Publication) -> Receiver:
            receiver = await self._admit(candidates, publication)
            if task is not None:
                self._waiting.pop(task, None)
            return receiver

        connection = EncoderConnection(None if self._tls else raw, address, admit, self._bounds, self.counts, until)
        await loop.connect_accepted_socket(
            lambda: connection,
            raw,
            ssl=self._tls,
            ssl_handshake_timeout=max(0.1, left) if self._tls else None,
            ssl_shutdown_timeout=self._bounds.linger if self._tls else None,
        )
        self._open.add(connection)
        try:
            await connection.closed
        finally:
            self._open.discard(connection)
            connection.abort()


async def _first_byte(raw: socket.socket) -> bytes:
    """The first byte that a peer sends, which stays to be read; none where it sends nothing more."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(BlockingIOError):
            return raw.recv(1, socket.MSG_PEEK)
        readable = asyncio.Event()
        loop.add_reader(raw, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(raw)


def _plain(address: str) -> str:
    """An IPv4 address where IPv6 carries one, as a listening socket of both families has it."""
    parsed = ipaddress.ip_address(address)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def _network(address: str) -> str:
    """What one person has: an IPv4 address, or an IPv6 network of 64 bits."""
    parsed = ipaddress.ip_address(address)
    return address if parsed.version == 4 else str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
