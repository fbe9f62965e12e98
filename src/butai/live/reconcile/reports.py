"""Keeps what an engine reported of one broadcast, without late and repeated reports. Pure.

Reports are kept here until they are written, so an unreachable database loses none that count: the newest `KEPT`
reports of each output, in their order.

A report belongs to one attempt. One of an older attempt is dropped. Within an attempt, phases only advance:
`connecting`, `publishing`, then `live` and `stalled` alternating by the numbers that their engine gave them, and nothing
after `failed` or `ended`. No clock is asked for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from uuid import UUID

Phase = Literal["connecting", "publishing", "live", "stalled", "failed", "ended"]
SourcePhase = Literal["connecting", "waiting", "live", "lost", "ended", "failed"]

_RANK: dict[Phase, int] = {"connecting": 0, "publishing": 1, "live": 2, "stalled": 2, "failed": 3, "ended": 3}
OVER: frozenset[Phase] = frozenset({"failed", "ended"})
KEPT = 16
"""Unwritten reports that are kept for each output."""


@dataclass(frozen=True, slots=True)
class OutputReport:
    """An attempt's phase. `detail`: for operators, redacted. `ended` of attempt 0 means that the engine does not know
    the output. `not_before`: with `failed`, the earliest moment at which the engine takes another attempt.
    `if_key_worked`: the code in place of `code` for a key that the platform accepted before in this broadcast; empty
    for the same."""

    output_id: UUID
    attempt: int
    phase: Phase
    at: float
    code: str = ""
    detail: str = ""
    not_before: float = 0.0
    if_key_worked: str = ""
    number: int = 0
    """Rises with each report of one engine; 0 for an engine that does not count: then the order of arrival holds."""
    age: float | None = None
    """Seconds since it happened, where the engine knows that better than `at`."""


@dataclass(frozen=True, slots=True)
class SourceReport:
    """The phase of the host's media. `told_ready`: whether this engine has had what outputs may wait for (a picture);
    None: it does not tell."""

    phase: SourcePhase
    at: float
    code: str = ""
    detail: str = ""
    told_ready: bool | None = None
    age: float | None = None

    @property
    def ready(self) -> bool:
        """Whether outputs need not wait: an engine that does not tell has media of some kind."""
        return self.phase in ("live", "lost") if self.told_ready is None else self.told_ready


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Whether the server of an output that waits can be reached. `code`: why not; empty if it can."""

    output_id: UUID
    code: str = ""


@dataclass(frozen=True, slots=True)
class MetricsReport:
    """The metrics of one output, one report each second; `data` as the API shows it."""

    output_id: UUID
    attempt: int
    at: float
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EngineGone:
    """The engine has ended and carries nothing. `code`: `egress_crashed` or `egress_lost`; empty after an ordered
    end."""

    at: float
    code: str = ""
    detail: str = ""
    age: float | None = None


@dataclass(frozen=True, slots=True)
class StartFailed:
    """An engine could not be started."""

    at: float
    detail: str = ""


EngineReport = OutputReport | SourceReport | CheckReport | MetricsReport | EngineGone
_Dated = OutputReport | SourceReport | EngineGone


def dated(report: _Dated, now: float) -> _Dated:
    """The report with its time by the clock of `now`: an engine tells an age, since clocks may be set meanwhile."""
    return report if report.age is None else replace(report, at=now - report.age)


@dataclass(frozen=True, slots=True)
class Observed:
    """A snapshot of the reports. `ref`: the identity of the running engine, or of the one that ended last."""

    engine: Literal["absent", "starting", "running"] = "absent"
    held_since: float | None = None
    """When this controller took the broadcast. Times in the rows from before may be of a clock that was set since."""
    ref: str | None = None
    since: float | None = None
    configured: bool = False
    latest: Mapping[UUID, OutputReport] = field(default_factory=dict)
    """The newest report of each output."""
    reports: tuple[OutputReport, ...] = ()
    """Reports that are not written yet, in their order."""
    source: SourceReport | None = None
    gone: EngineGone | None = None
    start_failed: StartFailed | None = None
    ordered: Mapping[UUID, int] = field(default_factory=dict)
    """The attempt that this engine was last ordered to start, by output."""
    stops: Mapping[UUID, float] = field(default_factory=dict)
    """When this engine was ordered to stop an output."""
    checking: tuple[tuple[UUID, str], ...] = ()
    """The outputs whose servers this engine was last ordered to check, with their ingest URLs."""
    checks: Mapping[UUID, CheckReport] = field(default_factory=dict)
    """The newest result for each of them."""
    stop_sent_at: float | None = None
    killed: bool = False

    def carries(self, output_id: UUID) -> int | None:
        """The attempt of this output that the engine runs, or was ordered to run and has not reported on yet."""
        if self.engine != "running":
            return None
        latest, ordered = self.latest.get(output_id), self.ordered.get(output_id, 0)
        if latest is not None and latest.attempt >= ordered:
            return None if latest.phase in OVER else latest.attempt
        return ordered or None


