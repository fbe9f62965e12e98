"""PyRTMP as a server that writes each publish to a file: `python pyrtmp_server.py PORT FOLDER`."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from pathlib import Path
from typing import Any

from pyrtmp.flv import FLVFileWriter, FLVMediaType
from pyrtmp.rtmp import RTMPProtocol, SimpleRTMPController

logging.disable(logging.INFO)
_numbers = itertools.count(1)


class Recording(SimpleRTMPController):
    """One connection."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        super().__init__()

    async def on_ns_publish(self, session: Any, message: Any) -> None:
        path = self._folder / f"{message.publishing_name}-{next(_numbers)}.flv"
        session.state = FLVFileWriter(output=str(path))
        await super().on_ns_publish(session, message)

    async def on_metadata(self, session: Any, message: Any) -> None:
        session.state.write(0, message.to_raw_meta(), FLVMediaType.OBJECT)

    async def on_video_message(self, session: Any, message: Any) -> None:
        session.state.write(message.timestamp, message.payload, FLVMediaType.VIDEO)

    async def on_audio_message(self, session: Any, message: Any) -> None:
        session.state.write(message.timestamp, message.payload, FLVMediaType.AUDIO)

    async def on_stream_closed(self, session: Any, exception: Exception) -> None:
        session.state.close()


async def main() -> None:
    folder = Path(sys.argv[2])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: RTMPProtocol(Recording(folder)), "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
