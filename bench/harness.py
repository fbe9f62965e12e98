"""How the benchmarks measure: variants in turn (A, B, C, A, B, C, …), ratios per round, their median and spread.

A figure by itself says more about the machine and its neighbours than about the code, so every statement is a ratio to
a peer or a limit that ran seconds before or after. Used by all of `bench/`; `servers` starts what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

HERE = Path(__file__).parent
RESULTS = HERE / "results"

Figures = dict[str, float]
"""What one run of one variant gave, by name: `rps`, `p99_ms`, `cpu_us`, …"""


QUIET_CORES = 0.3
"""A round is disturbed when others keep more cores busy than this during one of its runs."""


class Failed(Exception):
    """A run that measured nothing: errors among its answers, a server that did not start."""


# Load


def cpu_seconds(pid: int) -> float:
    """CPU (user and system) that a process and all its descendants, also those that ended, have used."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess as error:
        raise Failed(f"process {pid} has ended") from error
    total = 0.0
    for process in tree:
        try:
            # A parent's `children_*` are those it has waited for, which are in the tree no longer.
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def memory_bytes(pid: int) -> int:
    """Resident memory of one process."""
    return psutil.Process(pid).memory_info().rss


@contextmanager
def cpu_of(pids: Mapping[str, int], into: Figures) -> Generator[None]:
    """Adds the CPU seconds that each process tree uses in the block, under its name.

    `foreign_cores`: how many cores were busy meanwhile with what is not ours. A run where that is high is worth little.
    """
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    ours, busy, began = cpu_seconds(os.getpid()), _busy_seconds(), time.monotonic()
    yield
    seconds = time.monotonic() - began
    into["foreign_cores"] = max(0.0, (_busy_seconds() - busy) - (cpu_seconds(os.getpid()) - ours)) / seconds
    for name, pid in pids.items():
        into[name] = cpu_seconds(pid) - before[name]


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


