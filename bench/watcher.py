"""Sees a room as any subscriber does, and writes down when each picture came: `python bench/watcher.py URL FILE`.

The token is the first line of stdin, whose end ends it. FILE has a line for each picture: its number, and milliseconds
since 1970. What a relay adds to the way of a picture is measured against this. Used by `media`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import numpy as np
from livekit import rtc

sys.path.append(str(Path(__file__).parent.parent))

from tests.studio_host import read_stamp


async def main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    token = (await reader.readline()).decode().strip()
    room, tasks = rtc.Room(), set[asyncio.Task[None]]()
    with Path(sys.argv[2]).open("w") as file:

        async def watch(track: rtc.Track) -> None:
            async for event in rtc.VideoStream(track, format=rtc.VideoBufferType.I420):
                at, frame = time.time() * 1000, event.frame
                luma = np.frombuffer(frame.data, np.uint8)[: frame.width * frame.height]
                _, number, _ = read_stamp(luma.reshape(frame.height, frame.width))
                file.write(f"{number} {at:.1f}\n")

        def subscribed(track: rtc.Track, *_: object) -> None:
            if track.kind == rtc.TrackKind.KIND_VIDEO:
                tasks.add(asyncio.create_task(watch(track)))

        room.on("track_subscribed", subscribed)
        await room.connect(sys.argv[1], token)
        print("on", flush=True)
        await reader.read()
    # The SDK's threads would abort the process while the interpreter goes.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
