"""The states of an asset, as one table. Pure; `transitions.move` is the only writer.

    uploading ──completed──▶ ready ──lost──▶ missing
        │  ▲                   ▲ ▲               │
     failed_ │              late │ └──recovered──┘
        ▼  │retried       completion
      failed ────────────────┘

A replacement runs beside a `ready` row: readers get the old bytes until the new ones are complete, so neither its
beginning nor its failure changes the state.
"""

from __future__ import annotations

from enum import StrEnum

from butai.state_tables import IllegalMove, StateTable


class AssetStatus(StrEnum):
    """The states of an asset in the index, on the wire and in the table."""

    UPLOADING = "uploading"
    READY = "ready"
    FAILED = "failed"
    MISSING = "missing"


class AssetTrigger(StrEnum):
    """The events of an asset. Each leaves a row in `asset_events`."""

    CREATED = "created"
    IMPORTED = "imported"
    RETRIED = "retried"
    REPLACING = "replacing"
    COMPLETED = "completed"
    UPLOAD_FAILED = "upload_failed"
    LOST = "lost"
    RECOVERED = "recovered"
    MISMATCH = "mismatch"
    EDITED = "edited"
    TRASHED = "trashed"
    RESTORED = "restored"
    PURGED = "purged"
    INSPECTED = "inspected"
    HIDDEN = "hidden"
    SHOWN = "shown"
    WITHDRAWN = "withdrawn"
    PUT_BACK = "put_back"


class IllegalAssetTransition(IllegalMove):
    """`ASSET_TABLE` has no arrow for this trigger in this status: a bug, or a late observer."""


_S, _E = AssetStatus, AssetTrigger

_OF_OPERATORS = (_E.HIDDEN, _E.SHOWN, _E.WITHDRAWN, _E.PUT_BACK)

ASSET_TABLE = StateTable[AssetStatus, AssetTrigger, AssetStatus](
    "an asset",
    IllegalAssetTransition,
    {
        (None, _E.CREATED): _S.UPLOADING,
        # The objects of a listing have been verified by HEAD before the row is written.
        (None, _E.IMPORTED): _S.READY,
        # An import found a failed row's file under the same key.
        (_S.FAILED, _E.IMPORTED): _S.READY,
        (_S.MISSING, _E.IMPORTED): _S.READY,
        (_S.READY, _E.IMPORTED): _S.READY,
        (_S.FAILED, _E.RETRIED): _S.UPLOADING,
        # A second attempt beside the first, whose process may be dead: the newest attempt decides.
        (_S.UPLOADING, _E.RETRIED): _S.UPLOADING,
        # Old bytes stay readable while new ones come in.
        (_S.READY, _E.REPLACING): _S.READY,
        # The bytes are lost; a new upload replaces them, and until it is complete they stay lost.
        (_S.MISSING, _E.REPLACING): _S.MISSING,
        (_S.UPLOADING, _E.COMPLETED): _S.READY,
        (_S.READY, _E.COMPLETED): _S.READY,
        (_S.MISSING, _E.COMPLETED): _S.READY,
        # Of two concurrent attempts the newer failed, and the older arrives complete.
        (_S.FAILED, _E.COMPLETED): _S.READY,
        (_S.UPLOADING, _E.UPLOAD_FAILED): _S.FAILED,
        # Of two attempts the newer has failed first; the row keeps its error (`transitions.move`).
        (_S.FAILED, _E.UPLOAD_FAILED): _S.FAILED,
        # A failed replacement leaves the old bytes.
        (_S.READY, _E.UPLOAD_FAILED): _S.READY,
        (_S.MISSING, _E.UPLOAD_FAILED): _S.MISSING,
        (_S.READY, _E.LOST): _S.MISSING,
        (_S.MISSING, _E.RECOVERED): _S.READY,
        (_S.READY, _E.MISMATCH): _S.READY,
        **{
            (status, event): status
            for status in AssetStatus
            for event in (_E.EDITED, _E.TRASHED, _E.RESTORED, _E.PURGED, _E.INSPECTED, *_OF_OPERATORS)
        },
    },
)
