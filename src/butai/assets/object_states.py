"""The states of an object in the ledger (`asset_objects`), as one table. Pure; `ledger.move` is the only writer.

    writing ──stored──▶ current ──replaced, purged──▶ condemned ──removed──▶ removed
       └──given up, copied, trashed, purged──────────────▲

A key that the service made goes this way once: no object is written twice, and a condemned one never becomes current.
Only keys that other programs write (those of an imported bucket) come back, and only after their object was checked in
the store."""

from __future__ import annotations

from enum import StrEnum

from butai.state_tables import IllegalMove, StateTable


class ObjectState(StrEnum):
    """The states of an object key in the ledger, as stored in the table."""

    WRITING = "writing"
    CURRENT = "current"
    CONDEMNED = "condemned"
    REMOVED = "removed"


class ObjectTrigger(StrEnum):
    """The events of an object."""

    OPENED = "opened"
    """A key was made: bytes may arrive."""
    STORED = "stored"
    """The bytes are complete, and an asset points at them."""
    ADOPTED = "adopted"
    """An import found the bytes in the bucket, and an asset points at them."""
    GIVEN_UP = "given_up"
    """The attempt that was writing it has failed, or its writer counts as dead."""
    COPIED = "copied"
    """The bytes of a signed upload are kept as a copy; the original is removed."""
    TRASHED = "trashed"
    """A copy of an orphan, to be kept for the time of the trash and removed then."""
    REPLACED = "replaced"
    """The asset has a newer object."""
    PURGED = "purged"
    """The asset was purged."""
    CLAIMED = "claimed"
    """An orphan that no asset has ever had is to be removed."""
    RELEASED = "released"
    """A claimed orphan stays in the bucket after all; its line is deleted."""
    REMOVED = "removed"
    """The store has removed it."""


class IllegalObjectMove(IllegalMove):
    """`OBJECT_TABLE` has no arrow for this trigger in this state: a bug, or a writer that was given up meanwhile."""


_S, _T = ObjectState, ObjectTrigger

OBJECT_TABLE = StateTable[ObjectState, ObjectTrigger, ObjectState | None](
    "an object",
    IllegalObjectMove,
    {
        (None, _T.OPENED): _S.WRITING,
        (_S.WRITING, _T.STORED): _S.CURRENT,
        # The answer to the first call was lost.
        (_S.CURRENT, _T.STORED): _S.CURRENT,
        (None, _T.ADOPTED): _S.CURRENT,
        # The import has seen its bytes: another program has written the key again.
        (_S.REMOVED, _T.ADOPTED): _S.CURRENT,
        (_S.WRITING, _T.GIVEN_UP): _S.CONDEMNED,
        # The attempt had succeeded, and only its answer failed: acknowledged bytes stay.
        (_S.CURRENT, _T.GIVEN_UP): _S.CURRENT,
        # Given up first by the sweep, and now by its own writer.
        (_S.CONDEMNED, _T.GIVEN_UP): _S.CONDEMNED,
        # The writer counted as dead and has written since the removal: the bytes must be removed again.
        (_S.REMOVED, _T.GIVEN_UP): _S.CONDEMNED,
        (_S.WRITING, _T.COPIED): _S.CONDEMNED,
        # The client's report and the sweep settle the same signed upload, each by a copy of its own.
        (_S.CONDEMNED, _T.COPIED): _S.CONDEMNED,
        # A URL that is still valid can write once more after the removal.
        (_S.REMOVED, _T.COPIED): _S.CONDEMNED,
        (_S.WRITING, _T.TRASHED): _S.CONDEMNED,
        (_S.CURRENT, _T.REPLACED): _S.CONDEMNED,
        (_S.CURRENT, _T.PURGED): _S.CONDEMNED,
        # The asset is purged while an upload runs.
        (_S.WRITING, _T.PURGED): _S.CONDEMNED,
        (None, _T.CLAIMED): _S.CONDEMNED,
        # Another program has written a removed key again.
        (_S.REMOVED, _T.CLAIMED): _S.CONDEMNED,
        # Claimed before, by a process that died; `ledger.claim` refuses objects that were condemned for another reason.
        (_S.CONDEMNED, _T.CLAIMED): _S.CONDEMNED,
        (_S.CONDEMNED, _T.RELEASED): None,
        # Another job has removed it meanwhile.
        (_S.REMOVED, _T.RELEASED): _S.REMOVED,
        (_S.CONDEMNED, _T.REMOVED): _S.REMOVED,
        # Two removal jobs for one object.
        (_S.REMOVED, _T.REMOVED): _S.REMOVED,
    },
)
