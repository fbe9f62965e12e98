"""The tables of patrol runs and of findings: each ends once, and what an operator can do follows from the table."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from butai.assets.patrol.finding_states import (
    FINDING_TABLES,
    TRIGGERS,
    FindingAction,
    FindingKind,
    FindingState,
    FindingTrigger,
    IllegalFindingMove,
    actions_for,
)
from butai.assets.patrol.schemas import FindingActionName, FindingKindName
from butai.assets.patrol.states import RUN_TABLE, IllegalRunMove, RunState, RunTrigger

K, S, A = FindingKind, FindingState, FindingAction


@pytest.mark.parametrize("trigger", RunTrigger)
@pytest.mark.parametrize("state", [None, *RunState])
def test_every_pair_of_a_run_is_in_the_table_or_raises(state: RunState | None, trigger: RunTrigger) -> None:
    if (state, trigger) in RUN_TABLE:
        assert RUN_TABLE.after(state, trigger) is RUN_TABLE[state, trigger]
    else:
        with pytest.raises(IllegalRunMove) as raised:
            RUN_TABLE.after(state, trigger)
        assert (raised.value.state, raised.value.trigger) == (state, trigger)


def test_a_run_that_is_over_stays_over() -> None:
    assert {state for state, _ in RUN_TABLE} == {None, RunState.RUNNING}
    assert {after for (state, _), after in RUN_TABLE.items() if state is None} == {RunState.RUNNING, RunState.FINISHED}


@given(st.sampled_from(FindingKind), st.sampled_from([None, *FindingState]), st.sampled_from(FindingTrigger))
def test_every_triple_of_a_finding_is_in_the_table_or_raises(
    kind: FindingKind, state: FindingState | None, trigger: FindingTrigger
) -> None:
    if (state, trigger) in FINDING_TABLES[kind]:
        assert FINDING_TABLES[kind].after(state, trigger) is FINDING_TABLES[kind][state, trigger]
    else:
        with pytest.raises(IllegalFindingMove) as raised:
            FINDING_TABLES[kind].after(state, trigger)
        assert (raised.value.state, raised.value.trigger) == (state, trigger)
        assert raised.value.subject == f"a finding of the kind {kind}"


def test_a_resolved_finding_is_neither_seen_again_nor_resolved_otherwise() -> None:
    for table in FINDING_TABLES.values():
        over = {key: after for key, after in table.items() if key[0] not in (None, S.OPEN)}
        assert over
        assert all(after is state for (state, _), after in over.items())
        assert FindingTrigger.SEEN not in {trigger for _, trigger in over}


@pytest.mark.parametrize(
    ("kind", "adoptable", "indexed", "actions"),
    [
        (K.OBJECT_WITHOUT_ROW, True, False, (A.ADOPT, A.TRASH, A.IGNORE)),
        (K.OBJECT_WITHOUT_ROW, False, False, (A.TRASH, A.IGNORE)),
        # An adoption that came no further than its row: it is completed, and nothing is removed.
        (K.OBJECT_WITHOUT_ROW, True, True, (A.ADOPT, A.IGNORE)),
        (K.ROW_WITHOUT_OBJECT, False, True, (A.TRASH, A.IGNORE)),
        # The asset has another object by now, or is in the trash.
        (K.ROW_WITHOUT_OBJECT, False, False, (A.IGNORE,)),
        (K.MISSING, False, True, (A.TRASH, A.IGNORE)),
        (K.MISSING, False, False, (A.IGNORE,)),
        (K.MISMATCH, True, True, (A.IGNORE,)),
        (K.MISMATCH, True, False, (A.IGNORE,)),
    ],
)
def test_what_applies_to_an_open_finding(
    kind: FindingKind, adoptable: bool, indexed: bool, actions: tuple[FindingAction, ...]
) -> None:
    assert actions_for(kind, S.OPEN, adoptable=adoptable, indexed=indexed) == actions
    for state in set(S) - {S.OPEN}:
        assert actions_for(kind, state, adoptable=adoptable, indexed=indexed) == ()


def test_each_kind_has_its_table() -> None:
    assert set(FINDING_TABLES) == set(FindingKind)


def test_parameters_take_the_words_of_the_tables() -> None:
    assert get_args(FindingKindName) == tuple(FindingKind)
    assert get_args(FindingActionName) == tuple(FindingAction)


class Findings(RuleBasedStateMachine):
    """One finding of each kind, to which runs, listings and operators do whatever they do, late and twice."""

    def __init__(self) -> None:
        super().__init__()
        self.states = {kind: FINDING_TABLES[kind].after(None, FindingTrigger.SEEN) for kind in FindingKind}
        self.first: dict[FindingKind, FindingState] = {}

    def happens(self, kind: FindingKind, trigger: FindingTrigger) -> None:
        try:
            after = FINDING_TABLES[kind].after(self.states[kind], trigger)
        except IllegalFindingMove:
            return
        if after is not S.OPEN:
            self.first.setdefault(kind, after)
        self.states[kind] = after

    @rule(kind=st.sampled_from(FindingKind), trigger=st.sampled_from(FindingTrigger))
    def something_happens(self, kind: FindingKind, trigger: FindingTrigger) -> None:
        self.happens(kind, trigger)

    @rule(kind=st.sampled_from(FindingKind), adoptable=st.booleans(), indexed=st.booleans(), number=st.integers(0, 2))
    def an_operator_acts(self, kind: FindingKind, adoptable: bool, indexed: bool, number: int) -> None:
        actions = actions_for(kind, self.states[kind], adoptable=adoptable, indexed=indexed)
        if actions:
            trigger = TRIGGERS[actions[number % len(actions)]]
            self.happens(kind, trigger)
            assert self.states[kind] == trigger, "an action that was offered resolves the finding"

    @invariant()
    def the_first_end_counts(self) -> None:
        assert self.states == {kind: self.first.get(kind, S.OPEN) for kind in FindingKind}


TestFindings = Findings.TestCase
