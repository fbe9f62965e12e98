"""The transition table, as a property: whatever happens in whatever order, a state is only left by an arrow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from butai.assets.states import ASSET_TABLE, AssetStatus, AssetTrigger, IllegalAssetTransition


@given(st.sampled_from([None, *AssetStatus]), st.sampled_from(AssetTrigger))
def test_every_pair_is_in_the_table_or_raises(status: AssetStatus | None, event: AssetTrigger) -> None:
    if (status, event) in ASSET_TABLE:
        assert ASSET_TABLE.after(status, event) is ASSET_TABLE[status, event]
    else:
        with pytest.raises(IllegalAssetTransition) as raised:
            ASSET_TABLE.after(status, event)
        assert (raised.value.state, raised.value.trigger) == (status, event)


@given(st.lists(st.sampled_from(AssetTrigger), max_size=50))
def test_late_and_repeated_events_never_lead_out_of_the_states(events: list[AssetTrigger]) -> None:
    status: AssetStatus | None = None
    for event in events:
        try:
            status = ASSET_TABLE.after(status, event)
        except IllegalAssetTransition:
            continue
        assert status in AssetStatus


def test_nothing_begins_but_by_creation_or_import() -> None:
    assert {event for (status, event) in ASSET_TABLE if status is None} == {AssetTrigger.CREATED, AssetTrigger.IMPORTED}


def test_every_state_is_reached_and_can_become_ready() -> None:
    reached: set[AssetStatus | None] = {None}
    while True:
        more = reached | {after for (before, _), after in ASSET_TABLE.items() if before in reached}
        if more == reached:
            break
        reached = more
    assert reached == {None, *AssetStatus}
    for status in AssetStatus:
        assert AssetStatus.READY in {after for (before, _), after in ASSET_TABLE.items() if before is status} | {
            ASSET_TABLE[ASSET_TABLE[status, AssetTrigger.RETRIED], AssetTrigger.COMPLETED]
            if (status, AssetTrigger.RETRIED) in ASSET_TABLE
            else None
        }


class Life(RuleBasedStateMachine):
    """An asset as its owner knows it: `bytes_whole` says whether complete bytes were ever acknowledged and not lost."""

    def __init__(self) -> None:
        super().__init__()
        self.status: AssetStatus | None = None
        self.bytes_whole = False
        self.running = 0

    @rule()
    def upload_begins(self) -> None:
        event = {
            None: AssetTrigger.CREATED,
            AssetStatus.READY: AssetTrigger.REPLACING,
            AssetStatus.MISSING: AssetTrigger.REPLACING,
        }.get(self.status, AssetTrigger.RETRIED)
        self.status = ASSET_TABLE.after(self.status, event)
        self.running += 1

    @precondition(lambda self: self.running > 0)
    @rule()
    def upload_completes(self) -> None:
        self.status = ASSET_TABLE.after(self.status, AssetTrigger.COMPLETED)
        self.bytes_whole, self.running = True, self.running - 1

    @precondition(lambda self: self.running == 1 and self.status is not AssetStatus.FAILED)
    @rule()
    def newest_upload_fails(self) -> None:
        self.status = ASSET_TABLE.after(self.status, AssetTrigger.UPLOAD_FAILED)
        self.running -= 1

    @precondition(lambda self: self.status is AssetStatus.READY)
    @rule()
    def store_loses_it(self) -> None:
        self.status = ASSET_TABLE.after(self.status, AssetTrigger.LOST)
        self.bytes_whole = False

    @precondition(lambda self: self.status is AssetStatus.MISSING)
    @rule()
    def it_is_found_again(self) -> None:
        self.status = ASSET_TABLE.after(self.status, AssetTrigger.RECOVERED)
        self.bytes_whole = True

    @invariant()
    def ready_means_whole(self) -> None:
        assert (self.status is AssetStatus.READY) == self.bytes_whole


TestLife = Life.TestCase
