"""The states of an object in the ledger (`asset_objects`), as one table. Pure; `ledger.move` is the only writer.

    writing ──stored──▶ current ──replaced, purged──▶ condemned ──removed──▶ removed
       └──given up, copied, trashed, purged──────────────▲

A key that was minted here goes this way once: no object is written twice, and one that was condemned never becomes current.
Only keys that others write (an imported bucket's) come back, and only after a look into the store.
"""

from __future__ import annotations

from enum import StrEnum


class ObjectState(StrEnum):
    """What the ledger says of a key in the bucket. In the table."""

    WRITING = "writing"
    CURRENT = "current"
    CONDEMNED = "condemned"
    REMOVED = "removed"


class ObjectTrigger(StrEnum):
    """What can happen to an object."""

    OPENED = "opened"
    """A key was minted: bytes may come."""
    STORED = "stored"
    """The bytes are whole, and an asset points at them."""
    ADOPTED = "adopted"
    """An import found the bytes in the bucket, and an asset points at them."""
    GIVEN_UP = "given_up"
    """The attempt that was writing it has failed, or its writer is taken for dead."""
    COPIED = "copied"
    """What came by a signed URL is kept as a copy; the original goes."""
    TRASHED = "trashed"
    """A copy of an orphan, to be kept as long as the trash is and removed then."""
    REPLACED = "replaced"
    """The asset has a newer object."""
    PURGED = "purged"
    """The asset is gone."""
    CLAIMED = "claimed"
    """An orphan that no asset has ever had is to be removed."""
    RELEASED = "released"
    """An orphan that was claimed is left in the bucket after all; its line is deleted."""
    REMOVED = "removed"
    """The store has removed it."""


class IllegalObjectMove(Exception):
    """The table has no arrow for this trigger in this state: a bug, or a writer that was given up meanwhile."""

    def __init__(self, state: ObjectState | None, trigger: ObjectTrigger) -> None:
        super().__init__(f"{trigger} cannot happen to an object that is {state or 'unknown'}")
        self.state, self.trigger = state, trigger


_S, _T = ObjectState, ObjectTrigger

OBJECT_TABLE: dict[tuple[ObjectState | None, ObjectTrigger], ObjectState | None] = {
    (None, _T.OPENED): _S.WRITING,
    (_S.WRITING, _T.STORED): _S.CURRENT,
    # The answer to the first call was lost.
    (_S.CURRENT, _T.STORED): _S.CURRENT,
    (None, _T.ADOPTED): _S.CURRENT,
    # The import has seen its bytes: others have written the key again.
    (_S.REMOVED, _T.ADOPTED): _S.CURRENT,
    (_S.WRITING, _T.GIVEN_UP): _S.CONDEMNED,
    # The attempt had succeeded, and only its answer failed: what was acknowledged stays.
    (_S.CURRENT, _T.GIVEN_UP): _S.CURRENT,
    # Given up by the sweep before, and by its own writer now.
    (_S.CONDEMNED, _T.GIVEN_UP): _S.CONDEMNED,
    # The writer was taken for dead and has written since the removal: the bytes must be removed again.
    (_S.REMOVED, _T.GIVEN_UP): _S.CONDEMNED,
    (_S.WRITING, _T.COPIED): _S.CONDEMNED,
    # The client's word and the sweep settle the same signed upload, each by a copy of its own.
    (_S.CONDEMNED, _T.COPIED): _S.CONDEMNED,
    # A URL that is still valid can write once more after the removal.
    (_S.REMOVED, _T.COPIED): _S.CONDEMNED,
    (_S.WRITING, _T.TRASHED): _S.CONDEMNED,
    (_S.CURRENT, _T.REPLACED): _S.CONDEMNED,
    (_S.CURRENT, _T.PURGED): _S.CONDEMNED,
    # An upload that runs while its asset is purged.
    (_S.WRITING, _T.PURGED): _S.CONDEMNED,
    (None, _T.CLAIMED): _S.CONDEMNED,
    # Others have written a key again that was removed here.
    (_S.REMOVED, _T.CLAIMED): _S.CONDEMNED,
    # Claimed before, by a process that died; `ledger.claim` refuses what was condemned for another reason.
    (_S.CONDEMNED, _T.CLAIMED): _S.CONDEMNED,
    (_S.CONDEMNED, _T.RELEASED): None,
    # Another job has removed it by now.
    (_S.REMOVED, _T.RELEASED): _S.REMOVED,
    (_S.CONDEMNED, _T.REMOVED): _S.REMOVED,
    # Two removal jobs for one object.
    (_S.REMOVED, _T.REMOVED): _S.REMOVED,
}


def next_object_state(state: ObjectState | None, trigger: ObjectTrigger) -> ObjectState | None:
    """Returns the state after `trigger`; None is an object without a line. Raises `IllegalObjectMove` without an arrow."""
    try:
        return OBJECT_TABLE[state, trigger]
    except KeyError:
        raise IllegalObjectMove(state, trigger) from None
