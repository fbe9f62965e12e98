"""Looks up the addresses of an ingest host."""

from __future__ import annotations

import asyncio
import socket


async def resolve(host: str, port: int, timeout: float) -> list[str]:
    """Returns the host's IP addresses in the system's order. Raises `OSError` (`socket.gaierror`), `TimeoutError`."""
    async with asyncio.timeout(timeout):
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
