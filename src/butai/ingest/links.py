"""The way of a publisher's messages to the relay of its broadcast, which listens at a socket in the relay folder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from butai.relay.incoming.wire import (
    MOST_UNREAD,
    Ended,
    FrameReader,
    Hello,
    Opening,
    Refused,
    WireError,
    source_socket,
    write,
)
from butai.relay.rtmp.server_session import Media, Metadata

log = structlog.get_logger(__name__)

_AGAIN = 0.25
"""Seconds between two tries to reach a relay that does not listen: a relay takes a second to load, and connecting to a socket of
this machine takes less than a millisecond."""


class RelayLink:
    """Hands on one publisher's messages for one broadcast. Where its relay does not listen, does not read, or has died, it is
    tried again, and what comes meanwhile is left out: each connection begins with the opening."""

    def __init__(
        self, folder: Path, broadcast_id: str, hello: Hello, opening: Opening, refused: Callable[[str, str], None]
    ) -> None:
        """`opening`: notes what passes. `refused`: is called with code and text when the relay takes no more."""
        self.broadcast_id = broadcast_id
        self._path, self._hello, self._opening, self._refused = (
            source_socket(folder, broadcast_id),
            hello,
            opening,
            refused,
        )
        self._writer: asyncio.StreamWriter | None = None
        self._running = asyncio.get_running_loop().create_task(self._run())

    @property
    def connected(self) -> bool:
        """Whether a relay takes the messages now."""
        return self._writer is not None

    def send(self, frame: Media | Metadata) -> None:
        """Hands on a message, if a relay listens."""
        writer = self._writer
        if writer is None:
            return
        if writer.transport.get_write_buffer_size() > MOST_UNREAD:
            log.warning("ingest.relay_hangs", broadcast_id=self.broadcast_id)
            self._drop()
            return
        writer.write(write(frame))

    def close(self, ended: Ended | None = None) -> None:
        """Ends the link, with a word why where the publish has ended. What was sent before is written first."""
        self._running.cancel()
        writer, self._writer = self._writer, None
        if writer is not None:
            if ended is not None:
                writer.write(write(ended))
            writer.close()

    def _drop(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.transport.abort()

    async def _run(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path)
            except OSError:
                await asyncio.sleep(_AGAIN)
                continue
            writer.write(b"".join(map(write, [self._hello, *self._opening.frames()])))
            self._writer = writer
            log.info("ingest.linked", broadcast_id=self.broadcast_id, source_id=self._hello.source_id)
            try:
                await self._read(reader)
            except (OSError, WireError) as error:
                log.warning("ingest.link_lost", broadcast_id=self.broadcast_id, error=type(error).__name__)
            finally:
                if self._writer is writer:
                    self._drop()
            await asyncio.sleep(_AGAIN)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Reads until the relay closes the link."""
        frames = FrameReader()
        while data := await reader.read(65536):
            for frame in frames.feed(data):
                if isinstance(frame, Refused):
                    self._refused(frame.code, frame.text)
