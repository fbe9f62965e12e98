"""What the status of a broadcast says of its outputs, against what their platforms receive at the same time.

**False live**: the longest time for which the status says `live` while the platform gets no byte. **False dead**: the
longest time for which it says otherwise although the platform gets bytes; `stopping` is not counted, since an output that
is asked to stop still sends the end of what it has. Used by `faults`.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from xml.etree.ElementTree import ParseError

from tests.e2e.show import Seen, Show

EVERY = 0.05
"""Seconds between two looks at a platform's count of bytes."""
PAUSE = 0.25
"""Seconds without bytes up to which they count as one flow: media of 15 pictures a second come each 0.07 s."""
OVER = ("ended", "error")

Span = tuple[float, float]
"""From when to when, in seconds since 1970."""


@dataclass
class Arrivals:
    """When a platform's count of bytes was seen to change. `counts`: bytes of the running publish; raises OSError for a
    platform that does not answer."""

    count: Callable[[], int]
    at: list[float] = field(default_factory=list)

    def watch(self, stopped: threading.Event) -> None:
        """Looks again and again, until `stopped`."""
        last = 0
        while not stopped.wait(EVERY):
            # One that is killed meanwhile may answer by half.
            with contextlib.suppress(OSError, HTTPException, ParseError):
                now = self.count()
                if now > 0 and now != last:
                    self.at.append(time.time())
                last = now

    def silences(self, until: float) -> list[Span]:
        """The times between two arrivals, and from the last one to `until`."""
        return list(itertools.pairwise([*self.at, until]))

    def flows(self) -> list[Span]:
        """The times in which bytes arrived without a pause."""
        found: list[Span] = []
        for at in self.at:
            if found and at - found[-1][1] <= PAUSE:
                found[-1] = (found[-1][0], at)
            else:
                found.append((at, at))
        return found


@dataclass
class Window:
    """What followed one fault, until the next one. `ends`: the fault is meant to end an output or the broadcast."""

    name: str
    began: float
    ends: bool


class Truth:
    """Watches the platforms of one broadcast. `counts`: by the label of the output."""

    def __init__(self, show: Show, counts: Mapping[str, Callable[[], int]]) -> None:
        self._show = show
        self._arrivals = {label: Arrivals(count) for label, count in counts.items()}
        self._windows: list[Window] = []

    @contextlib.contextmanager
    def watching(self) -> Generator[None]:
        """Looks until the block ends."""
        stopped = threading.Event()
        threads = [threading.Thread(target=one.watch, args=[stopped]) for one in self._arrivals.values()]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopped.set()
            for thread in threads:
                thread.join()

    def fault(self, name: str, *, ends: bool = False) -> None:
        """Begins the window of a fault; the one before ends here."""
        self._windows.append(Window(name, time.time(), ends))

    def figures(self) -> dict[str, dict[str, float]]:
        """By the name of the fault: `false_live` and `false_dead` in seconds, the most of any output; `ended`: how many
        outputs were over that the fault should have left alive."""
        seen = list(self._show.seen)
        if not seen:
            return {}
        until = seen[-1].at
        found: dict[str, dict[str, float]] = {}
        for number, window in enumerate(self._windows):
            end = self._windows[number + 1].began if number + 1 < len(self._windows) else until
            figures = {"false_live": 0.0, "false_dead": 0.0, "ended": 0.0}
            for label, arrivals in self._arrivals.items():
                said = states(seen, label)
                lives = spans(said, {"live"}, until)
                deads = spans(said, {"starting", "interrupted", *OVER}, until)
                within = (window.began, end)
                figures["false_live"] = max(
                    figures["false_live"], longest(lives, arrivals.silences(until), within=within)
                )
                figures["false_dead"] = max(figures["false_dead"], longest(deads, arrivals.flows(), within=within))
                over = any(state in OVER for at, state in said if within[0] <= at < within[1])
                figures["ended"] += over and not window.ends
            found[window.name] = figures
        return found


def states(seen: Sequence[Seen], label: str) -> list[tuple[float, str]]:
    """The state of an output at each look."""
    return [(one.at, one.outputs[label]["state"]) for one in seen if label in one.outputs]


def spans(said: Sequence[tuple[float, str]], wanted: set[str], until: float) -> list[Span]:
    """The times for which the state was one of `wanted`: what a look says holds until the next look."""
    found: list[Span] = []
    ends = [*(at for at, _ in said[1:]), until]
    for (at, state), end in zip(said, ends, strict=True):
        if state not in wanted:
            continue
        if found and found[-1][1] == at:
            found[-1] = (found[-1][0], end)
        else:
            found.append((at, end))
    return found


def longest(some: Sequence[Span], others: Sequence[Span], *, within: Span) -> float:
    """The longest time that is in one of `some`, in one of `others`, and in `within`; 0 where there is none."""
    most = 0.0
    for one in some:
        begin, end = max(one[0], within[0]), min(one[1], within[1])
        if begin < end:
            most = max([most, *(min(end, other[1]) - max(begin, other[0]) for other in others)])
    return most
