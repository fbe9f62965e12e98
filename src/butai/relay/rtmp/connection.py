"""Opens a connection to an ingest URL: DNS, a check of the addresses, TCP, TLS. Each step fails with its own error."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from butai.errors import Code
from butai.relay.rtmp.addresses import AddressInvalid, IngestAddress, check_pair, is_forbidden, is_private
from butai.relay.rtmp.failures import PublishError, from_os
from butai.relay.rtmp.hidden import complete
from butai.relay.rtmp.resolver import resolve
from butai.relay.timing import Limits


@dataclass(frozen=True)
class Target:
    """The destination of a push. `url`: the ingest URL as it is stored; `key`: what was sealed with it, the stream key and
    what the URL hides (`hidden`). `allow_private`: private addresses are allowed."""

    url: str
    key: str = field(repr=False)
    allow_private: bool = False

    def address(self) -> IngestAddress:
        """Parses the URL and checks the key. Raises `PublishError` (`invalid_destination`)."""
        try:
            return check_pair(*complete(self.url, self.key))
        except AddressInvalid as error:
            raise PublishError(Code.INVALID_DESTINATION, str(error)) from None

    @property
    def stream_key(self) -> str:
        """The stream key alone."""
        return complete(self.url, self.key)[1]


OnStep = Callable[[str, float], None]

_MAX_ADDRESSES = 4
"""IP addresses of a host that are tried."""

_MAX_UNREAD = 4 * 1024 * 1024
"""Bytes that a platform may leave unread; a keyframe at 12 Mbps has 1 MB."""

_MAX_RECEIVED = 512 * 1024
"""Bytes that a platform may send at once, and again each second. Acknowledgements and pongs are 10 kB a second."""


def check_peer_limits(writer: asyncio.StreamWriter, received: int, seconds: float) -> None:
    """Raises `PublishError` for a server that floods us, or sends requests and reads no answers: it would starve other
    outputs.

    `received`: its bytes since the connection was opened, `seconds` ago.
    """
    if received > _MAX_RECEIVED * (1 + seconds):
        raise PublishError(Code.DESTINATION_UNREACHABLE, "it sends more than any platform needs to")
    if writer.transport.get_write_buffer_size() > _MAX_UNREAD:
        raise PublishError(Code.DESTINATION_STALLED, "it sends requests, and does not read the answers")


_default_tls = functools.cache(ssl.create_default_context)
"""The system's certificate authorities, cached: reading them blocks the event loop for 20 ms."""


async def connect(
    target: Target,
    address: IngestAddress,
    limits: Limits,
    tls: ssl.SSLContext | None = None,
    on_step: OnStep | None = None,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Opens a connection. Calls `on_step(step, seconds)` after each step. Raises `PublishError`, with the failed step
    as its note."""
    deadline = time.monotonic() + limits.connect_timeout
    began = time.monotonic()

    def done(step: str) -> None:
        nonlocal began
        if on_step is not None:
            on_step(step, time.monotonic() - began)
        began = time.monotonic()

    try:
        found = await resolve(address.host, address.port, min(limits.resolve_timeout, limits.connect_timeout))
    except (OSError, TimeoutError, UnicodeError) as error:
        raise _at_step(from_os(error, "dns"), "dns") from None
    # Connects to the addresses that were checked; the name is not resolved again.
    allowed = [one for one in found if not is_forbidden(one)]
    usable = [one for one in allowed if target.allow_private or not is_private(one)]
    if not usable:
        kind = "private" if allowed else "link-local or metadata"
        raise _at_step(PublishError(Code.INVALID_DESTINATION, f"the host has a {kind} address"), "dns")
    done("dns")
    failure: PublishError | None = None
    usable = usable[:_MAX_ADDRESSES]
    for left, one in zip(range(len(usable), 0, -1), usable, strict=True):
        step = "tcp"
        try:
            # Each address gets a share of the time: one that drops all packets must not use up that of the others.
            share = max(0.1, (deadline - time.monotonic()) / left)
            raw = await _tcp(one, address.port, share)
            done("tcp")
            step = "tls"
            return await _wrap(raw, address, tls, deadline, limits, done)
        except (OSError, TimeoutError, EOFError, ValueError) as error:
            failure = _at_step(from_os(error, step), step)
    assert failure is not None
    raise failure


def _at_step(error: PublishError, step: str) -> PublishError:
    error.add_note(step)
    return error


async def _tcp(host: str, port: int, seconds: float) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        raw.settimeout(0)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Unsent bytes in the kernel are late already, and our own queue could not drop them.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 128 * 1024)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(raw, (host, port))
    except BaseException:
        raw.close()
        raise
    return raw


async def _wrap(
    raw: socket.socket,
    address: IngestAddress,
    tls: ssl.SSLContext | None,
    deadline: float,
    limits: Limits,
    done: Callable[[str], None],
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = (tls or _default_tls()) if address.secure else None
    rest = max(0.1, deadline - time.monotonic())
    try:
        async with asyncio.timeout(rest + 1):
            reader, writer = await asyncio.open_connection(
                sock=raw,
                ssl=context,
                server_hostname=address.host if context else None,
                ssl_handshake_timeout=rest if context else None,
                ssl_shutdown_timeout=limits.tls_shutdown_timeout if context else None,
            )
    except BaseException:
        raw.close()
        raise
    if context:
        done("tls")
    # Our own queue drops what is late; the transport's buffer only keeps the socket busy.
    writer.transport.set_write_buffer_limits(high=64 * 1024)
    return reader, writer
