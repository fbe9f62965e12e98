"""The table of outputs' states, and what a broadcast shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butai.live.states import OUTPUT_TABLE, WIRE, IllegalOutputTransition, OutputState, OutputTrigger, broadcast_status

LIVE = Path(__file__).parents[2] / "src" / "butai" / "live"


@given(st.sampled_from([None, *OutputState]), st.sampled_from(OutputTrigger))
def test_every_pair_is_in_the_table_or_raises(state: OutputState | None, event: OutputTrigger) -> None:
    if (state, event) in OUTPUT_TABLE:
        assert OUTPUT_TABLE.after(state, event) is OUTPUT_TABLE[state, event]
    else:
        with pytest.raises(IllegalOutputTransition) as raised:
            OUTPUT_TABLE.after(state, event)
        assert (raised.value.state, raised.value.trigger) == (state, event)


def test_an_output_begins_by_creation_alone_and_is_created_once() -> None:
    creation = {OutputTrigger.CREATED, OutputTrigger.CREATED_WITHOUT_DESTINATION}
    assert {event for (state, event) in OUTPUT_TABLE if state is None} == creation
    assert {state for (state, event) in OUTPUT_TABLE if event in creation} == {None}


WRITERS = {
    "Output": {"broadcasts/wanted.py", "reconcile/transitions.py"},
    "Broadcast": {"broadcasts/wanted.py", "broadcasts/service.py", "reconcile/transitions.py"},
    "Ingress": {"ingresses/transitions.py"},
}
"""Who makes rows, and sets `state` and `wanted`. (A new broadcast has no state: it is made where it is started.)"""


def test_rows_are_made_and_their_states_set_where_the_tables_are_asked() -> None:
    found: list[str] = []
    for path in sorted(LIVE.rglob("*.py")):
        name = str(path.relative_to(LIVE))
        allowed = {model for model, writers in WRITERS.items() if name in writers}
        for node in ast.walk(ast.parse(path.read_text())):
            at = f"{name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in WRITERS and node.func.id not in allowed:
                    found.append(f"{at} {node.func.id}")
            elif isinstance(node, ast.Assign):
                flat = [part for target in node.targets for part in getattr(target, "elts", [target])]
                names = {ast.unparse(target) for target in flat if isinstance(target, ast.Attribute)}
                if not allowed and {one for one in names if one.endswith((".state", ".wanted")) and one[:5] != "self."}:
                    found.append(f"{at} {names}")
    assert found == []


def test_no_transaction_of_going_live_is_held_over_the_network() -> None:
    """No request to LiveKit, no name lookup and no try of a destination inside the block of a transaction."""
    network = re.compile(
        r"\b(livekit_client|end_unknown|_delete_at_livekit|_make|check_url|check|resolve)\(|\blivekit\."
    )
    found: list[str] = []
    for path in sorted(LIVE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.AsyncWith):
                continue
            if not any(".transaction(" in ast.unparse(item.context_expr) for item in node.items):
                continue
            for inner in ast.walk(node):
                called = ast.unparse(inner) if isinstance(inner, ast.Await) else ""
                if isinstance(inner, ast.AsyncWith) and inner is not node:
                    called = " ".join(ast.unparse(item.context_expr) for item in inner.items)
                if network.search(called):
                    found.append(f"{path.relative_to(LIVE)}:{getattr(inner, 'lineno', 0)}")
    assert found == []


def test_nothing_leaves_ended_and_only_a_host_leaves_failed() -> None:
    assert not [event for (state, event) in OUTPUT_TABLE if state is OutputState.ENDED]
    assert {event for (state, event) in OUTPUT_TABLE if state is OutputState.FAILED} == {
        OutputTrigger.RETRIED,
        OutputTrigger.ENDED,
    }


def test_every_state_is_reached_from_the_first_and_can_end() -> None:
    reached = {OutputState.PENDING}
    while (more := reached | {after for (before, _), after in OUTPUT_TABLE.items() if before in reached}) != reached:
        reached = more
    assert reached == set(OutputState)
    for state in set(OutputState) - {OutputState.ENDED}:
        assert OUTPUT_TABLE[state, OutputTrigger.ENDED] is OutputState.ENDED
    assert set(WIRE) == set(OutputState)


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        (["pending", "pending"], "starting"),
        (["live", "starting"], "degraded"),
        (["live", "live"], "live"),
        (["live", "failed"], "degraded"),
        (["reconnecting", "failed"], "degraded"),
        (["starting", "failed"], "starting"),
        (["failed", "failed"], "error"),
        (["live", "ended"], "live"),
        (["live", "stopping"], "live"),
    ],
)
def test_a_broadcast_on_air_shows_what_its_outputs_are(states: list[str], shown: str) -> None:
    assert broadcast_status(map(OutputState, states), wanted=True, ended=False, was_live=False) == shown


def test_a_broadcast_that_is_over_shows_whether_it_ever_was() -> None:
    failed = [OutputState.FAILED, OutputState.FAILED]
    assert broadcast_status(failed, wanted=False, ended=True, was_live=False) == "error"
    assert broadcast_status(failed, wanted=False, ended=True, was_live=True) == "ended"
    assert broadcast_status([OutputState.ENDED], wanted=False, ended=True, was_live=False) == "ended"
    assert broadcast_status([OutputState.LIVE], wanted=False, ended=False, was_live=True) == "stopping"
