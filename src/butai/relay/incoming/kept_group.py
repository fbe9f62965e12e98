"""The last group of pictures, with which an output begins at once instead of at the next key frame. Pure."""

from __future__ import annotations

from butai.relay.packets import Packet

MOST_BYTES = 8 * 1024 * 1024
"""Four seconds at 16 Mbps, with `PACKET_BYTES` for each packet."""
PACKET_BYTES = 256
"""What a packet takes beside its data."""
MOST_MS = 11_000
"""The longest group: x264's usual 250 pictures, at 24 a second. Later ones are more than an output can catch up with."""


class KeptGroup:
    """The packets from the last key frame on. Empty beyond `most` bytes or `MOST_MS` until the next key frame: one that was cut
    could not be decoded."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._packets: list[Packet] = []
        self.bytes = 0
        """Bytes that the packets take, `PACKET_BYTES` for each included."""

    def add(self, packet: Packet) -> None:
        """Adds a packet; a key frame begins a new group."""
        if packet.kind == "video" and packet.keyframe:
            self.clear()
        elif not self._packets:
            return
        self.bytes += len(packet.data) + PACKET_BYTES
        self._packets.append(packet)
        if self.bytes > self._most or packet.dts - self._packets[0].dts > MOST_MS:
            self.clear()

    def clear(self) -> None:
        """Forgets it, as at the end of a source."""
        self._packets, self.bytes = [], 0

    def packets(self) -> tuple[Packet, ...]:
        """The packets, the key frame first; none where there is no whole group."""
        return tuple(self._packets)
