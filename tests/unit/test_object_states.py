"""The ledger's table: whatever happens in whatever order, an object that was acknowledged is not lost."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from butai.assets.object_states import OBJECT_TABLE, IllegalObjectMove, ObjectState, ObjectTrigger


@pytest.mark.parametrize("trigger", ObjectTrigger)
@pytest.mark.parametrize("state", [None, *ObjectState])
def test_every_pair_is_in_the_table_or_raises(state: ObjectState | None, trigger: ObjectTrigger) -> None:
    if (state, trigger) in OBJECT_TABLE:
        assert OBJECT_TABLE.after(state, trigger) is OBJECT_TABLE[state, trigger]
    else:
        with pytest.raises(IllegalObjectMove) as raised:
            OBJECT_TABLE.after(state, trigger)
        assert (raised.value.state, raised.value.trigger) == (state, trigger)


def test_a_line_begins_by_being_minted_adopted_or_claimed() -> None:
    begins = {trigger for (state, trigger) in OBJECT_TABLE if state is None}
    assert begins == {ObjectTrigger.OPENED, ObjectTrigger.ADOPTED, ObjectTrigger.CLAIMED}


def test_what_an_asset_points_at_goes_only_by_a_newer_object_or_a_purge() -> None:
    leaving = {
        trigger
        for (state, trigger), after in OBJECT_TABLE.items()
        if state is ObjectState.CURRENT and after is not ObjectState.CURRENT
    }
    assert leaving == {ObjectTrigger.REPLACED, ObjectTrigger.PURGED}


def test_what_was_condemned_or_removed_becomes_current_only_by_an_import() -> None:
    returning = {
        (state, trigger)
        for (state, trigger), after in OBJECT_TABLE.items()
        if after is ObjectState.CURRENT and state in (ObjectState.CONDEMNED, ObjectState.REMOVED)
    }
    assert returning == {(ObjectState.REMOVED, ObjectTrigger.ADOPTED)}


def test_a_removed_object_is_left_only_for_the_sake_of_bytes_that_came_later() -> None:
    leaving = {
        trigger
        for (state, trigger), after in OBJECT_TABLE.items()
        if state is ObjectState.REMOVED and after is not ObjectState.REMOVED
    }
    late = {ObjectTrigger.GIVEN_UP, ObjectTrigger.COPIED}
    by_others = {ObjectTrigger.ADOPTED, ObjectTrigger.CLAIMED}
    assert leaving == late | by_others


def test_from_every_state_a_removal_is_reached() -> None:
    reach = {ObjectState.REMOVED}
    while more := {
        state
        for (state, _), after in OBJECT_TABLE.items()
        if after in reach and state is not None and state not in reach
    }:
        reach |= more
    assert reach == set(ObjectState)


KEYS = st.integers(0, 6)


class Objects(RuleBasedStateMachine):
    """One asset and the objects of its attempts. `bytes` are the keys that the store has bytes of."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[int, ObjectState] = {}
        self.condemned: set[int] = set()
        self.bytes: set[int] = set()
        self.points_at: int | None = None
        self.acknowledged = False

    def move(self, key: int, trigger: ObjectTrigger) -> bool:
        """Returns whether the table has the arrow."""
        try:
            after = OBJECT_TABLE.after(self.lines.get(key), trigger)
        except IllegalObjectMove:
            return False
        assert after is not None
        self.lines[key] = after
        if after is ObjectState.CONDEMNED:
            self.condemned.add(key)
        return True

    @rule(key=KEYS)
    def an_attempt_opens(self, key: int) -> None:
        self.move(key, ObjectTrigger.OPENED)

    @rule(key=KEYS)
    def bytes_come(self, key: int) -> None:
        if key in self.lines:
            self.bytes.add(key)

    @rule(key=KEYS)
    def an_attempt_finishes(self, key: int) -> None:
        before, old = self.lines.get(key), self.points_at
        if key not in self.bytes or not self.move(key, ObjectTrigger.STORED) or before is ObjectState.CURRENT:
            return
        if old is not None:
            assert self.move(old, ObjectTrigger.REPLACED)
        self.points_at, self.acknowledged = key, True

    @rule(key=KEYS)
    def an_attempt_fails_perhaps_again(self, key: int) -> None:
        if key in self.lines:
            assert self.move(key, ObjectTrigger.GIVEN_UP)

    @rule(key=KEYS)
    def a_removal_job_runs(self, key: int) -> None:
        if self.lines.get(key) is ObjectState.CONDEMNED:
            self.bytes.discard(key)
            assert self.move(key, ObjectTrigger.REMOVED)

    @rule()
    def the_asset_is_purged(self) -> None:
        for key, state in self.lines.items():
            if state in (ObjectState.CURRENT, ObjectState.WRITING):
                assert self.move(key, ObjectTrigger.PURGED)
        self.points_at, self.acknowledged = None, False

    @invariant()
    def the_asset_points_at_the_one_current_object(self) -> None:
        current = [key for key, state in self.lines.items() if state is ObjectState.CURRENT]
        assert current == ([] if self.points_at is None else [self.points_at])

    @invariant()
    def what_was_acknowledged_is_stored(self) -> None:
        assert not self.acknowledged or self.points_at in self.bytes

    @invariant()
    def no_object_comes_back(self) -> None:
        assert not any(self.lines[key] in (ObjectState.CURRENT, ObjectState.WRITING) for key in self.condemned)


TestObjects = Objects.TestCase