@dataclass
class Observations:
    """Records reports and orders, and gives snapshots of them."""

    held_since: float | None = None
    _engine: Literal["absent", "starting", "running"] = "absent"
    _ref: str | None = None
    _since: float | None = None
    _configured: bool = False
    _latest: dict[UUID, OutputReport] = field(default_factory=dict)
    _reports: list[OutputReport] = field(default_factory=list)
    _source: SourceReport | None = None
    _gone: EngineGone | None = None
    _start_failed: StartFailed | None = None
    _ordered: dict[UUID, int] = field(default_factory=dict)
    _stops: dict[UUID, float] = field(default_factory=dict)
    _checking: tuple[tuple[UUID, str], ...] = ()
    _checks: dict[UUID, CheckReport] = field(default_factory=dict)
    _stop_sent_at: float | None = None
    _killed: bool = False

    def snapshot(self) -> Observed:
        """The present state, as a value that later records do not change."""
        return Observed(
            engine=self._engine,
            held_since=self.held_since,
            ref=self._ref,
            since=self._since,
            configured=self._configured,
            latest=dict(self._latest),
            reports=tuple(self._reports),
            source=self._source,
            gone=self._gone,
            start_failed=self._start_failed,
            ordered=dict(self._ordered),
            stops=dict(self._stops),
            checking=self._checking,
            checks=dict(self._checks),
            stop_sent_at=self._stop_sent_at,
            killed=self._killed,
        )

    def mark_written(self, seen: Observed) -> None:
        """Drops the reports of `seen`: they are in the tables."""
        done = {id(report) for report in seen.reports}
        self._reports = [report for report in self._reports if id(report) not in done]
        if self._gone is seen.gone:
            self._gone = None
        if self._start_failed is seen.start_failed:
            self._start_failed = None

    def engine_starting(self) -> None:
        """Records that an engine is being started."""
        self._engine, self._start_failed = "starting", None
        self._stop_sent_at, self._killed = None, False

    def engine_failed(self, failed: StartFailed) -> None:
        """Records that it could not be started."""
        self._engine, self._start_failed = "absent", failed

    def engine_dropped(self) -> None:
        """Records that its start was cancelled."""
        self._engine = "absent"

    def engine_running(self, ref: str, at: float) -> None:
        """Records that an engine answers. The reports of one that is found again after a broken connection are kept."""
        if ref != self._ref:
            self._latest.clear()
            self._reports.clear()
            self._since, self._source = at, None
        self._engine, self._ref, self._configured = "running", ref, False
        self._ordered.clear()
        self._stops.clear()
        self._checking = ()
        self._checks.clear()
        self._stop_sent_at, self._killed = None, False

    def record(self, report: _Dated | CheckReport) -> bool:
        """Records a report of the running engine. Returns whether it changed the state."""
        match report:
            case OutputReport():
                return self._record_output(report)
            case SourceReport():
                known = self._source
                if known is not None and (
                    known.phase in ("ended", "failed")
                    or (known.phase, known.code, known.ready) == (report.phase, report.code, report.ready)
                ):
                    return False
                self._source = report
            case CheckReport():
                known = self._checks.get(report.output_id)
                self._checks[report.output_id] = report
                return known != report
            case EngineGone():
                if self._engine != "running":
                    return False
                self._engine, self._gone, self._configured = "absent", report, False
        return True

    def ordered_configuration(self) -> None:
        """Records that the engine was sent its broadcast and settings."""
        self._configured = True

    def ordered_checks(self, outputs: tuple[tuple[UUID, str], ...]) -> None:
        """Records that the engine was ordered to check the servers of these outputs, and of no others."""
        self._checking = outputs

    def ordered_start(self, output_id: UUID, attempt: int) -> None:
        """Records that the engine was ordered to start an attempt."""
        self._ordered[output_id] = attempt
        self._stops.pop(output_id, None)

    def ordered_stop(self, output_id: UUID, at: float) -> None:
        """Records that the engine was ordered to stop an output."""
        self._stops[output_id] = at

    def ordered_end(self, at: float, *, killed: bool = False) -> None:
        """Records that the engine was ordered to end, or killed."""
        self._stop_sent_at = self._stop_sent_at or at
        self._killed = self._killed or killed

    def _record_output(self, report: OutputReport) -> bool:
        if self._engine != "running":
            return False
        known = self._latest.get(report.output_id)
        if report.attempt == 0:
            if report.phase != "ended" or known is not None:
                return False
        elif known is not None and not _advances(known, report):
            return False
        self._latest[report.output_id] = report
        if report.attempt == 0:
            self._ordered.pop(report.output_id, None)
        self._reports.append(report)
        self._forget_oldest(report.output_id)
        return True

    def _forget_oldest(self, output_id: UUID) -> None:
        own = [index for index, report in enumerate(self._reports) if report.output_id == output_id]
        if len(own) > KEPT:
            del self._reports[own[0]]


def _advances(known: OutputReport, report: OutputReport) -> bool:
    if report.attempt != known.attempt:
        return report.attempt > known.attempt
    before, after = _RANK[known.phase], _RANK[report.phase]
    if before == after:
        newer = report.number > known.number or report.number == 0
        return known.phase != report.phase and known.phase not in OVER and newer
    return after > before
