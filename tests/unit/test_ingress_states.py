"""The table of an ingress's states, and a walk through it by everything that can happen, late and twice."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import CheckConstraint

from butai.live.ingresses.states import INGRESS_TABLE, REPORTS, IllegalIngressTransition, IngressTrigger
from butai.live.models import Ingress
from butai.live.states import IngressState
from butai.live.webhooks.batch import STATEMENT
from butai.live.webhooks.payload import _INGRESS_STATES

TERMINAL = {IngressState.FAILED, IngressState.DELETED}


@given(st.sampled_from([None, *IngressState]), st.sampled_from(IngressTrigger))
def test_every_pair_is_in_the_table_or_raises(state: IngressState | None, event: IngressTrigger) -> None:
    if (state, event) in INGRESS_TABLE:
        assert INGRESS_TABLE.after(state, event) is INGRESS_TABLE[state, event]
    else:
        with pytest.raises(IllegalIngressTransition) as raised:
            INGRESS_TABLE.after(state, event)
        assert (raised.value.state, raised.value.trigger) == (state, event)


def test_failed_and_deleted_are_final_and_everything_else_can_end_in_one_of_them() -> None:
    assert {state for state, _ in INGRESS_TABLE}.isdisjoint(TERMINAL)
    ends = set(TERMINAL)
    for _ in IngressState:
        ends |= {state for (state, _), after in INGRESS_TABLE.items() if state is not None and after in ends}
    assert ends == set(IngressState)


def test_every_state_is_reached_from_a_request() -> None:
    reached: set[IngressState | None] = {None}
    for _ in IngressState:
        reached |= {after for (state, _), after in INGRESS_TABLE.items() if state in reached}
    assert reached == {None, *IngressState}


def test_reports_change_only_what_livekit_has_made_and_is_not_deleted() -> None:
    for state in IngressState:
        for reported, trigger in REPORTS.items():
            if state in REPORTS:
                assert INGRESS_TABLE.after(state, trigger) is reported
            else:
                assert (state, trigger) not in INGRESS_TABLE


def test_the_statement_of_the_webhooks_takes_reports_in_the_same_states_as_the_table() -> None:
    (clause,) = re.findall(r"i\.state IN \(([^)]*)\)", STATEMENT)
    assert set(re.findall(r"'(\w+)'", clause)) == set(REPORTS)
    assert set(_INGRESS_STATES.values()) == set(REPORTS), "what a webhook can report"


def test_a_row_without_livekits_id_is_in_a_state_that_needs_none() -> None:
    constraints = [one for one in Ingress.__table_args__ if isinstance(one, CheckConstraint)]
    (check,) = [one for one in constraints if "ingress_id" in str(one.sqltext)]
    found = set(re.findall(r"'(\w+)'", str(check.sqltext)))
    assert found == set(IngressState) - set(REPORTS) - {IngressState.DELETED}


class Walk(RuleBasedStateMachine):
    """A row, and LiveKit: whether it has an ingress for it, and whether the key was given to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.state = IngressState.MAKING
        self.open_at_livekit = False
        self.key_given = False

    def happens(self, trigger: IngressTrigger) -> bool:
        try:
            self.state = INGRESS_TABLE.after(self.state, trigger)
        except IllegalIngressTransition:
            return False
        return True

    @precondition(lambda self: self.state is IngressState.MAKING)
    @rule(answered=st.booleans())
    def livekit_makes_it(self, answered: bool) -> None:
        self.open_at_livekit = True
        if answered:
            self.key_given = self.happens(IngressTrigger.MADE)
        else:
            self.happens(IngressTrigger.UNANSWERED)

    @precondition(lambda self: self.state is IngressState.MAKING and not self.open_at_livekit)
    @rule(trigger=st.sampled_from([IngressTrigger.REFUSED, IngressTrigger.UNANSWERED]))
    def livekit_makes_nothing(self, trigger: IngressTrigger) -> None:
        self.happens(trigger)

    @rule(trigger=st.sampled_from([*REPORTS.values()]))
    def a_report_comes_late_or_twice(self, trigger: IngressTrigger) -> None:
        self.happens(trigger)

    @rule()
    def it_is_swept(self) -> None:
        if self.state is IngressState.ABANDONED:
            self.open_at_livekit = False
        self.happens(IngressTrigger.CLEARED)

    @rule()
    def its_host_deletes_it(self) -> None:
        if self.state in REPORTS:
            self.open_at_livekit = False
        self.happens(IngressTrigger.DELETED)

    @invariant()
    def what_has_ended_is_not_open(self) -> None:
        if self.state in TERMINAL:
            assert not self.open_at_livekit

    @invariant()
    def what_is_open_is_known_or_will_be_looked_for(self) -> None:
        if self.open_at_livekit:
            assert self.state in {*REPORTS, IngressState.ABANDONED}
        assert (self.state in REPORTS) <= self.key_given


TestWalk = Walk.TestCase
