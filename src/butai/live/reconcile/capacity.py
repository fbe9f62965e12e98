"""How many broadcasts a machine carries: the cores it has for engines, what each engine takes, and who is admitted. Pure.

What an engine takes is first a table's figure for its preset, measured on another machine (`Egress.costs`), and then
that figure times the ratio by which the engines that run here differ from it. A picture that is encoded late shows that
the machine falls behind, before any is lost: then the newcomers get a smaller preset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

ROUNDING = 1e-6
"""Cores by which a sum of costs may be above the capacity: five times 0.34 is a little more than 1.7."""

Admits = Literal["all", "lowered", "none"]
"""Which newcomers a machine takes: at their own preset, at the next lower one, or none."""
_BY_PRESSURE: tuple[Admits, ...] = ("all", "lowered", "none")

LOWER = {"1080p60": "1080p30", "1080p30": "720p30", "720p60": "720p30", "720p30": "480p30"}
"""The next lower preset; the lowest has none."""

UNKNOWN_COST = 1.0
"""Cores of a broadcast whose preset this version does not know."""

STEADY_REPORTS = 10
"""Reports of an engine, one each second, after which its average is used."""
SMOOTHING = 0.1
"""The newest report's share in the moving average of an engine: an average over ten seconds."""
LEAST_RATIO, MOST_RATIO = 0.5, 4.0
"""Bounds of the ratio to the table: beyond them, a measurement is more likely wrong than the table."""

LATE = 0.1
"""Seconds by which a picture is late when its machine falls behind: three pictures of 30 a second. A picture is lost
when it is later than `relay.clock.MAX_FRAME_DELAY`, 0.25."""
LOST = 0.25
LATE_REPORTS = 3
"""Reports of late or of lost pictures within `PRESSURE_WINDOW` that count: one alone may be any program's start."""
PRESSURE_WINDOW = 30.0


def cost_key(egress: str, preset: str) -> str:
    """The name of a cost: engines of different kinds take different shares of a machine for the same preset."""
    return f"{egress} {preset}"


def least_cost(costs: Mapping[str, float], egress: str) -> float:
    """The cores of the smallest broadcast on engines of this kind."""
    return min((cost for key, cost in costs.items() if key.startswith(cost_key(egress, ""))), default=UNKNOWN_COST)


def fits(cores: float, used: float, cost: float, least: float) -> bool:
    """Whether a broadcast of `cost` fits on a machine with `cores` for engines, of which `used` are taken.

    A machine on which not even the smallest broadcast (`least`) runs takes one in any case: small machines go live too.
    One with 0 cores for engines takes none.
    """
    return used + cost <= cores + ROUNDING or (cores > 0 and used < least)


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What one engine of this host took in its last second.

    `ref`: the engine's identity; `at`: its time of the report, by which a repeated one is known. `key`: as `cost_key`.
    `cores`: CPU seconds for each second. `late`: the most seconds by which one of its pictures was late. `steady`:
    whether it receives the host's pictures at their full rate and publishes them, so that `cores` is what it takes.
    """

    ref: str
    at: float
    key: str
    cores: float
    late: float
    steady: bool


@dataclass
class _Average:
    key: str
    at: float
    cores: float = 0.0
    reports: int = 0


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A broadcast that wants to be on air and never had an engine."""

    id: UUID
    egress: str
    preset: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """A newcomer that is taken, and the preset that it gets."""

    newcomer: Newcomer
    preset: str


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as a newcomer finds it. `cores`: those for engines; `costs`: the cores of a broadcast there, by `cost_key`."""

    cores: float
    costs: Mapping[str, float]
    admits: Admits

    def admit(self, newcomers: Sequence[Newcomer], used: float) -> list[Admitted]:
        """The newcomers that fit beside the `used` cores, the first ones first. One that does not fit lets a smaller
        one pass, since another machine may have room for it."""
        taken: list[Admitted] = []
        for one in newcomers:
            preset = self.preset_for(one.egress, one.preset, used)
            if preset is not None:
                used += self.cost(one.egress, preset)
                taken.append(Admitted(one, preset))
        return taken

    def preset_for(self, egress: str, preset: str, used: float) -> str | None:
        """The preset that a newcomer gets beside the `used` cores; None where it is not taken."""
        least = least_cost(self.costs, egress)
        # Without a broadcast on air, what was said of late and lost pictures is over.
        if self.admits != "all" and used >= least and self._encodes_here(egress):
            if self.admits == "none":
                return None
            preset = LOWER.get(preset, preset)
        return preset if fits(self.cores, used, self.cost(egress, preset), least) else None

    def cost(self, egress: str, preset: str) -> float:
        """The cores of a broadcast."""
        return self.costs.get(cost_key(egress, preset), UNKNOWN_COST)

    def _encodes_here(self, egress: str) -> bool:
        """Whether an engine's cost depends on the preset: others send no picture through this machine."""
        return len({cost for key, cost in self.costs.items() if key.startswith(cost_key(egress, ""))}) > 1


