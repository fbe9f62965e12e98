"""The stand-in for LiveKit Egress is held against every recording of a real one: the recorded calls are made again with the
official client, once on the recording played back and once on the scripted worker, and answers, error codes, the states that
ListEgress showed, the order of the webhooks and the redacted URLs must be the recorded ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import combinations
from typing import Any

import pytest

from tests.fakes.livekit_egress.recordings import DIRECTORY, Recording, load
from tests.fakes.livekit_egress.trial import Hook, Seen, State, Trial, distinct, hook, run_all, state

NAMES = sorted(path.stem for path in DIRECTORY.glob("*.jsonl"))
SPEED = 10.0
pytestmark = pytest.mark.timeout(
    900
)  # s: trials that the machine held up and that differ are made again, each time slower
CLOSE = 0.25  # s: events nearer to each other than this may come in either order from the scripted worker


@pytest.fixture(scope="module")
def replayed() -> dict[str, Seen]:
    return asyncio.run(run_all([Trial(name, scripted=False, speed=SPEED) for name in NAMES]))


@pytest.fixture(scope="module")
def scripted() -> dict[str, Seen]:
    return asyncio.run(run_all([Trial(name, scripted=True, speed=SPEED) for name in NAMES], differs=differs))


# What a recording says


def answers(recording: Recording) -> list[State | tuple[int, str, str]]:
    found: list[State | tuple[int, str, str]] = []
    for entry in recording.requests:
        assert entry.answer is not None
        data = entry.answer.data
        if entry.answer.kind == "error":
            found.append((data["status"], data["code"], data["message"]))
        else:
            found.append(state(data["body"]))
    return found


def polled(recording: Recording, egress_id: str) -> list[State]:
    """As ListEgress showed it; behind the last poll that asked for it, as answers and webhooks had it."""
    found: list[State] = []
    last = 0.0
    for entry in recording.entries:
        if entry.kind == "poll":
            for item in entry.body.get("items", []):
                if item["egressId"] == egress_id:
                    found.append(state(item))
                    last = entry.t
    for entry in recording.entries:
        info = entry.event.get("egressInfo", {}) if entry.kind == "webhook" else {}
        if entry.kind == "response":
            info = entry.body
        if entry.t > last and info.get("egressId") == egress_id:
            found.append(state(info))
    return distinct(found)


def hooks(recording: Recording) -> list[Hook]:
    return [hook(entry.t, entry.event, "r1") for entry in recording.entries if entry.kind == "webhook"]


def renamed(value: Any, trial: Trial) -> Any:
    """A recorded text, state or answer with the trial's keys in it."""
    if isinstance(value, str):
        for old, new in (
            ("{yt-...001}", "{abc...jkl}"),
            ("{tw-...002}", "{liv...wvu}"),
            ("participant host not", f"participant {trial.identity} not"),
        ):
            value = value.replace(old, new)
        return trial.rename(value)
    if isinstance(value, dict):
        return {key: renamed(one, trial) for key, one in value.items()}
    if isinstance(value, list):
        return sorted(renamed(one, trial) for one in value)
    if isinstance(value, tuple):
        return tuple(renamed(one, trial) for one in value)
    return value


def ranks(moments: list[int]) -> list[tuple[int, int]]:
    """Which moment is before which."""
    return [(a, b) for a, b in combinations(range(len(moments)), 2) if moments[a] < moments[b]]


# Played back


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_played_back_says_what_was_recorded(replayed: dict[str, Seen], name: str) -> None:
    trial, seen = Trial(name, scripted=False, speed=SPEED), replayed[name]
    recording = trial.recording
    assert seen.answers == [renamed(one, trial) for one in answers(recording)]
    for place, egress_id in enumerate(recording.egress_ids):
        stored, shown = distinct(seen.stored[place]), distinct(seen.states[place])
        assert stored == [renamed(one, trial) for one in polled(recording, egress_id)]
        assert is_within(shown, stored) and shown[-1] == stored[-1]
    wanted = hooks(recording)
    own = {egress_id: seen.ids[place] for place, egress_id in enumerate(recording.egress_ids)}
    assert [one.event for one in seen.hooks] == [one.event for one in wanted]
    for had, want in zip(seen.hooks, wanted, strict=True):
        if want.subject in own:
            assert had.subject == own[want.subject]
        elif want.subject.startswith("host"):
            assert had.subject == want.subject.replace("host", trial.identity)
        if want.subject in own and want.state is not None:
            assert had.state == renamed(want.state, trial)
            assert set(ranks(want.moments)) >= set(ranks(had.moments))
        assert had.reason == want.reason
    assert seen.unsigned == 0