_WRK = """
local requests = {}
for line in io.lines(os.getenv("WRK_REQUESTS")) do
  requests[#requests + 1] = line
end
local formed = {}
local n
function init(args)
  math.randomseed(tonumber(args[1]))
  for i, path in ipairs(requests) do formed[i] = wrk.format("GET", path) end
  n = #formed
end
function request()
  return formed[math.random(n)]
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("FIGURES %d %d %d %d %d %d %d %d %d %d %d\\n", summary.requests, summary.duration,
    summary.bytes, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def wrk(
    origin: str,
    paths: Sequence[str],
    *,
    headers: Mapping[str, str] | None = None,
    connections: int = 16,
    seconds: float = 5.0,
    seed: int = 1,
    pids: Mapping[str, int] | None = None,
) -> Figures:
    """Loads one server with random requests out of `paths`, from one thread.

    `origin` is `http://127.0.0.1:8080`. Figures: `rps`, `p50_ms`, `p99_ms`, `max_ms`, `bytes` (each answer, with its
    headers), `bytes_per_second`, and for each of `pids` its CPU: `NAME_us` for each request, `NAME_s_per_gb`.
    Raises `Failed` when any answer is an error: 4xx and 5xx (wrk counts no others; that an answer is what it should
    be, `servers` checks before), a broken or late one.
    """
    figures: Figures = {}
    used: Figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        script, requests = Path(scratch, "load.lua"), Path(scratch, "requests")
        script.write_text(_WRK)
        requests.write_text("\n".join(paths))
        sent = [part for name, value in (headers or {}).items() for part in ("-H", f"{name}: {value}")]
        # Whole seconds: wrk knows no others.
        argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(script)]
        with cpu_of(pids or {}, used):
            ended = subprocess.run(
                [*argv, *sent, origin, "--", str(seed)],
                capture_output=True,
                text=True,
                timeout=seconds + 60,
                env={"PATH": os.environ["PATH"], "WRK_REQUESTS": str(requests)},
                check=False,
            )
    match = re.search(r"^FIGURES (.*)$", ended.stdout, re.MULTILINE)
    if ended.returncode or not match:
        raise Failed(f"wrk: {ended.stderr or ended.stdout}")
    count, micros, size, connect, read, write, status, timeout, p50, p99, most = map(int, match[1].split())
    if connect or read or write or status or timeout or not count:
        raise Failed(
            f"{origin}: {count} answers, of which {status} were errors; {connect} connections refused, "
            f"{read} reads and {write} writes broken, {timeout} late"
        )
    figures["rps"] = count / micros * 1e6
    figures["p50_ms"], figures["p99_ms"], figures["max_ms"] = p50 / 1e3, p99 / 1e3, most / 1e3
    figures["bytes"] = size / count
    figures["bytes_per_second"] = size / micros * 1e6
    figures["foreign_cores"] = used.pop("foreign_cores")
    for name, cpu in used.items():
        figures[f"{name}_us"] = cpu / count * 1e6
        figures[f"{name}_s_per_gb"] = cpu / size * 1e9
    return figures


# Rounds and ratios


@dataclass(frozen=True)
class Ratio:
    """One statement: `figure` of variant `of` divided by that of `to`, round by round.

    `at_least` or `at_most`: the target, if there is one. `of_figure`, `to_figure` name other figures than `figure`.
    """

    label: str
    of: str
    to: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None
    to_figure: str | None = None

    def of_round(self, figures: Mapping[str, Figures]) -> float:
        return figures[self.of][self.figure] / figures[self.to][self.to_figure or self.figure]


@dataclass(frozen=True)
class Limit:
    """One statement about a variant by itself (memory, leftovers, CPU per GB), with its target.

    `less` names a figure to take off, of variant `less_of` (such as the direct time to first byte). `worst`: the target
    is for the worst of all rounds, not for their median.
    """

    label: str
    of: str
    figure: str
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    less_of: str | None = None
    worst: bool = False

    def of_round(self, figures: Mapping[str, Figures]) -> float:
        value = figures[self.of][self.figure]
        return value - figures[self.less_of][self.figure] if self.less_of else value


@dataclass
class Benchmark:
    """One benchmark's statements and what came out. `shown`: which figures of a run to print, all when empty."""

    name: str
    about: str
    statements: Sequence[Ratio | Limit]
    shown: Sequence[str] = ()
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rounds: list[dict[str, Figures]] = field(default_factory=list)
    disturbed: list[dict[str, Figures]] = field(default_factory=list)

    def run(self, variants: Mapping[str, Callable[[int], Figures]], rounds: int, *, timed: bool = True) -> None:
        """Runs each variant once a round, in turn. A variant is called with the round's number.

        When it is `timed`, each run first waits a while for the machine to be quiet, and a round during which others
        kept it busy is set aside (its figures stay in the JSON) and made up for, as long as there are not more of
        those than asked for; if there are, all rounds count.
        """
        print(f"\n{self.name}: {self.about}")
        for name, text in self.versions.items():
            print(f"  {name}: {text}")
        number = 0
        while len(self.rounds) < rounds:
            number += 1
            figures: dict[str, Figures] = {}
            for name, variant in variants.items():
                if timed:
                    _wait_until_quiet()
                figures[name] = variant(number)
                chosen = self.shown or figures[name]
                shown = "  ".join(f"{key} {_short(value)}" for key, value in figures[name].items() if key in chosen)
                print(f"  round {number}  {name:<28} {shown}", flush=True)
            others = max(run.get("foreign_cores", 0.0) for run in figures.values())
            if not timed or others <= QUIET_CORES:
                self.rounds.append(figures)
                continue
            print(f"  round {number}: others used {others:.2f} cores")
            self.disturbed.append(figures)
            if len(self.disturbed) > rounds:
                self.notes.append("The machine was busy with other things throughout: all rounds count.")
                self.rounds += self.disturbed
                self.disturbed.clear()

    def report(self) -> bool:
        """Prints the statements, writes `results/NAME.json`. Returns whether all targets are met."""
        aside = f", {len(self.disturbed)} disturbed ones set aside" if self.disturbed else ""
        print(f"\n  {self.name}: median [min, max] of {len(self.rounds)} rounds{aside}")
        lines = []
        for statement in self.statements:
            values = [statement.of_round(figures) for figures in self.rounds]
            median = statistics.median(values)
            low, high = statement.at_least, statement.at_most
            worst = isinstance(statement, Limit) and statement.worst
            least, most = (min(values), max(values)) if worst else (median, median)
            met = (low is None or least >= low) and (high is None or most <= high)
            target = f"≥ {low:g}" if low is not None else f"≤ {high:g}" if high is not None else ""
            target += " (all)" if worst else ""
            unit = "×" if isinstance(statement, Ratio) else f" {statement.unit}"
            verdict = "" if not target else "met" if met else "MISSED"
            spread = f"[{_short(min(values))}, {_short(max(values))}]"
            print(f"  {statement.label:<62} {_short(median):>8}{unit:<7} {spread:<18} {target:<12} {verdict}")
            lines.append(
                asdict(statement)
                | {"median": median, "min": min(values), "max": max(values), "values": values, "met": met}
            )
        for note in self.notes:
            print(f"  {note}")
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        path.write_text(
            json.dumps(
                {
                    "name": self.name,
                    "about": self.about,
                    "at": datetime.now(UTC).isoformat(timespec="seconds"),
                    "machine": machine(),
                    "versions": self.versions,
                    "notes": self.notes,
                    "statements": lines,
                    "rounds": self.rounds,
                    "disturbed_rounds": self.disturbed,
                },
                indent=1,
                ensure_ascii=False,
            )
        )
        print(f"  → {path.relative_to(HERE.parent)}")
        return all(line["met"] for line in lines)


