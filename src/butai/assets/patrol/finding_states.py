"""The states of a finding, as one table for its four kinds, and the actions that apply to one. Pure; `finding_writer`
is the only writer of the table of findings.

    open ──▶ recovered | agrees | replaced | adopted | trashed | ignored

A resolved finding never changes. When the same disagreement is seen after that, it is another finding.
"""

from __future__ import annotations

from enum import StrEnum

from butai.state_tables import IllegalMove, StateTable


class FindingKind(StrEnum):
    """How index and store disagree, on the wire and in the table."""

    MISSING = "missing"
    """The patrol found that an asset's object is gone."""
    MISMATCH = "mismatch"
    """The patrol found an object with another size or ETag than the asset's."""
    OBJECT_WITHOUT_ROW = "object_without_row"
    """A listing names an object that the index does not have."""
    ROW_WITHOUT_OBJECT = "row_without_object"
    """A listing lacks an asset's object, and the store does too."""


class FindingState(StrEnum):
    """Open, or how the finding was resolved (`resolution`, on the wire and in the table)."""

    OPEN = "open"
    RECOVERED = "recovered"
    AGREES = "agrees"
    REPLACED = "replaced"
    ADOPTED = "adopted"
    TRASHED = "trashed"
    IGNORED = "ignored"


class FindingTrigger(StrEnum):
    """The events of a finding."""

    SEEN = "seen"
    RECOVERED = "recovered"
    """The object is back as the index has it, and the asset is ready again."""
    AGREES = "agrees"
    """Index and store agree again, without an action of an operator."""
    REPLACED = "replaced"
    """The asset has another object, or is gone."""
    ADOPTED = "adopted"
    TRASHED = "trashed"
    IGNORED = "ignored"


class FindingAction(StrEnum):
    """The actions of an operator on a finding."""

    ADOPT = "adopt"
    TRASH = "trash"
    IGNORE = "ignore"


class IllegalFindingMove(IllegalMove):
    """`FINDING_TABLES` have no arrow for this trigger in this state: a bug."""


_K, _S, _T = FindingKind, FindingState, FindingTrigger

_ENDS: dict[FindingKind, tuple[FindingTrigger, ...]] = {
    _K.MISSING: (_T.RECOVERED, _T.REPLACED, _T.TRASHED, _T.IGNORED),
    # Recovered: a missing file whose key held other bytes for a while, and holds its own again.
    _K.MISMATCH: (_T.AGREES, _T.RECOVERED, _T.REPLACED, _T.IGNORED),
    _K.OBJECT_WITHOUT_ROW: (_T.AGREES, _T.ADOPTED, _T.TRASHED, _T.IGNORED),
    _K.ROW_WITHOUT_OBJECT: (_T.AGREES, _T.TRASHED, _T.IGNORED),
}
"""How findings of each kind end. A mismatch is never trashed: the asset is ready, and the bytes may have been written
on purpose."""

FINDING_TABLES = {
    kind: StateTable[FindingState, FindingTrigger, FindingState](
        f"a finding of the kind {kind}",
        IllegalFindingMove,
        {
            (None, _T.SEEN): _S.OPEN,
            (_S.OPEN, _T.SEEN): _S.OPEN,
            **{(_S.OPEN, trigger): FindingState(trigger) for trigger in ends},
            # An operator and a run resolve one finding at the same time: the first counts, and the second changes nothing.
            **{(FindingState(first), trigger): FindingState(first) for first in ends for trigger in ends},
        },
    )
    for kind, ends in _ENDS.items()
}

TRIGGERS = {
    FindingAction.ADOPT: FindingTrigger.ADOPTED,
    FindingAction.TRASH: FindingTrigger.TRASHED,
    FindingAction.IGNORE: FindingTrigger.IGNORED,
}
"""The trigger of each action."""


def actions_for(kind: FindingKind, state: FindingState, *, adoptable: bool, indexed: bool) -> tuple[FindingAction, ...]:
    """The actions that apply to a finding. `adoptable`: an import would take the object under its key; `indexed`: an
    asset has the object, for a row without its object or a missing one the asset of the finding, not in the trash."""
    if state is not FindingState.OPEN:
        return ()
    holds = {
        # Also when an asset has it by now: the action completes an adoption that was interrupted.
        FindingAction.ADOPT: adoptable,
        # An object of an asset must stay, and an absent row cannot be trashed.
        FindingAction.TRASH: indexed is not (kind is FindingKind.OBJECT_WITHOUT_ROW),
        FindingAction.IGNORE: True,
    }
    return tuple(
        action for action in FindingAction if (state, TRIGGERS[action]) in FINDING_TABLES[kind] and holds[action]
    )
