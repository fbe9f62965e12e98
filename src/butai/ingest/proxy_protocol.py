"""The PROXY protocol, versions 1 and 2 (HAProxy's specification of 2020): whose connection a proxy passes on. Pure.

Its header is read in pieces of known size, so that no byte of what follows, which may be TLS, is taken with it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_LONGEST_1 = 107
_LONGEST_2 = 4096
_LOCAL, _PROXY = 0x20, 0x21
_ADDRESS_BYTES = {1: 4, 2: 16}
"""Bytes of an address, by its family: IPv4, IPv6."""


class ProxyHeaderInvalid(Exception):
    """What a proxy sent first is no header of the PROXY protocol. The text quotes nothing of it."""


def begins_header(first: bytes) -> bool:
    """Whether the first byte of a connection is that of a header. RTMP begins with 3, and TLS with 22."""
    return first in (b"P", b"\r")


async def client_address(receive: Callable[[int], Awaitable[bytes]]) -> str:
    """Reads the header, and returns the client's IP address; empty where the proxy speaks for itself or does not know.
    `receive`: returns up to so many bytes, none at the end. Raises `ProxyHeaderInvalid`."""
    head = await _exactly(receive, len(_SIGNATURE))
    if head == _SIGNATURE:
        head = await _exactly(receive, 4)
        length = int.from_bytes(head[2:], "big")
        if head[0] not in (_LOCAL, _PROXY) or length > _LONGEST_2:
            raise ProxyHeaderInvalid("a header of another version, or too long")
        return _second(head, await _exactly(receive, length))
    if not head.startswith(b"PROXY "):
        raise ProxyHeaderInvalid("no header")
    line = bytearray(head)
    while not line.endswith(b"\r\n"):
        if len(line) >= _LONGEST_1:
            raise ProxyHeaderInvalid("a header that is too long")
        line += await _exactly(receive, 1)
    return _first(bytes(line))


async def _exactly(receive: Callable[[int], Awaitable[bytes]], count: int) -> bytes:
    taken = bytearray()
    while len(taken) < count:
        piece = await receive(count - len(taken))
        if not piece:
            raise ProxyHeaderInvalid("a header ends before its end")
        taken += piece
    return bytes(taken)


def _first(line: bytes) -> str:
    words = line.removesuffix(b"\r\n").split(b" ")
    if words[1] == b"UNKNOWN":
        return ""
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise ProxyHeaderInvalid("a header of another form")
    try:
        address = ipaddress.ip_address(words[2].decode("ascii"))
    except ValueError:
        raise ProxyHeaderInvalid("a header without an address") from None
    if address.version != int(words[1][-1:]):
        raise ProxyHeaderInvalid("a header with an address of another kind")
    return str(address)


def _second(head: bytes, rest: bytes) -> str:
    size = _ADDRESS_BYTES.get(head[1] >> 4)
    if head[0] == _LOCAL or size is None:
        return ""
    if len(rest) < 2 * size + 4:
        raise ProxyHeaderInvalid("a header without an address")
    return str(ipaddress.ip_address(rest[:size]))
