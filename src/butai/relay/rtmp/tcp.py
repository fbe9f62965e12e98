"""The state of a connection's bytes in Linux: the last kind of evidence, where a platform's application sends
nothing."""

from __future__ import annotations

import fcntl
import socket
import struct
from typing import Any

from butai.relay.rtmp.evidence import TcpProgress

_SIOCOUTQ = 0x5411
"""The ioctl for bytes that the other kernel has not acknowledged (linux/sockios.h)."""
_BYTES_ACKED = 120
"""The offset of `tcpi_bytes_acked` in `struct tcp_info` (linux/tcp.h, since 4.1)."""


def progress(raw: Any) -> TcpProgress | None:
    """Reads the progress of a socket, as a transport gives it. None where the kernel gives none."""
    if raw is None:
        return None
    try:
        info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        (waiting,) = struct.unpack("i", fcntl.ioctl(raw.fileno(), _SIOCOUTQ, b"\0" * 4))
    except (OSError, ValueError):
        return None
    if len(info) < _BYTES_ACKED + 8:
        return None
    (acked,) = struct.unpack_from("Q", info, _BYTES_ACKED)
    return TcpProgress(acked, waiting)
