"""Runs `butai reconcile` in a terminal: the differences between a listing and the index, and the actions taken."""

from __future__ import annotations

import asyncio

from rich.console import Console

from butai.assets.findings.reconcile import Comparison, ListingReconciler, ReconcileOptions
from butai.assets.findings.service import act, open_ids
from butai.assets.imports.listing_formats import ListingError
from butai.assets.patrol.finding_states import FindingAction, FindingKind
from butai.assets.storage.canary import StoreUnreliable
from butai.assets.storage.client import Store
from butai.audit import Origin, actors
from butai.cli.import_ import ListingSource
from butai.config import Settings
from butai.database import Database
from butai.errors import ButaiError, Conflict


def run_reconcile(
    settings: Settings, source: ListingSource, options: ReconcileOptions, action: FindingAction | None, limit: int
) -> int:
    """Compares, prints the result, and with an action acts on at most `limit` findings. Returns the exit status."""
    console = Console(stderr=True)
    try:
        return asyncio.run(_run(settings, source, options, action, limit, console))
    except (ListingError, StoreUnreliable) as error:
        console.print(f"Stopped: {error}")
    except ButaiError as error:
        console.print(f"Stopped: {error.detail}")
    except KeyboardInterrupt:
        console.print("Interrupted. Run it again at any time.")
        return 130
    return 1


async def _run(
    settings: Settings,
    source: ListingSource,
    options: ReconcileOptions,
    action: FindingAction | None,
    limit: int,
    console: Console,
) -> int:
    async with Database(settings.database) as database, Store(settings.store) as store:
        found = await ListingReconciler(database, store, settings.patrol, options).run(
            source.open(store, options.strip_prefix)
        )
        _show(found, options, console)
        if action is None or not options.write:
            return 0
        orphans = FindingKind.OBJECT_WITHOUT_ROW
        kinds = (orphans,) if action is FindingAction.ADOPT else (orphans, FindingKind.ROW_WITHOUT_OBJECT)
        done = refused = 0
        for finding_id in await open_ids(database, kinds, limit):
            try:
                await act(database, store, settings.assets, finding_id, action, Origin(actors.COMMAND_LINE))
                done += 1
            except Conflict as error:
                refused += 1
                console.print(f"finding {finding_id}: {error.detail}")
        console.print(f"{action}: {done} done, {refused} left as they are (at most {limit} in one run).")
        return 1 if refused else 0


def _show(found: Comparison, options: ReconcileOptions, console: Console) -> None:
    console.print(f"{found.listed} lines of the listing.")
    for count, names, what in (
        (found.unknown, found.unknown_keys, "objects have no row"),
        (found.absent, found.absent_keys, "rows have no object"),
    ):
        console.print(f"{count} {what}{':' if names else '.'}")
        for name in names:
            console.print(f"  {name}", markup=False, highlight=False)
        if count > len(names):
            console.print(f"  … and {count - len(names)} more")
    if found.ignored:
        console.print(f"{found.ignored} are ignored by an operator's decision.")
    if not options.write:
        console.print(
            "Nothing was written. With --apply these become findings, and --adopt, --trash or --ignore acts on them."
        )