def _wait_until_quiet(patience: float = 10.0) -> None:
    """Waits while others keep the machine busy, at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        seen: Figures = {}
        with cpu_of({}, seen):
            time.sleep(0.3)
        if seen["foreign_cores"] <= QUIET_CORES:
            return


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# The run


def machine() -> dict[str, str | float]:
    """What the figures were measured on."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 1024**3),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def versions(*distributions: str) -> dict[str, str]:
    """Installed versions of Python distributions."""
    return {name: version(name) for name in distributions}


def in_words(found: Mapping[str, str]) -> str:
    """`fastapi 0.165.0, uvicorn 0.54.0`."""
    return ", ".join(f"{name} {number}" for name, number in found.items())


def need(*programs: str) -> None:
    """Raises `Failed` for a program that is not installed."""
    for program in programs:
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"):
            raise Failed(f"{program} is not installed (Debian: apt-get install wrk nginx-light nodejs npm)")


def tool_version(*argv: str) -> str:
    """The first line that a program says about itself."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    ended = subprocess.run(
        argv, capture_output=True, text=True, timeout=30, check=False, env={**os.environ, "PATH": path}
    )
    return next(iter((ended.stdout + ended.stderr).strip().splitlines()), "?")


def arguments(about: str, *, rounds: int = 3, seconds: float = 5.0) -> argparse.Namespace:
    """The options that all benchmarks have (`argument_parser`)."""
    return argument_parser(about, rounds=rounds, seconds=seconds).parse_args()


def argument_parser(about: str, *, rounds: int = 3, seconds: float = 5.0) -> argparse.ArgumentParser:
    """`--rounds`, `--seconds` (of each run), `--strict` (a missed target is exit status 1)."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target is missed")
    return parser


def main(measure: Callable[[], bool], *, minutes: float, strict: bool = False) -> None:
    """Runs a benchmark, within a time: what hangs is ended, with all that it started. Exits the process."""

    def late(*_: object) -> None:
        raise Failed(f"not done after {minutes:g} minutes")

    signal.signal(signal.SIGALRM, late)
    # Ctrl-C and an end by the caller take the servers with them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.alarm(round(minutes * 60))
    try:
        met = measure()
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        sys.exit(2)
    sys.exit(1 if strict and not met else 0)