@dataclass
class Capacity:
    """The capacity of one controller's host. `table`: cores by `cost_key`; `cores`: those for engines. `when_late`: whether
    late and lost pictures keep no newcomer away."""

    cores: float
    table: Mapping[str, float]
    when_late: bool = False
    ratio: float = 1.0
    """What the engines here take, to the table."""
    measured: bool = False
    """Whether `ratio` was measured."""
    _averages: dict[str, _Average] = field(default_factory=dict)
    _late: deque[float] = field(default_factory=deque)
    _lost: deque[float] = field(default_factory=deque)

    def observe(self, loads: Sequence[EngineLoad], now: float) -> None:
        """Takes the newest reports of all engines that run. `now`: monotonic seconds."""
        running = {load.ref for load in loads}
        for ref in self._averages.keys() - running:
            del self._averages[ref]
        if not loads:
            # Nothing on air can lose a picture.
            self._late.clear()
            self._lost.clear()
        # However many engines say so, it is one machine that was late in this second.
        latest = max((load.late for load in loads if self._add(load)), default=0.0)
        if latest >= LATE:
            self._late.append(now)
        if latest >= LOST:
            self._lost.append(now)
        for times in (self._late, self._lost):
            while times and times[0] < now - PRESSURE_WINDOW:
                times.popleft()
        steady = [one for one in self._averages.values() if one.reports >= STEADY_REPORTS]
        expected = sum(self.table.get(one.key, UNKNOWN_COST) for one in steady)
        if expected > 0:
            measured = sum(one.cores for one in steady) / expected
            self.ratio, self.measured = min(max(measured, LEAST_RATIO), MOST_RATIO), True

    def _add(self, load: EngineLoad) -> bool:
        """Returns False for a report that was seen before."""
        known = self._averages.setdefault(load.ref, _Average(load.key, float("-inf")))
        if load.at <= known.at:
            return False
        known.at = load.at
        if load.steady:
            known.cores = load.cores if known.reports == 0 else known.cores + SMOOTHING * (load.cores - known.cores)
            known.reports += 1
        return True

    @property
    def admits(self) -> Admits:
        """Which newcomers are taken now."""
        if self.when_late:
            return "all"
        if len(self._lost) >= LATE_REPORTS:
            return "none"
        return "lowered" if len(self._late) >= LATE_REPORTS else "all"

    @property
    def costs(self) -> dict[str, float]:
        """The cores that a broadcast takes here, by `cost_key`."""
        return self._costs_at(self.ratio)

    def machine(self, peers: Sequence[Machine] = (), *, resumed: bool = False) -> Machine:
        """The machine as newcomers find it now. `peers`: the same machine, as its other controllers describe it.

        The one that is furthest behind counts. A controller that has not measured goes by the highest costs of its peers;
        without any, and when it has `resumed` engines, by the highest that there can be.
        """
        costs = self.costs
        # A peer that has not measured either says what the table says.
        known = [peer for peer in peers if peer.costs != self._costs_at(1.0)]
        if not self.measured and known:
            costs = {
                key: max((peer.costs[key] for peer in known if key in peer.costs), default=cost)
                for key, cost in costs.items()
            }
        elif not self.measured and resumed:
            costs = self._costs_at(MOST_RATIO)
        said: list[Admits] = [self.admits] if self.when_late else [self.admits, *(peer.admits for peer in peers)]
        return Machine(self.cores, costs, max(said, key=_BY_PRESSURE.index))

    def _costs_at(self, ratio: float) -> dict[str, float]:
        return {key: round(cost * ratio, 4) for key, cost in self.table.items()}
