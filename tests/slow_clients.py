"""Clients that send little and never end."""

from __future__ import annotations

import asyncio
import contextlib


async def drip(writer: asyncio.StreamWriter, piece: bytes = b" ", seconds: float = 0.05) -> None:
    """Sends `piece` every `seconds` until the connection is closed."""
    with contextlib.suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(seconds)
