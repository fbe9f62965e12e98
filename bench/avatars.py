"""Avatars of any size, and a client that sends them: streams from one small buffer, so that its own cost stays small.

Used by `read_object` and `upload`. The files are GLB as far as the API looks: a header, a JSON chunk, then noise.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from harness import Failed

MIB = 1024**2

_NOISE = memoryview(os.urandom(MIB))
_BOUNDARY = "butai-bench-7f3a"


def pieces(size: int) -> Iterator[bytes | memoryview]:
    """A GLB of `size` bytes (at least 1 KiB, below 4 GiB), in pieces of at most 1 MiB."""
    text = b'{"asset":{"version":"2.0"}}'
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sIIII", b"glTF", 2, size, len(text), 0x4E4F534A) + text
    yield head
    left = size - len(head)
    while left:
        piece = _NOISE[: min(left, MIB)]
        left -= len(piece)
        yield piece


def upload(origin: str, key: str, size: int, headers: Mapping[str, str], timeout: float = 300.0) -> dict[str, Any]:
    """Uploads as a studio's front end does; returns the answer's `data`. Raises `Failed`."""
    connection, before, after = _begin_upload(origin, key, size, headers, timeout)
    try:
        connection.send(before)
        for piece in pieces(size):
            connection.send(piece)
        connection.send(after)
        answer = connection.getresponse()
        body = answer.read()
    except OSError as error:
        raise Failed(f"upload of {key}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise Failed(f"upload of {key}: {answer.status} {body[:300]!r}")
    return json.loads(body)["data"]


def break_off_upload(origin: str, key: str, size: int, headers: Mapping[str, str], after: int) -> None:
    """Sends `after` bytes of the file, then cuts the connection (RST, as a killed browser does)."""
    connection, before, _ = _begin_upload(origin, key, size, headers, 60.0)
    connection.send(before)
    for piece in pieces(size):
        sent = piece[:after]
        connection.send(sent)
        after -= len(sent)
        if not after:
            break
    # Lingering for no time: close() sends RST.
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def put(url: str, size: int) -> None:
    """A direct upload to a signed URL. Raises `Failed`."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=300)
    try:
        connection.putrequest("PUT", f"{parts.path}?{parts.query}", skip_accept_encoding=True)
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        for piece in pieces(size):
            connection.send(piece)
        answer = connection.getresponse()
        body = answer.read()
    except OSError as error:
        raise Failed(f"direct upload: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise Failed(f"direct upload: {answer.status} {body[:300]!r}")


def _begin_upload(
    origin: str, key: str, size: int, headers: Mapping[str, str], timeout: float
) -> tuple[http.client.HTTPConnection, bytes, bytes]:
    """A connection with the request's head sent, and what stands in the form before and after the file."""
    fields = {"fileName": key, "fileType": "model/gltf-binary", "bucketName": "media"}
    form = "".join(
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    before = (
        f'{form}--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="avatar.vrm"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    after = f"\r\n--{_BOUNDARY}--\r\n".encode()
    connection = http.client.HTTPConnection(urlsplit(origin).netloc, timeout=timeout)
    connection.putrequest("POST", "/api/s3/upload", skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.putheader("Content-Type", f"multipart/form-data; boundary={_BOUNDARY}")
    connection.putheader("Content-Length", str(len(before) + size + len(after)))
    connection.endheaders()
    return connection, before, after
