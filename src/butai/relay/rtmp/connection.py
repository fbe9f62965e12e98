"""From an address to an open socket: DNS, a look at where the name leads, TCP, TLS; each step with its own failure.

Called by `publisher` and `preflight`.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from butai.errors import Code
from butai.relay.rtmp.addresses import AddressInvalid, IngestAddress, check_key, is_private, parse
from butai.relay.rtmp.failures import PublishError, from_os
from butai.relay.rtmp.resolver import resolve


@dataclass(frozen=True)
class Target:
    """Where to publish. `url` has no key. `allow_private`: loopback and private addresses may be pushed to."""

    url: str
    key: str = field(repr=False)
    allow_private: bool = False

    def address(self) -> IngestAddress:
        """Raises `PublishError` (`invalid_destination`)."""
        try:
            check_key(self.key)
            return parse(self.url)
        except AddressInvalid as error:
            raise PublishError(Code.INVALID_DESTINATION, str(error)) from None


@dataclass(frozen=True)
class Limits:
    """Times in seconds, but for `queue_ms`."""

    connect_timeout: float = 8.0
    """For DNS, TCP and TLS together."""
    publish_timeout: float = 8.0
    """From the first byte to the platform's word about the key."""
    stall_after: float = 1.5
    """Without evidence that bytes are taken. Platforms acknowledge each 0.2 s at 2.5 Mbps."""
    ignored_after: float = 3.0
    """Until a platform that acknowledges nothing and answers no ping is judged by TCP's own word."""
    give_up_stalled: float = 10.0
    ping_every: float = 0.5
    queue_ms: int = 3000
    """What may wait for a slow platform; then the queue drops to the next key frame."""


Noted = Callable[[str, float], None]

_TRIED = 4
"""Addresses of a name."""

_MOST_UNREAD = 4 * 1024 * 1024
"""Bytes that may wait for a platform that asks; a key frame at 12 Mbps has 1 MB."""

_MOST_SAID = 512 * 1024
"""Bytes, and again each second, that a platform may say. Acknowledgements and pongs are 10 kB a second."""


def bearable(writer: asyncio.StreamWriter, said: int, seconds: float) -> None:
    """Raises `PublishError` for a server that talks without end, or asks and does not read: it would cost the others.

    `said`: its bytes since the connection began, `seconds` ago.
    """
    if said > _MOST_SAID * (1 + seconds):
        raise PublishError(Code.DESTINATION_UNREACHABLE, "it says more than a platform has to say")
    if writer.transport.get_write_buffer_size() > _MOST_UNREAD:
        raise PublishError(Code.DESTINATION_STALLED, "it asks, and does not read the answers")


_trusting = functools.cache(ssl.create_default_context)
"""The system's authorities; reading them takes 20 ms, in which nobody else is served."""


async def connect(
    target: Target,
    address: IngestAddress,
    limits: Limits,
    tls: ssl.SSLContext | None = None,
    noted: Noted | None = None,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An open connection. `noted(step, seconds)` is told of each step that went well. Raises `PublishError`."""
    deadline = time.monotonic() + limits.connect_timeout
    began = time.monotonic()

    def done(step: str) -> None:
        nonlocal began
        if noted is not None:
            noted(step, time.monotonic() - began)
        began = time.monotonic()

    try:
        found = await resolve(address.host, address.port, min(5.0, limits.connect_timeout))
    except (OSError, TimeoutError, UnicodeError) as error:
        raise _told(from_os(error, "dns"), "dns") from None
    # The addresses that were looked at are the ones connected to: the name is not asked again.
    usable = [one for one in found if target.allow_private or not is_private(one)]
    if not usable:
        raise _told(PublishError(Code.INVALID_DESTINATION, "the host leads to a private address"), "dns")
    done("dns")
    failure: PublishError | None = None
    usable = usable[:_TRIED]
    for left, one in zip(range(len(usable), 0, -1), usable, strict=True):
        step = "tcp"
        try:
            # A share of the time for each: one that swallows everything must not cost the others theirs.
            share = max(0.1, (deadline - time.monotonic()) / left)
            raw = await _tcp(one, address.port, share)
            done("tcp")
            step = "tls"
            return await _wrap(raw, address, tls, deadline, done)
        except (OSError, TimeoutError, EOFError, ValueError) as error:
            failure = _told(from_os(error, step), step)
    assert failure is not None
    raise failure


def _told(error: PublishError, step: str) -> PublishError:
    error.add_note(step)
    return error


async def _tcp(host: str, port: int, seconds: float) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What the kernel holds is late already, and hides from our own queue.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 128 * 1024)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(raw, (host, port))
    except BaseException:
        raw.close()
        raise
    return raw


async def _wrap(
    raw: socket.socket, address: IngestAddress, tls: ssl.SSLContext | None, deadline: float, done: Callable[[str], None]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = (tls or _trusting()) if address.secure else None
    patience = max(0.1, deadline - time.monotonic())
    try:
        async with asyncio.timeout(patience + 1):
            reader, writer = await asyncio.open_connection(
                sock=raw,
                ssl=context,
                server_hostname=address.host if context else None,
                ssl_handshake_timeout=patience if context else None,
                ssl_shutdown_timeout=1.0 if context else None,
            )
    except BaseException:
        raw.close()
        raise
    if context:
        done("tls")
    # The queue with the drops is ours; the transport's only has to keep the socket busy.
    writer.transport.set_write_buffer_limits(high=64 * 1024)
    return reader, writer
