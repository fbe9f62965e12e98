"""Accepts the connections of encoders on a listening socket: plain or TLS, directly or from trusted proxies."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial

import structlog

from butai.ingest.connection import Admit, Bounds, EncoderConnection
from butai.ingest.proxy_protocol import ProxyHeaderInvalid, client_address

log = structlog.get_logger(__name__)

_BREATH = 0.1
"""Seconds before the next try where the machine has no socket left to accept with."""


class Ingest:
    """The server. `trusted`: tells whether an IP address is one of our proxies, which begin with a header of the PROXY
    protocol."""

    def __init__(
        self,
        admit: Admit,
        *,
        bounds: Bounds | None = None,
        trusted: Callable[[str], bool] = lambda _: False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """Connections since the start: `connections`; `accepted` keys; and those that ended otherwise, by reason: `full`,
        `address_full`, `proxy`, `tls`, `late`, `too_much`, `malformed`, `refused`, `failed`, `silent`, `unread`."""
        self._admit, self._bounds, self._trusted, self._tls = admit, bounds or Bounds(), trusted, tls
        self._of_address: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[EncoderConnection] = set()

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._tasks)

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
            if len(self._tasks) >= self._bounds.connections:
                self.counts["full"] += 1
                raw.close()
                continue
            task = loop.create_task(self._take(raw, str(ipaddress.ip_address(peer[0].partition("%")[0]))))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

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
        loop = asyncio.get_running_loop()
        left = until - loop.time()
        connection = EncoderConnection(
            None if self._tls else raw, address, self._admit, self._bounds, self.counts, max(0.0, left)
        )
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


def _plain(address: str) -> str:
    """An IPv4 address where IPv6 carries one, as a listening socket of both families has it."""
    parsed = ipaddress.ip_address(address)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def _network(address: str) -> str:
    """What one person has: an IPv4 address, or an IPv6 network of 64 bits."""
    parsed = ipaddress.ip_address(address)
    return address if parsed.version == 4 else str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
