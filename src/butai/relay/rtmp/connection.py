"""Opens a connection to an ingest URL: DNS, a check of the addresses, TCP, TLS. Each step fails with its own error."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import itertools
import socket
import ssl
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from butai.errors import Code
from butai.relay.rtmp.addresses import AddressInvalid, IngestAddress, check_pair, is_forbidden, is_private, parse
from butai.relay.rtmp.failures import PublishError, Redirected, from_os
from butai.relay.rtmp.hidden import complete, secret_parts
from butai.relay.rtmp.resolver import resolve
from butai.relay.timing import Limits


@dataclass(frozen=True)
class Target:
    """The destination of a push. `url`: the ingest URL as it is stored; `key`: what was sealed with it, the stream key and
    what the URL hides (`hidden`). `allow_private`: private addresses are allowed. `more_secrets`: other lines that no text
    may show, after a redirect."""

    url: str
    key: str = field(repr=False)
    allow_private: bool = False
    more_secrets: str = field(default="", repr=False, compare=False)

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

    @property
    def secrets(self) -> str:
        """All that no text may show, in lines: the key of `redact`."""
        return f"{self.key}\n{self.more_secrets}"


class Connection(NamedTuple):
    """An open connection, TLS included where the URL says so."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def has_ended(self) -> bool:
        """Whether either end has closed it, as far as that is known."""
        return self.reader.at_eof() or self.writer.is_closing()


OnStep = Callable[[str, float], None]

_MAX_ADDRESSES = 16
"""IP addresses of a host that are tried."""

_HEAD_START = 0.25
"""Seconds that an address has before the next one is tried beside it (RFC 8305, 5)."""

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
    without: Collection[str] = (),
) -> Connection:
    """Opens a connection to the first of the host's addresses that takes one, except those in `without`. Calls
    `on_step(step, seconds)` after each step. Raises `PublishError`, with the failed step as its note."""
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
    left = _in_turn([one for one in usable if _plain(one) not in without][:_MAX_ADDRESSES])
    if not left:
        raise _at_step(PublishError(Code.DESTINATION_UNREACHABLE, "the host has no other address"), "dns")
    failure: PublishError | None = None
    while left:
        step = "tcp"
        try:
            raw = await _first(left, address.port, deadline)
            done("tcp")
            step = "tls"
            # One that says nothing leaves half of the time to the others.
            rest = (deadline - time.monotonic()) / (2 if left else 1)
            return await _wrap(raw, address, tls, max(0.1, rest), limits, done)
        except (OSError, TimeoutError, EOFError, ValueError) as error:
            failure = _at_step(from_os(error, step), step)
            if time.monotonic() >= deadline:
                break
    assert failure is not None
    raise failure


def _in_turn(addresses: list[str]) -> list[str]:
    """Addresses of both families in turn, beginning with the first one's: where one family does not work, none of its
    addresses does."""
    kinds = sorted({":" in one for one in addresses}, key=lambda kind: kind != (":" in addresses[0]))
    rows = [[one for one in addresses if (":" in one) is kind] for kind in kinds]
    return [one for row in itertools.zip_longest(*rows) for one in row if one is not None]


async def _first(left: list[str], port: int, deadline: float) -> socket.socket:
    """The first connection of the addresses in `left`, each of which is tried a moment after the one before, or once that one
    has failed (RFC 8305). Removes the address of the connection, and those that failed. Raises the last one's error, or
    `TimeoutError`."""
    waiting, trying = list(left), dict[asyncio.Task[socket.socket], str]()
    failure: OSError | None = None
    try:
        while waiting or trying:
            if waiting:
                one = waiting.pop(0)
                trying[asyncio.create_task(_tcp(one, port))] = one
            seconds = deadline - time.monotonic()
            if seconds <= 0:
                break
            done, _ = await asyncio.wait(
                trying, timeout=min(seconds, _HEAD_START) if waiting else seconds, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None:
                    left.remove(trying.pop(task))
                    return task.result()
                if not isinstance(error, OSError):
                    raise error
                failure = error
                left.remove(trying.pop(task))
    finally:
        for task in trying:
            task.cancel()
        for late in await asyncio.gather(*trying, return_exceptions=True):
            if isinstance(late, socket.socket):
                late.close()
    if trying or failure is None:
        left.clear()
        raise TimeoutError
    raise failure


def _at_step(error: PublishError, step: str) -> PublishError:
    error.add_note(step)
    return error


def follow(target: Target, redirect: Redirected) -> Target:
    """The target that a redirect names, with the same key. Raises the redirect where it may not be followed: it is no ingest
    URL, or would send the key without TLS where it went with it."""
    try:
        address = parse(redirect.url)
    except AddressInvalid:
        raise redirect from None
    if target.address().secure and not address.secure:
        raise redirect
    app, key = address.app, target.stream_key
    # Some servers name the stream, too, with its parameters.
    path, name = app.partition("?")[0], key.partition("?")[0]
    if name and path.endswith(f"/{name}"):
        app = path.removesuffix(f"/{name}")
    secrets = "\n".join((target.secrets, *secret_parts(redirect.url)))
    return Target(replace(address, app=app).url, key, target.allow_private, secrets)


def redirect_failed(redirect: Redirected, error: PublishError) -> PublishError:
    """The error to show after a redirect was followed: the redirect where its address may not be connected to, or points on."""
    if isinstance(error, Redirected) or error.code is Code.INVALID_DESTINATION:
        return PublishError(Code.REDIRECTED, f"{redirect.detail}; then {error.detail}")
    return error


def peer_address(writer: asyncio.StreamWriter) -> str:
    """The IP address that a connection goes to; empty if that is not known."""
    peer = writer.get_extra_info("peername")
    return _plain(peer[0]) if peer else ""


def _plain(address: str) -> str:
    """An IP address in one spelling, without its interface."""
    return str(ipaddress.ip_address(address.partition("%")[0]))


async def _tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        raw.settimeout(0)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Unsent bytes in the kernel are late already, and our own queue could not drop them.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 128 * 1024)
        await asyncio.get_running_loop().sock_connect(raw, (host, port))
    except BaseException:
        raw.close()
        raise
    return raw


async def _wrap(
    raw: socket.socket,
    address: IngestAddress,
    tls: ssl.SSLContext | None,
    rest: float,
    limits: Limits,
    done: Callable[[str], None],
) -> Connection:
    context = (tls or _default_tls()) if address.secure else None
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
    return Connection(reader, writer)


async def close(writer: asyncio.StreamWriter, seconds: float) -> None:
    """Closes in order if the platform answers, else at once: a stalled connection would keep its buffers for ever."""
    writer.close()
    try:
        async with asyncio.timeout(seconds):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()
