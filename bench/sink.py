"""Takes one RTMP publish and writes down what arrived and when: `python bench/sink.py PORT FILE`.

FILE is Matroska; FILE.times has a line for each picture: its time stamp and when it came, both in milliseconds (since the
publish began; since 1970). Used by `media`.
"""

from __future__ import annotations

import contextlib
import sys
import time

import av
import av.error
import av.logging


def main() -> None:
    av.logging.set_level(av.logging.PANIC)
    options = {"listen": "1", "analyzeduration": "500000"}
    with (
        av.open(f"rtmp://127.0.0.1:{sys.argv[1]}/live/bench", container_options=options) as arriving,
        av.open(sys.argv[2], "w", format="matroska") as file,
        open(sys.argv[2] + ".times", "w") as times,  # noqa: PTH123
    ):
        copies = {
            stream.index: file.add_stream_from_template(stream)
            for stream in arriving.streams
            if stream.type in ("video", "audio")
        }
        with contextlib.suppress(av.error.FFmpegError):
            for packet in arriving.demux():
                if packet.dts is None or packet.pts is None or packet.stream.index not in copies:
                    continue
                if packet.stream.type == "video":
                    milliseconds = int(packet.pts * packet.time_base * 1000)
                    times.write(f"{milliseconds} {time.time() * 1000:.1f}\n")
                packet.stream = copies[packet.stream.index]
                file.mux(packet)


if __name__ == "__main__":
    main()
