"""Looks up the addresses of an ingest host, apart from the look-ups of the process itself.

The system's resolver blocks a thread for each name, of which an event loop has four (uvloop) or a few more: twelve names
that a silent server answers for would hold up every other look-up of the process for a minute. c-ares asks by itself, in
threads of its own, and can be told to stop.
"""

from __future__ import annotations

import asyncio
import socket

import aiodns
from aiodns import error as dns

from butai.relay.rtmp.addresses import is_address, is_forbidden, is_private, parse

NAMESERVERS: list[str] | None = None
"""Servers to ask (`127.0.0.1:5353`); None: those of the system (`/etc/resolv.conf`, followed when it changes)."""

_TRY_SECONDS = 2.0
_TRIES = 2


async def resolve(host: str, port: int, timeout: float) -> list[str]:
    """Returns the host's IP addresses, those to prefer first (RFC 6724). Raises `OSError` (`socket.gaierror`),
    `TimeoutError`."""
    if is_address(host):
        return [host]
    try:
        # One for each look-up: closing it ends the question, whatever has become of it.
        async with (
            asyncio.timeout(timeout),
            aiodns.DNSResolver(nameservers=NAMESERVERS, timeout=_TRY_SECONDS, tries=_TRIES) as resolver,
        ):
            found = await resolver.getaddrinfo(host, port=port, type=socket.SOCK_STREAM)
    except dns.DNSError as error:
        number, text = error.args if len(error.args) == 2 else (None, type(error).__name__)
        if number == dns.ARES_ETIMEOUT:
            raise TimeoutError from None
        raise socket.gaierror(socket.EAI_NONAME, str(text)) from None
    addresses = [node.addr[0] for node in found.nodes]
    return list(dict.fromkeys(one.decode() if isinstance(one, bytes) else one for one in addresses))


async def refusal(url: str, *, allow_private: bool) -> str | None:
    """Why no connection may be made to an ingest URL as its host resolves now; None when one may, and for a host that does
    not resolve. Raises `AddressInvalid`.

    With `allow_private` only an address is checked, not a name: the relay checks that as it connects.
    """
    address = parse(url)
    if allow_private and not is_address(address.host):
        return None
    try:
        found = await resolve(address.host, address.port, 3.0)
    except (OSError, TimeoutError, UnicodeError):
        return None
    if all(map(is_forbidden, found)):
        return "The host has a link-local address or that of a cloud's metadata service, which is never allowed"
    if not allow_private and all(map(is_private, found)):
        return "The host has a private address; BUTAI_ALLOW_PRIVATE_INGEST allows that"
    return None
