"""Runs `butai import` in a terminal: a progress bar, a table of outcomes, an exit status.

The import itself is `butai.assets.imports.importer`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from butai.assets.imports.bucket_listing import BucketListing
from butai.assets.imports.importer import BATCH, Importer
from butai.assets.imports.listing_formats import ListingError, ListingFormat
from butai.assets.imports.listings import FileListing, Listing
from butai.assets.imports.outcomes import ImportOptions, ImportStopped, ImportVerdict, Outcome, Tally
from butai.assets.storage.client import Store
from butai.config import Settings
from butai.database import Database, head_revision
from butai.errors import Code, InvalidRequest
from butai.identity.caller import chosen_user_id

log = structlog.get_logger(__name__)

TELL_SECONDS = 30.0
"""Seconds between two log lines, which replace the bar where there is no terminal."""

_HERE = {
    Code.KEY_INVALID: "Not under vrm/ models/ animations/ fbx/ bgm/ hdr/ scene/, or not a valid key",
    Code.TYPE_UNSUPPORTED: "A kind of file that its folder does not accept",
    Code.STORE_UNAVAILABLE: "The store did not answer; run the import again",
    Code.STORE_TIMEOUT: "The store took too long; run the import again",
    Code.FILE_TOO_LARGE: "A _meta.json of more than 1 MiB",
    Code.SIZE_MISMATCH: "Changed while it was checked",
}
"""Texts for codes that mean something more specific in an import than in the catalogue."""


@dataclass(frozen=True, slots=True)
class ListingSource:
    """The source of the object names: a file (`-` is standard input), or, with `path` None, the bucket itself."""

    path: Path | None
    format: str | None = None
    columns: str | None = None

    def open(self, store: Store, prefix: str) -> Listing:
        """Opens the listing. Raises `ListingError` for a file that is not a listing."""
        if self.path is None:
            return BucketListing(store, prefix)
        return FileListing(self.path, ListingFormat(self.format) if self.format else None, self.columns)


def run_import(settings: Settings, source: ListingSource, options: ImportOptions, report: Path | None) -> int:
    """Imports all objects that `source` names. Returns the exit status: 0, 1 when an object failed or the run could not
    end, 130 when it was interrupted."""
    tally, trouble, status = Tally(), "", 0
    with ExitStack() as opened:
        file: TextIO | None = None
        try:
            if options.owner is not None:
                chosen_user_id(options.owner)
            if report is not None:
                file = opened.enter_context(report.open("w", encoding="utf-8"))
        except InvalidRequest:
            return _complain("--owner is a user's id: 1 to 255 printable characters")
        except OSError as error:
            return _complain(f"{report} cannot be written: {error.strerror}")
        began = time.monotonic()
        try:
            asyncio.run(_run(settings, source, options, file, tally))
        except (ListingError, ImportStopped) as error:
            trouble = str(error)
        except KeyboardInterrupt:
            trouble, status = "interrupted: run it again to continue", 130
    _show(tally, options, time.monotonic() - began)
    if trouble:
        return _complain(trouble) and (status or 1)
    return 1 if tally.of(Outcome.FAILED) else 0


def _complain(what: str) -> int:
    print(f"butai: {what}", file=sys.stderr)
    return 1


async def _run(
    settings: Settings, source: ListingSource, options: ImportOptions, report: TextIO | None, tally: Tally
) -> None:
    async with Database(settings.database) as database, Store(settings.store) as store:
        if not await database.ready():
            raise ImportStopped(
                f"the database does not answer, or is not at {head_revision()}: run butai migrate, or ask butai doctor"
            )
        listing = source.open(store, options.strip_prefix)
        importer = Importer(database, store, options, _writer(report), tally)
        with _ProgressBar(listing) as show:
            await importer.run(listing.batches(BATCH), show)


def _writer(report: TextIO | None) -> Callable[[ImportVerdict], None]:
    def write(verdict: ImportVerdict) -> None:
        if report is None or verdict.outcome is Outcome.ADDED:
            return
        line = {"key": verdict.entry.key, "outcome": verdict.outcome, "reason": verdict.reason}
        if verdict.detail:
            line["detail"] = verdict.detail
        # ASCII: keys may contain bytes that are not Unicode.
        report.write(json.dumps(line) + "\n")

    return write


class _ProgressBar:
    """A bar on a terminal, else an occasional line in the log. As a context manager, yields the callback for
    progress."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._told = time.monotonic()
        self._bar = Progress(
            TextColumn("import"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("import", total=None, told="")

    def __enter__(self) -> Callable[[Tally], None]:
        self._bar.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _show(self, tally: Tally) -> None:
        done, total = self._listing.progress()
        counts = {outcome.value: tally.of(outcome) for outcome in Outcome}
        told = f"{tally.scanned} scanned, " + ", ".join(f"{count} {name}" for name, count in counts.items())
        self._bar.update(self._task, completed=done, total=total, told=told)
        if self._bar.disable and time.monotonic() >= self._told + TELL_SECONDS:
            self._told = time.monotonic()
            log.info("import.progress", scanned=tally.scanned, **counts)


def _show(tally: Tally, options: ImportOptions, seconds: float) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("scanned", str(tally.scanned), f"in {seconds:.1f} s")
    would = "would be " if options.dry_run else ""
    for outcome in Outcome:
        who = f", {options.visibility}" + (f", of {options.owner}" if options.owner else ", without an owner")
        table.add_row(would + outcome, str(tally.of(outcome)), who.lstrip(", ") if outcome is Outcome.ADDED else "")
        for (kind, reason), count in sorted(tally.counts.items(), key=lambda each: -each[1]):
            if kind is outcome and reason:
                table.add_row(f"  {reason}", str(count), _HERE.get(Code(reason), Code(reason).meaning))
    # Wide enough for the longest text where the width is unknown: a log file, a pipe.
    Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 140).print(table)