# The scripted worker


@pytest.mark.parametrize("name", NAMES)
def test_the_scripted_worker_says_what_was_recorded(scripted: dict[str, Seen], name: str) -> None:
    check_scripted(name, scripted[name])


def differs(name: str, seen: Seen) -> bool:
    try:
        check_scripted(name, seen)
    except (AssertionError, LookupError):
        return True
    return False


def check_scripted(name: str, seen: Seen) -> None:
    recording = load(name)
    assert seen.answers == answers(recording)
    assert len(seen.ids) == len(recording.egress_ids)
    wanted, had = hooks(recording), seen.hooks
    names = {seen.ids[place]: egress_id for place, egress_id in enumerate(recording.egress_ids)}
    for one in had:
        one.subject = names.get(one.subject, one.subject)
    subjects = {one.subject for one in wanted if not one.subject.startswith("EG_")} | set(recording.egress_ids)
    for subject in subjects:
        want, got = [
            [(one.event, one.reason, one.state) for one in side if one.subject == subject and not told(one)]
            for side in (wanted, had)
        ]
        assert got[: len(want)] == want, subject
        want, got = [
            [(one.event, one.reason) for one in side if one.subject == subject and told(one)] for side in (wanted, had)
        ]
        assert got[: len(want)] == want, subject
    order(name, [one for one in wanted if one.subject in subjects], had)
    for place, egress_id in enumerate(recording.egress_ids):
        stored, shown, known = distinct(seen.stored[place]), distinct(seen.states[place]), polled(recording, egress_id)
        assert is_within(shown, stored)
        whole = [one.state for one in wanted if one.subject == egress_id and one.state is not None]
        settled = [one for position, one in enumerate(known) if one not in known[:position]]
        assert is_within(settled, stored)
        later = [one for one in stored if one not in whole and one not in known]
        assert is_within([one for one in stored if one not in later], distinct(whole + known[-1:]))
        # A recording may be cut short; the worker goes on to the end.
        assert later in ([], stored[-1:]) and all(one["status"] == "EGRESS_COMPLETE" for one in later)
    assert seen.unsigned == 0


def told(one: Hook) -> bool:
    """Of a participant, not of the egress itself: the two come by different ways."""
    return one.state is None


def is_within(few: list[State], many: list[State]) -> bool:
    """In the same order."""
    rest = iter(many)
    return all(one in rest for one in few)


def order(name: str, wanted: list[Hook], had: list[Hook]) -> None:
    """Events further apart than CLOSE come in the recorded order, other than those of two egresses, whose workers need not
    be equally quick, and in platform-gone-40s, where the room's own were held up for 2 s."""

    def numbered(side: list[Hook]) -> dict[tuple[str, str, int], tuple[int, float]]:
        count: Counter[tuple[str, str]] = Counter()
        found: dict[tuple[str, str, int], tuple[int, float]] = {}
        for position, one in enumerate(side):
            key = (one.event, one.subject)
            count[key] += 1
            found[*key, count[key]] = (position, one.at)
        return found

    places, recorded = numbered(had), numbered(wanted)
    for first, second in combinations(recorded, 2):
        two_egresses = first[1] != second[1] and first[1].startswith("EG_") and second[1].startswith("EG_")
        if name == "platform-gone-40s" or two_egresses:
            continue
        if recorded[second][1] - recorded[first][1] > CLOSE:
            assert places[first][0] < places[second][0], (first, second)
