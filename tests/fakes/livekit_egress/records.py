"""LiveKit's table of egresses, as ListEgress shows it: what the workers reported, not what they know.

Each row keeps its bytes in the answer's form, so that a bulk ListEgress of thousands is a join of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from livekit.protocol import egress as pb

ENDED = frozenset(
    (pb.EGRESS_COMPLETE, pb.EGRESS_FAILED, pb.EGRESS_ABORTED, pb.EGRESS_LIMIT_REACHED),
)


def ended(info: pb.EgressInfo) -> bool:
    return info.status in ENDED


@dataclass(frozen=True)
class Row:
    info: pb.EgressInfo
    framed: bytes  # as an item of ListEgressResponse


class Records:
    """By egress id, oldest first. Ended rows stay until `expire` (LiveKit: 24 h after their end)."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._active: dict[str, Row] = {}

    def put(self, info: pb.EgressInfo) -> None:
        """Store a copy."""
        copy = pb.EgressInfo()
        copy.CopyFrom(info)
        row = Row(copy, pb.ListEgressResponse(items=[copy]).SerializeToString())
        self._rows[info.egress_id] = row
        if ended(info):
            self._active.pop(info.egress_id, None)
        else:
            self._active[info.egress_id] = row

    def get(self, egress_id: str) -> pb.EgressInfo | None:
        row = self._rows.get(egress_id)
        return None if row is None else row.info

    def all(self) -> list[pb.EgressInfo]:
        return [row.info for row in self._rows.values()]

    def forget(self, egress_id: str) -> None:
        self._rows.pop(egress_id, None)
        self._active.pop(egress_id, None)

    def expire(self) -> int:
        """Drop the ended rows; says how many."""
        gone = [egress_id for egress_id in self._rows if egress_id not in self._active]
        for egress_id in gone:
            del self._rows[egress_id]
        return len(gone)

    def listing(self, *, room: str = "", active: bool = False) -> bytes:
        """ListEgressResponse in protobuf's form."""
        rows = self._active if active else self._rows
        return b"".join([row.framed for row in rows.values() if not room or row.info.room_name == room])
