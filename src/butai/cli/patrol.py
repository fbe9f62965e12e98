"""Runs `butai patrol` in a terminal: progress while it runs, a line for each outcome, an exit status.

The patrol itself is `butai.assets.patrol`.
"""

from __future__ import annotations

import asyncio
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from butai.assets.patrol import queries
from butai.assets.patrol.lock import PatrolBusy
from butai.assets.patrol.progress import RunProgress
from butai.assets.patrol.run import Patrol
from butai.assets.storage.client import Store
from butai.audit import actors
from butai.config import AlertSettings, Settings
from butai.database import Database
from butai.errors import Unavailable


def run_patrol(settings: Settings, *, dry_run: bool, everything: bool) -> int:
    """Runs the patrol. Returns the exit status: 1 when it stopped early, 2 when another run is in progress."""
    console = Console(stderr=True)
    try:
        run = asyncio.run(_run(settings, dry_run, everything, console))
    except PatrolBusy:
        console.print("Another patrol run is in progress: butai patrol status")
        return 2
    except Unavailable as error:
        console.print(f"The run was interrupted: {error.detail}. The next run continues it.")
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted. The next run continues it.")
        return 130
    counts = (
        (run.found, "there"),
        (run.lost, "missing"),
        (run.suspected, "suspect: checked again later"),
        (run.recovered, "there again"),
        (run.mismatched, "different from the index"),
        (run.undecided, "without a clear answer"),
    )
    told = ", ".join(f"{count} {what}" for count, what in counts if count) or "nothing to check"
    console.print(f"{run.checked} files checked: {told}.{' Nothing was changed.' if dry_run else ''}")
    if run.state == "stopped":
        console.print(f"Stopped ({run.stop_code}): {run.detail}. No file of the last batch was marked.")
        return 1
    return 0


async def _run(settings: Settings, dry_run: bool, everything: bool, console: Console) -> RunProgress:
    columns = (
        TextColumn("Patrol"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[amiss]} amiss"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("", total=None, amiss=0)

        def show_progress(run: RunProgress) -> None:
            amiss = run.lost + run.suspected + run.mismatched
            progress.update(bar, total=run.due, completed=run.checked, amiss=amiss)

        async with Database(settings.database) as database, Store(settings.store) as store:
            patrol = Patrol(database, store, settings.patrol)
            return await patrol.run(
                "asked",
                dry_run=dry_run,
                everything=everything,
                requested_by=actors.COMMAND_LINE,
                on_progress=show_progress,
            )


async def show(database: Database, alerts: AlertSettings) -> None:
    """Prints the last runs and the open findings."""
    console = Console()
    summary = await queries.summary(database, alerts.stale_hours)
    table = Table("run", "kind", "state", "began", "looked for", "missing", "mismatched", box=None)
    for run in await queries.runs(database, 10):
        state = run.stop_code or run.state
        kind = f"{run.kind}{' (dry)' if run.dry_run else ''}"
        cells = (run.id, kind, state, f"{run.started_at:%Y-%m-%d %H:%M:%S}", f"{run.checked} of {run.due}")
        table.add_row(*(str(cell) for cell in (*cells, run.missing, run.mismatched)))
    console.print(table)
    if summary.stale:
        console.print(f"No run has finished for {alerts.stale_hours:g} hours: is a worker running?")
    for finding in await queries.findings(database, 50):
        name = finding.detail.get("s3_key", finding.object_key)
        console.print(f"{finding.id}  {finding.kind}  {name}  since {finding.found_at:%Y-%m-%d %H:%M}")
