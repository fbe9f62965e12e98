"""A platform for a demonstration: accepts one RTMP publish and records what arrives, until the publisher ends it.

`python -m butai.demo.platform PORT FILE`; killing the process simulates the platform's crash. FFmpeg's RTMP server does
the work; it requires no key and answers window acknowledgements as platforms do.
"""

from __future__ import annotations

import contextlib
import sys

import av
import av.error
import av.logging
from av.container import InputContainer, OutputContainer
from av.stream import Stream


def record(port: int, path: str) -> None:
    """Waits for a publisher on 127.0.0.1:`port` and copies its packets into a Matroska file, which is valid at any
    moment.

    Raises `av.error.FFmpegError` when the port is taken or the client does not speak RTMP.
    """
    # Half a second of media identifies the streams; it is kept, not skipped.
    options = {"listen": "1", "analyzeduration": "500000"}
    with (
        av.open(f"rtmp://127.0.0.1:{port}/live/demo", container_options=options) as arriving,
        av.open(path, "w", format="matroska", options={"cluster_time_limit": "500", "flush_packets": "1"}) as file,
    ):
        assert isinstance(arriving, InputContainer)
        assert isinstance(file, OutputContainer)
        copies: dict[int, Stream] = {
            stream.index: file.add_stream_from_template(stream)
            for stream in arriving.streams
            if stream.type in ("video", "audio")
        }
        # A publisher's end is an error to FFmpeg (EIO), even an orderly one.
        with contextlib.suppress(av.error.FFmpegError):
            for packet in arriving.demux():
                # The last packet of each stream is empty.
                if packet.dts is None or packet.stream.index not in copies:
                    continue
                packet.stream = copies[packet.stream.index]
                file.mux(packet)


def main() -> int:
    """Returns 0 when a publisher came and ended, 1 otherwise."""
    av.logging.set_level(av.logging.PANIC)
    try:
        record(int(sys.argv[1]), sys.argv[2])
    except (av.error.FFmpegError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
