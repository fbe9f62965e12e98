"""What an engine shows of one broadcast: reports as they come, without what is late or doubled.

Pure. Reports wait here until they are written, so
a database that is away loses nothing that matters: of each output at most `KEPT` reports, the newest, in their order.

A report speaks of one attempt. Of an older attempt it is dropped; of the same one it must lead further: `connecting`,
`publishing`, then `live` and `stalled` in turn (by their time), and nothing after `failed` or `ended`. That rule needs
no clock but for the turn of `live` and `stalled`, so a clock that is set back hides no failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

Phase = Literal["connecting", "publishing", "live", "stalled", "failed", "ended"]
SourcePhase = Literal["connecting", "waiting", "live", "lost", "ended", "failed"]

_RANK: dict[Phase, int] = {"connecting": 0, "publishing": 1, "live": 2, "stalled": 2, "failed": 3, "ended": 3}
OVER: frozenset[Phase] = frozenset({"failed", "ended"})
KEPT = 16
"""Reports of one output that wait to be written."""


@dataclass(frozen=True, slots=True)
class OutputReport:
    """An output's attempt is in this phase. `detail`: for operators, redacted. `ended` of attempt 0: the engine knows
    nothing of this output, so nothing of it runs. `not_before`: when `failed`, the engine wants no other attempt earlier."""

    output_id: UUID
    attempt: int
    phase: Phase
    at: float
    code: str = ""
    detail: str = ""
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class SourceReport:
    """The host's media is in this phase."""

    phase: SourcePhase
    at: float
    code: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class MetricsReport:
    """The figures of one output in one second, as they are shown."""

    output_id: UUID
    attempt: int
    at: float
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EngineGone:
    """The engine has ended and carries nothing any more. `code`: `egress_crashed`, `egress_lost`; empty when it was told
    to end."""

    at: float
    code: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StartFailed:
    """No engine came up."""

    at: float
    detail: str = ""


Heard = OutputReport | SourceReport | MetricsReport | EngineGone


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of the engine at one moment. `ref`: of the engine that runs, or of the one that is gone."""

    engine: Literal["absent", "starting", "running"] = "absent"
    ref: str | None = None
    since: float | None = None
    configured: bool = False
    latest: Mapping[UUID, OutputReport] = field(default_factory=dict)
    """The newest of each output."""
    reports: tuple[OutputReport, ...] = ()
    """Those that are not written yet, in their order."""
    source: SourceReport | None = None
    gone: EngineGone | None = None
    start_failed: StartFailed | None = None
    ordered: Mapping[UUID, int] = field(default_factory=dict)
    """The attempt that this engine was last told to start, by output."""
    stops: Mapping[UUID, float] = field(default_factory=dict)
    """When this engine was told to end an output."""
    stop_sent_at: float | None = None
    killed: bool = False

    def carries(self, output_id: UUID) -> int | None:
        """The attempt of this output that the engine runs, or was told to run and has not spoken of yet."""
        if self.engine != "running":
            return None
        latest, ordered = self.latest.get(output_id), self.ordered.get(output_id, 0)
        if latest is not None and latest.attempt >= ordered:
            return None if latest.phase in OVER else latest.attempt
        return ordered or None


@dataclass
class Observations:
    """The mutable side: told what happens, asked for a snapshot."""

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
    _stop_sent_at: float | None = None
    _killed: bool = False

    def snapshot(self) -> Observed:
        """What is known now."""
        return Observed(
            engine=self._engine,
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
            stop_sent_at=self._stop_sent_at,
            killed=self._killed,
        )

    def written(self, seen: Observed) -> None:
        """All that `seen` held is in the tables."""
        done = {id(report) for report in seen.reports}
        self._reports = [report for report in self._reports if id(report) not in done]
        if self._gone is seen.gone:
            self._gone = None
        if self._start_failed is seen.start_failed:
            self._start_failed = None

    def engine_starting(self) -> None:
        """An engine is on its way."""
        self._engine, self._start_failed = "starting", None
        self._stop_sent_at, self._killed = None, False

    def engine_failed(self, failed: StartFailed) -> None:
        """It did not come."""
        self._engine, self._start_failed = "absent", failed

    def engine_dropped(self) -> None:
        """It is no longer wanted, and was ended on its way."""
        self._engine = "absent"

    def engine_running(self, ref: str, at: float) -> None:
        """An engine answers. One that was known before, and comes back after a broken connection, keeps its reports."""
        if ref != self._ref:
            self._latest.clear()
            self._reports.clear()
            self._since, self._source = at, None
        self._engine, self._ref, self._configured = "running", ref, False
        self._ordered.clear()
        self._stops.clear()
        self._stop_sent_at, self._killed = None, False

    def heard(self, report: OutputReport | SourceReport | EngineGone) -> bool:
        """Takes in what the running engine says. Whether it is news."""
        match report:
            case OutputReport():
                return self._heard_of_output(report)
            case SourceReport():
                known = self._source
                if known is not None and (
                    known.phase in ("ended", "failed") or (known.phase, known.code) == (report.phase, report.code)
                ):
                    return False
                self._source = report
            case EngineGone():
                if self._engine != "running":
                    return False
                self._engine, self._gone, self._configured = "absent", report, False
        return True

    def ordered_configuration(self) -> None:
        """It was told what to carry."""
        self._configured = True

    def ordered_start(self, output_id: UUID, attempt: int) -> None:
        """It was told to start an attempt."""
        self._ordered[output_id] = attempt
        self._stops.pop(output_id, None)

    def ordered_stop(self, output_id: UUID, at: float) -> None:
        """It was told to end an output."""
        self._stops[output_id] = at

    def ordered_end(self, at: float, *, killed: bool = False) -> None:
        """It was told to end altogether, or made to."""
        self._stop_sent_at = self._stop_sent_at or at
        self._killed = self._killed or killed

    def _heard_of_output(self, report: OutputReport) -> bool:
        if self._engine != "running":
            return False
        known = self._latest.get(report.output_id)
        if report.attempt == 0:
            if report.phase != "ended" or known is not None:
                return False
        elif known is not None and not _leads_further(known, report):
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


def _leads_further(known: OutputReport, report: OutputReport) -> bool:
    if report.attempt != known.attempt:
        return report.attempt > known.attempt
    before, after = _RANK[known.phase], _RANK[report.phase]
    if before == after:
        return known.phase != report.phase and known.phase not in OVER and report.at > known.at
    return after > before
