"""`butai import`, `reconcile` and `patrol`: the index compared with the store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer

from butai.cli.environment import fail, read_settings, with_database, with_services

app = typer.Typer()
patrol = typer.Typer(no_args_is_help=True, help="Checks that the store has every object of the index.")
app.add_typer(patrol, name="patrol")


@app.command("import")
def import_(
    listing: Annotated[
        Path | None,
        typer.Option(
            help="A listing: an S3 Inventory report (manifest.json, or one of its CSVs), the output of "
            "aws s3 ls --recursive or rclone lsjson -R, or a CSV with a column key. - reads standard input."
        ),
    ] = None,
    list_bucket: Annotated[bool, typer.Option("--list", help="List the bucket itself, where that is allowed.")] = False,
    listing_format: Annotated[
        Literal["inventory", "aws-ls", "rclone", "csv"] | None,
        typer.Option("--format", help="The listing's format, where it is not recognised."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="The columns of an inventory's CSV without its manifest: 'Bucket, Key, Size'.")
    ] = None,
    strip_prefix: Annotated[
        str | None,
        typer.Option(
            help="The prefix of object keys that public keys do not have; objects without it are left out. "
            "BUTAI_S3_PREFIX when not given."
        ),
    ] = None,
    add_prefix: Annotated[
        str, typer.Option(help="The prefix that the listing's keys lack, as after rclone lsjson bucket/folder.")
    ] = "",
    owner: Annotated[
        str | None,
        typer.Option(help="The owner of the files. Without it they are the studio's, which only operators change."),
    ] = None,
    visibility: Annotated[
        Literal["public", "private"] | None,
        typer.Option(
            help="Who may list and read them. By default public without --owner, as in a studio whose bucket is public "
            "(a private file without an owner is visible to operators only); BUTAI_DEFAULT_VISIBILITY with one."
        ),
    ] = None,
    check_content: Annotated[
        bool, typer.Option("--check-content", help="Also compare each file's first bytes with its name.")
    ] = False,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Most objects a second.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write one line of JSON for each object that was not added.")
    ] = None,
) -> None:
    """Fills the index from an existing bucket. Copies nothing, and can be run again at any time.

    Imported objects become Butai's: purging or replacing an asset deletes its object (docs/import.md).
    """
    from butai.assets.imports.outcomes import ImportOptions
    from butai.cli.import_ import ListingSource, run_import

    if (listing is None) is not list_bucket:
        fail("name a source: --listing FILE, or --list to list the bucket")
    settings = with_services(read_settings())
    options = ImportOptions(
        visibility=visibility or ("public" if owner is None else settings.assets.default_visibility),
        owner=owner,
        strip_prefix=settings.store.prefix if strip_prefix is None else strip_prefix,
        add_prefix=add_prefix,
        check_content=check_content,
        rate=rate,
        dry_run=dry_run,
    )
    raise SystemExit(run_import(settings, ListingSource(listing, listing_format, columns), options, report))


@app.command()
def reconcile(
    listing: Annotated[
        Path | None, typer.Argument(help="A listing, in a format of butai import. - reads standard input.")
    ] = None,
    list_bucket: Annotated[bool, typer.Option("--list", help="List the bucket itself, where that is allowed.")] = False,
    strip_prefix: Annotated[
        str | None, typer.Option(help="The prefix of object keys that public keys do not have; BUTAI_S3_PREFIX.")
    ] = None,
    add_prefix: Annotated[str, typer.Option(help="The prefix that the listing's keys lack.")] = "",
    apply: Annotated[bool, typer.Option("--apply", help="Write findings. Without it nothing is written.")] = False,
    adopt: Annotated[bool, typer.Option("--adopt", help="Take objects without a row into the library.")] = False,
    trash: Annotated[bool, typer.Option("--trash", help="Move what is in only one of them into the trash.")] = False,
    ignore: Annotated[bool, typer.Option("--ignore", help="Resolve the findings for good.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most findings that one run acts on.")] = 1000,
) -> None:
    """Compares a listing of the bucket with the index, and reports what is in only one of them."""
    from butai.assets.findings.reconcile import ReconcileOptions
    from butai.assets.patrol.finding_states import FindingAction
    from butai.cli.import_ import ListingSource
    from butai.cli.reconcile import run_reconcile

    if (listing is None) is not list_bucket:
        fail("name a source: a file with a listing, or --list to list the bucket")
    asked = [action for action, wanted in zip(FindingAction, (adopt, trash, ignore), strict=True) if wanted]
    if len(asked) > 1 or (asked and not apply):
        fail("choose one of --adopt, --trash, --ignore, together with --apply")
    settings = with_services(read_settings())
    strip = settings.store.prefix if strip_prefix is None else strip_prefix
    options = ReconcileOptions(strip, add_prefix, write=apply)
    raise SystemExit(
        run_reconcile(settings, ListingSource(listing, None, None), options, asked[0] if asked else None, limit)
    )


@patrol.command("run")
def patrol_run(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, change nothing.")] = False,
    due: Annotated[bool, typer.Option("--due", help="Only files that are due.")] = False,
) -> None:
    """Checks every file now, due or not. The exit status is 1 when the store's answers cannot be trusted."""
    from butai.cli.patrol import run_patrol

    raise SystemExit(run_patrol(with_services(read_settings()), dry_run=dry_run, everything=not due))


@patrol.command("status")
def patrol_status() -> None:
    """The last runs, and the open findings."""
    from butai.cli.patrol import show

    asyncio.run(with_database(lambda database: show(database, read_settings().alerts)))
