"""The last group of pictures, with which an output begins at once instead of at the next key frame. Pure."""

from __future__ import annotations

from butai.relay.packets import Packet

MOST_BYTES = 8 * 1024 * 1024
"""Four seconds at 16 Mbps."""


class KeptGroup:
    """The packets from the last key frame on. Empty from `most` bytes on until the next key frame: one that was cut could not be
    decoded."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._packets: list[Packet] = []
        self.bytes = 0

    def add(self, packet: Packet) -> None:
        """Adds a packet; a key frame begins a new group."""
        if packet.kind == "video" and packet.keyframe:
            self.clear()
        elif not self._packets:
            return
        self.bytes += len(packet.data)
        self._packets.append(packet)
        if self.bytes > self._most:
            self.clear()

    def clear(self) -> None:
        """Forgets it, as at the end of a source."""
        self._packets, self.bytes = [], 0

    def packets(self) -> tuple[Packet, ...]:
        """The packets, the key frame first; none where there is no whole group."""
        return tuple(self._packets)
