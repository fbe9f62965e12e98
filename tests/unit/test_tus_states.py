"""The table of resumable uploads: each ends once, whatever requests overtake each other."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from butai.assets.tus.states import RESUMABLE_TABLE, IllegalResumableMove, ResumableState, ResumableTrigger


@pytest.mark.parametrize("trigger", ResumableTrigger)
@pytest.mark.parametrize("state", [None, *ResumableState])
def test_every_pair_is_in_the_table_or_raises(state: ResumableState | None, trigger: ResumableTrigger) -> None:
    if (state, trigger) in RESUMABLE_TABLE:
        assert RESUMABLE_TABLE.after(state, trigger) is RESUMABLE_TABLE[state, trigger]
    else:
        with pytest.raises(IllegalResumableMove) as raised:
            RESUMABLE_TABLE.after(state, trigger)
        assert (raised.value.state, raised.value.trigger) == (state, trigger)


def test_what_is_over_stays_over() -> None:
    assert {state for state, _ in RESUMABLE_TABLE} == {None, ResumableState.OPEN, ResumableState.FINISHING}


@pytest.mark.parametrize("trigger", [each for each in ResumableTrigger if each is not ResumableTrigger.CREATED])
def test_the_guard_of_a_move_is_its_arrows(trigger: ResumableTrigger) -> None:
    sources, target = RESUMABLE_TABLE.arrows(trigger)
    assert sources
    assert {RESUMABLE_TABLE.after(state, trigger) for state in sources} == {target}
    for state in set(ResumableState) - sources:
        with pytest.raises(IllegalResumableMove):
            RESUMABLE_TABLE.after(state, trigger)


class Requests(RuleBasedStateMachine):
    """Requests that each took the `writer` number once and act, in any order, on what they remember."""

    def __init__(self) -> None:
        super().__init__()
        self.state = RESUMABLE_TABLE.after(None, ResumableTrigger.CREATED)
        self.writer = 0
        self.ends: list[ResumableState] = []

    @rule()
    def a_request_takes_over(self) -> None:
        self.writer += 1

    @rule(trigger=st.sampled_from(list(ResumableTrigger)[1:]), behind=st.integers(0, 2))
    def a_request_acts(self, trigger: ResumableTrigger, behind: int) -> None:
        sources, target = RESUMABLE_TABLE.arrows(trigger)
        if behind or self.state not in sources:
            return
        self.state = target
        if target in (ResumableState.DONE, ResumableState.REFUSED):
            self.ends.append(target)

    @invariant()
    def it_ends_once(self) -> None:
        assert len(self.ends) <= 1
        assert not self.ends or self.state is self.ends[0]


TestRequests = Requests.TestCase
