"""Buffers for an upload's bytes between the client and the store: parts of a fixed size.

A part must be complete before it is sent, so that it can be sent again. Memory for parts is bounded for the process;
beyond the limit a part is kept in an unlinked temporary file, so that many uploads at once, or slow ones, neither fill
the memory nor wait for each other.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from typing import TypeAlias

PART_BYTES = 8 * 1024**2
"""S3 takes at most 10,000 parts of at least 5 MiB: 8 MiB reach 78 GiB, and fewer requests than with 5."""

_STRETCH = 1024**2

# The standard library gives it no public name.
Digest: TypeAlias = "hashlib._Hash"  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


class Part:
    """Up to `PART_BYTES` bytes, filled once, read any number of times. Return it with `PartMemory.give`."""

    def __init__(self, buffer: bytearray | None) -> None:
        self._buffer = buffer
        self._file = None if buffer is not None else tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def full(self) -> bool:
        """Whether it has `PART_BYTES` bytes."""
        return self._length == PART_BYTES

    def write(self, chunk: bytes | memoryview) -> int:
        """Takes as many bytes of `chunk` as fit; returns how many."""
        taken = min(len(chunk), PART_BYTES - self._length)
        piece = memoryview(chunk)[:taken]
        if self._buffer is not None:
            self._buffer[self._length : self._length + taken] = piece
        elif self._file is not None:
            # An unbuffered write to a file may be short when the disk is full: the next one then raises.
            written = 0
            while written < taken:
                written += os.write(self._file.fileno(), piece[written:])
        self._length += taken
        return taken

    def read(self, start: int, length: int) -> bytes | memoryview:
        """Returns at most `length` bytes from `start`; fewer only at the end."""
        length = max(0, min(length, self._length - start))
        if self._buffer is not None:
            return memoryview(self._buffer)[start : start + length]
        assert self._file is not None
        return os.pread(self._file.fileno(), length, start)

    def hash_into(self, digest: Digest) -> None:
        """Adds the part's bytes to a digest. Blocks: call it in a thread."""
        for start in range(0, self._length, _STRETCH):
            digest.update(self.read(start, _STRETCH))

    def _close(self) -> bytearray | None:
        buffer, self._buffer = self._buffer, None
        if self._file is not None:
            self._file.close()
        return buffer


class PartMemory:
    """The process's memory for parts, in bytes. Buffers are reused: freeing them would fragment the heap."""

    def __init__(self, limit: int) -> None:
        self._allowed = max(0, limit // PART_BYTES)
        self._made = 0
        self._free: list[bytearray] = []

    def take(self) -> Part:
        """Returns an empty part: in memory below the limit, in a file beyond it. Raises `OSError` when no file can be
        made."""
        if self._free:
            return Part(self._free.pop())
        if self._made < self._allowed:
            self._made += 1
            return Part(bytearray(PART_BYTES))
        return Part(None)

    def give(self, part: Part) -> None:
        """Takes a part back; its bytes are discarded."""
        buffer = part._close()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - of this module
        if buffer is not None:
            self._free.append(buffer)
