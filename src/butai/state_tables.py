"""Tables of states and of what moves a row from one to another, for every kind of row that has a life of its own. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

StateT = TypeVar("StateT", bound=StrEnum)
TriggerT = TypeVar("TriggerT", bound=StrEnum)
AfterT = TypeVar("AfterT")


class IllegalMove(Exception):
    """The table has no arrow for this trigger in this state: a bug, or a late observer. Each table raises a class of its own."""

    def __init__(self, subject: str, state: StrEnum | None, trigger: StrEnum) -> None:
        super().__init__(f"{trigger} cannot happen to {subject} that is {state or 'absent'}")
        self.subject, self.state, self.trigger = subject, state, trigger


class StateTable(dict[tuple[StateT | None, TriggerT], AfterT], Generic[StateT, TriggerT, AfterT]):
    """The state after each trigger in each state; the state None is that of a row that is not there.

    `AfterT` is the states, with None where a move deletes the row.
    """

    def __init__(
        self, subject: str, illegal: type[IllegalMove], arrows: Mapping[tuple[StateT | None, TriggerT], AfterT]
    ) -> None:
        """`subject`: what has the states, in the error's text (`an asset`). `illegal`: what `after` raises."""
        super().__init__(arrows)
        self._subject, self._illegal = subject, illegal

    def after(self, state: StateT | None, trigger: TriggerT) -> AfterT:
        """The state after `trigger`. Raises an `IllegalMove` where the table has no arrow."""
        try:
            return self[state, trigger]
        except KeyError:
            raise self._illegal(self._subject, state, trigger) from None

    def arrows(self, trigger: TriggerT) -> tuple[frozenset[StateT], AfterT]:
        """The states of a row in which `trigger` may happen, and the one state after it: for a guarded UPDATE.

        Raises `ValueError` when it leads to different states.
        """
        sources = {state: after for (state, each), after in self.items() if each is trigger and state is not None}
        (target,) = set(sources.values())
        return frozenset(sources), target
