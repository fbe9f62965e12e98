"""Whose connection it is, behind proxies that say so."""

from __future__ import annotations

import asyncio
import io

import pytest

from butai.ingest.proxy_protocol import ProxyHeaderInvalid, client_address
from butai.relay.rtmp.session import Publishing
from tests.ingest_stage import Show, ingest, talk

HEADER_2 = b"\r\n\r\n\0\r\nQUIT\n"


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (b"PROXY TCP4 203.0.113.7 10.0.0.1 5555 1935\r\n", "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 5555 1935\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (HEADER_2 + b"\x21\x11\x00\x0f" + bytes((203, 0, 113, 8, 10, 0, 0, 1, 0, 1, 0, 2)) + b"tlv", "203.0.113.8"),
        (HEADER_2 + b"\x21\x21\x00\x24" + bytes(15) + b"\x09" + bytes(20), "::9"),
        (HEADER_2 + b"\x20\x00\x00\x00", "127.0.0.1"),
    ],
)
async def test_a_trusted_proxy_says_whose_connection_it_is(header: bytes, address: str) -> None:
    show = Show()
    async with ingest(show, trusted="127.0.0.1".__eq__) as (_, port), asyncio.timeout(30):
        *_, writer, events = await talk(port, before=header)
        assert isinstance(events[-1], Publishing)
        assert show.addresses == [address]
        writer.close()


async def test_others_may_not_say_so_and_a_proxy_says_it_well_or_not_at_all() -> None:
    """An encoder on the machine of a proxy may come without it."""
    show = Show()
    async with ingest(show) as (server, port), asyncio.timeout(30):
        *_, writer, events = await talk(port, before=b"PROXY TCP4 203.0.113.7 10.0.0.1 5555 1935\r\n")
        assert (events, server.counts["malformed"]) == ([], 1)
        writer.close()
    async with ingest(show, trusted="127.0.0.1".__eq__) as (server, port), asyncio.timeout(30):
        *_, writer, events = await talk(port, before=b"PROXY TCP4 nobody 10.0.0.1 5555 1935\r\n")
        assert (events, server.counts["proxy"]) == ([], 1)
        writer.close()
        assert show.addresses == []
        *_, writer, events = await talk(port)
        assert isinstance(events[-1], Publishing)
        assert show.addresses == ["127.0.0.1"]
        writer.close()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"PROXY TCP4\r\n12345",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 5555 1935",
        b"PROXY TCP4 ::1 10.0.0.1 5555 1935\r\n",
        b"PROXY TCP4 nobody 10.0.0.1 5555 1935\r\n",
        b"PROXY TCP4 " + b"1" * 200 + b"\r\n",
        HEADER_2 + b"\x31\x11\x00\x0c" + bytes(12),
        HEADER_2 + b"\x21\x11\x00\x04" + bytes(4),
        HEADER_2 + b"\x21\x11\xff\xff" + bytes(4),
    ],
)
async def test_what_is_no_header_is_refused_after_a_few_bytes(said: bytes) -> None:
    left = io.BytesIO(said)

    async def receive(count: int) -> bytes:
        return left.read(min(count, 3))

    with pytest.raises(ProxyHeaderInvalid):
        await client_address(receive)
    assert left.tell() <= 120
