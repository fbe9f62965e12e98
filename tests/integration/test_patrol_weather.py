"""Random faults under the whole patrol: real store, real proxy, real rows. No healthy row is ever marked.

The rulings alone are tried far more often in `tests/unit/test_patrol_verdicts.py`; here the faults come over the wire, 48
requests at a time, with the client's repetitions, rows and second looks.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from tests.examples import examples
from tests.fakes.store_proxy import StoreProxy
from tests.patrols import Studio

FILES = 24

FAULTS: dict[str, dict[str, Any]] = {
    "denied": {"status": 403, "code": "AccessDenied"},
    "absent": {"status": 404, "code": "NoSuchKey"},
    "broken": {"status": 500},
    "throttled": {"status": 503, "code": "SlowDown"},
    "silent": {"hang": True},
}

# Three requests at least: what ends sooner is one request's own, and says nothing about a store.
weathers = st.lists(
    st.tuples(st.integers(0, 150), st.integers(3, 60), st.sampled_from(sorted(FAULTS))), min_size=1, max_size=5
)


def each_fault(test: Any) -> Any:
    """Each once for certain, from the first objects on: what is generated may pass one over."""
    for what in FAULTS:
        test = example(weather=[(3, 30, what)], hides=False, gone=1, rounds=["round"])(test)
    return test


@pytest.mark.slow
@pytest.mark.timeout(600)
@examples(
    ci=10,
    deep=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@each_fault
@given(
    weather=weathers,
    hides=st.booleans(),
    gone=st.integers(0, 4) | st.just(FILES),
    rounds=st.lists(st.sampled_from(["round", "one by one"]), min_size=1, max_size=4),
)
@pytest.mark.store_hangs
async def test_no_healthy_row_is_ever_marked(
    studio: Studio,
    proxy: StoreProxy,
    monkeypatch: pytest.MonkeyPatch,
    weather: list[tuple[int, int, str]],
    hides: bool,
    gone: int,
    rounds: list[str],
) -> None:
    proxy.heal()
    if not studio.keys:
        await studio.fill(FILES)
        assert (await studio.go()).found == FILES
    monkeypatch.setattr("butai.assets.storage.heads.HEAD_SECONDS", 0.4)
    ids = list(studio.keys)
    lost = set(ids[:gone])
    await studio.lose(*lost)
    proxy.hide_absence = hides
    number = -1

    def count(request: Any) -> bool:
        nonlocal number
        number += request.method == "HEAD"
        return False

    # The first to be asked, and to do nothing: so that the others know which request this is.
    proxy.fault().matches = count
    faults = [proxy.fault(**FAULTS[what]) for _, _, what in weather]
    for fault, (start, length, _) in zip(faults, weather, strict=True):
        fault.matches = lambda request, start=start, length=length: (
            request.method == "HEAD" and start <= number < start + length
        )
    for kind in rounds:
        if kind == "round":
            await studio.go()
        else:
            # As reads that failed have them looked for.
            for asset_id in ids[::5]:
                await studio.patrol().recheck([asset_id])
        assert await studio.missing() <= lost, weather
        studio.now += timedelta(minutes=6)
    for (_, _, what), fault in zip(weather, faults, strict=True):
        MET[what] += fault.met

    proxy.heal()
    proxy.hide_absence = hides
    # Without faults no silence has to be cut short, and a busy machine may take its time.
    monkeypatch.setattr("butai.assets.storage.heads.HEAD_SECONDS", 30)
    for _ in range(3):
        studio.now += timedelta(minutes=11)
        await studio.go()
    if gone < FILES:
        assert await studio.missing() == lost, "what is gone is found once the weather is fair"
    await studio.bring_back(*lost)
    run = await studio.go()
    assert (run.state, run.mismatched) == ("finished", 0)
    assert await studio.statuses() == {"ready": FILES}
    assert await studio.do("SELECT 1 FROM findings WHERE resolved_at IS NULL") == []
    # The next example finds the library as this one did.
    await studio.do("DELETE FROM findings")
    await studio.do("DELETE FROM asset_checks")


MET: Counter[str] = Counter()
"""Requests that each fault was done to, over all examples."""


@pytest.mark.slow
def test_every_fault_was_met() -> None:
    assert all(MET[what] for what in FAULTS), MET
