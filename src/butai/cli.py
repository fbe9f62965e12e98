"""The `butai` command: the only place that picks adapters and reads the environment.

Each command imports what it runs and nothing else, so that a process starts fast and carries no dead weight.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from butai import __version__, log
from butai.config import Settings

app = typer.Typer(
    name="butai",
    help="The backend of a browser VTuber studio: an asset library and going live.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
apikey = typer.Typer(no_args_is_help=True, help="API keys for programs and operators.")
app.add_typer(apikey, name="apikey")
livekit = typer.Typer(no_args_is_help=True, help="What LiveKit has told.")
app.add_typer(livekit, name="livekit")
patrol = typer.Typer(no_args_is_help=True, help="Looks whether the store still has what the index says.")
app.add_typer(patrol, name="patrol")
alerts = typer.Typer(no_args_is_help=True, help="What an operator is told of.")
app.add_typer(alerts, name="alerts")
jobs = typer.Typer(no_args_is_help=True, help="Background jobs: which failed for good, and why.")
app.add_typer(jobs, name="jobs")
demo = typer.Typer(no_args_is_help=True, help="The product at work, with nothing but this machine.")
app.add_typer(demo, name="demo")


def _settings() -> Settings:
    """The settings, or one clear line. Sets up logging, with every secret known by value."""
    from pydantic import ValidationError

    try:
        settings = Settings()
    except ValidationError as error:
        finding = error.errors()[0]
        name = ".".join(str(part) for part in finding["loc"])
        _fail(f"{error.title}: {name}: {finding['msg']}")
    log.configure(settings.log, settings.secrets())
    return settings


def _fail(message: str) -> NoReturn:
    print(f"butai: {message}", file=sys.stderr)
    raise SystemExit(1)


def _needed(settings: Settings, *, store: bool = True) -> Settings:
    if not settings.database.url.get_secret_value():
        _fail("BUTAI_DATABASE_URL is not set, such as postgresql://user:password@host:5432/butai (or run: butai up)")
    if store and not settings.store.endpoint:
        _fail("BUTAI_S3_ENDPOINT is not set, such as https://s3.eu-west-1.amazonaws.com (or run: butai up)")
    return settings


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="Where the API listens; BUTAI_PORT, or 8080.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where Postgres and the store keep their files.")] = None,
) -> None:
    """Everything on this machine: Postgres, an S3 store, the API, the worker. Ctrl-C ends it."""
    from butai.up import run_up

    raise SystemExit(run_up(_settings(), port, data_dir))


@app.command()
def api(
    host: Annotated[str | None, typer.Option(help="BUTAI_HOST, or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="BUTAI_PORT, or 8080.")] = None,
) -> None:
    """The HTTP API."""
    import uvicorn

    from butai.api import create_app
    from butai.errors import SecretKeyInvalid
    from butai.http_server import BoundedHttp, EndingServer
    from butai.live.projects import Projects, ProjectsInvalid
    from butai.live.stream_keys import Sealer

    settings = _needed(_settings())
    try:
        Sealer(settings.live)
        Projects(settings.livekit, settings.live)
    except SecretKeyInvalid as error:
        _fail(error.detail)
    except ProjectsInvalid as error:
        _fail(str(error))
    config = uvicorn.Config(
        create_app(settings),
        host=host or settings.http.host,
        port=port or settings.http.port,
        loop="uvloop",
        http=BoundedHttp,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=settings.http.trusted_proxies,
        timeout_graceful_shutdown=10,
        # Above any keep-alive of a proxy before us, so that it is never us who close first.
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=64 * 1024,
        ws="websockets-sansio",
        # Those who watch have nothing to say.
        ws_max_size=4096,
    )
    server = EndingServer(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise SystemExit(3)


@app.command()
def worker() -> None:
    """The background jobs."""
    from butai.worker import run

    asyncio.run(run(_needed(_settings())))


@app.command()
def controller() -> None:
    """Keeps broadcasts on the air as their hosts want them. A stop leaves what is on air to the next controller."""
    from butai.controller import run
    from butai.database import Database
    from butai.errors import SecretKeyInvalid
    from butai.live.egress.livekit import LiveKitEgress
    from butai.live.egress.port import Egress
    from butai.live.egress.relay import RelayEgress, default_folder
    from butai.live.egress.relay_process import FolderRefused
    from butai.live.projects import Projects, ProjectsInvalid
    from butai.live.stream_keys import Sealer

    settings = _needed(_settings(), store=False)
    live = settings.live
    try:
        projects, sealer = Projects(settings.livekit, live), Sealer(live)
    except SecretKeyInvalid as error:
        _fail(error.detail)
    except ProjectsInvalid as error:
        _fail(str(error))
    if not projects.configured:
        _fail("LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET are not all set (or run: butai up)")

    def egresses(name: str, database: Database) -> list[Egress]:
        # Both, whichever new broadcasts take: what is on air stays where it is.
        relays = RelayEgress(
            live.relay_folder or default_folder(),
            projects,
            sealer.open,
            controller=name,
            allow_private=live.allow_private_ingest,
        )
        return [relays, LiveKitEgress(live, projects, database, sealer.open, controller=name)]

    try:
        asyncio.run(run(settings, egresses))
    except FolderRefused as error:
        _fail(str(error))


@app.command()
def migrate() -> None:
    """Brings the database to this version's tables."""
    from butai import database

    settings = _needed(_settings(), store=False)
    database.migrate(settings.database.url.get_secret_value())
    print(f"The database is at {database.head_revision()}.")


@app.command("import")
def import_(
    listing: Annotated[
        Path | None,
        typer.Option(
            help="A listing: an S3 Inventory report (manifest.json, or one of its CSVs), the output of "
            "aws s3 ls --recursive or rclone lsjson -R, or a CSV with a column key. - reads standard input."
        ),
    ] = None,
    list_bucket: Annotated[bool, typer.Option("--list", help="Ask the bucket itself, where that is allowed.")] = False,
    format: Annotated[
        Literal["inventory", "aws-ls", "rclone", "csv"] | None,
        typer.Option(help="The listing's format, where it is not seen by itself."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="The columns of an inventory's CSV without its manifest: 'Bucket, Key, Size'.")
    ] = None,
    strip_prefix: Annotated[
        str | None,
        typer.Option(
            help="What objects' keys begin with and public keys do not; objects without it are left out. "
            "BUTAI_S3_PREFIX when not given."
        ),
    ] = None,
    add_prefix: Annotated[
        str, typer.Option(help="What the listing's keys lack at their beginning, as after rclone lsjson bucket/folder.")
    ] = "",
    owner: Annotated[
        str | None, typer.Option(help="Whose files these are. Not given: the studio's, which only operators change.")
    ] = None,
    visibility: Annotated[
        Literal["public", "private"] | None,
        typer.Option(
            help="Who lists and reads them. Not given: public without --owner, as in a studio whose bucket everybody "
            "reads (a private file of nobody is seen by operators alone); BUTAI_DEFAULT_VISIBILITY with one."
        ),
    ] = None,
    check_content: Annotated[
        bool, typer.Option("--check-content", help="Also hold each file's first bytes against its name.")
    ] = False,
    rate: Annotated[float | None, typer.Option(min=0.1, help="At most so many objects a second.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at everything, write nothing.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write one line of JSON for each object that was not added.")
    ] = None,
) -> None:
    """Fills the index from a bucket that has files in it already. Nothing is copied; run it again whenever you like.

    What is imported becomes Butai's: purging or replacing an asset deletes its object (docs/moving-in.md).
    """
    from butai.assets.importing import ImportOptions
    from butai.moving_in import Source, run_import

    if (listing is None) is not list_bucket:
        _fail("say where the names come from: --listing FILE, or --list to ask the bucket")
    settings = _needed(_settings())
    options = ImportOptions(
        visibility=visibility or ("public" if owner is None else settings.assets.default_visibility),
        owner=owner,
        strip_prefix=settings.store.prefix if strip_prefix is None else strip_prefix,
        add_prefix=add_prefix,
        check_content=check_content,
        rate=rate,
        dry_run=dry_run,
    )
    raise SystemExit(run_import(settings, Source(listing, format, columns), options, report))


@app.command()
def reconcile(
    listing: Annotated[
        Path | None, typer.Argument(help="A listing, as butai import takes them. - reads standard input.")
    ] = None,
    list_bucket: Annotated[bool, typer.Option("--list", help="Ask the bucket itself, where that is allowed.")] = False,
    strip_prefix: Annotated[
        str | None, typer.Option(help="What objects' keys begin with and public keys do not; BUTAI_S3_PREFIX.")
    ] = None,
    add_prefix: Annotated[str, typer.Option(help="What the listing's keys lack at their beginning.")] = "",
    apply: Annotated[bool, typer.Option("--apply", help="Write findings. Without it nothing is written.")] = False,
    adopt: Annotated[bool, typer.Option("--adopt", help="Take objects without a row into the library.")] = False,
    trash: Annotated[bool, typer.Option("--trash", help="Move objects without a row away; rows, too.")] = False,
    ignore: Annotated[bool, typer.Option("--ignore", help="Close the findings for good.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most findings that one run acts on.")] = 1000,
) -> None:
    """Holds a listing of the bucket against the index, and tells what is in only one of them."""
    from butai.assets.finding_actions import Action
    from butai.assets.reconcile import ReconcileOptions
    from butai.moving_in import Source
    from butai.reconcile_command import run_reconcile

    if (listing is None) is not list_bucket:
        _fail("say where the names come from: a file with a listing, or --list to ask the bucket")
    asked = [action for action, wanted in zip(Action, (adopt, trash, ignore), strict=True) if wanted]
    if len(asked) > 1 or (asked and not apply):
        _fail("one of --adopt, --trash, --ignore, and --apply with it")
    settings = _needed(_settings())
    strip = settings.store.prefix if strip_prefix is None else strip_prefix
    options = ReconcileOptions(strip, add_prefix, write=apply)
    raise SystemExit(run_reconcile(settings, Source(listing, None, None), options, asked[0] if asked else None, limit))


@patrol.command("run")
def patrol_run(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at everything, change nothing.")] = False,
    due: Annotated[bool, typer.Option("--due", help="Only what is due by now.")] = False,
) -> None:
    """Looks for every file now, whatever was looked at before. Ends with 1 when the store cannot be believed."""
    from butai.patrol_command import run_patrol

    raise SystemExit(run_patrol(_needed(_settings()), dry_run=dry_run, everything=not due))


@patrol.command("status")
def patrol_status() -> None:
    """The last runs, and what is amiss."""
    from butai.patrol_command import show

    asyncio.run(_with_database(lambda database: show(database, _settings().alerts)))


@jobs.command("list")
def jobs_list(
    status: Annotated[str | None, typer.Option(help="todo, doing, failed (for good), cancelled.")] = None,
    task: Annotated[str | None, typer.Option(help="Only of this task, such as assets.inspect.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
) -> None:
    """Jobs, newest first, each with its last failure."""
    from butai.jobs_command import show

    asyncio.run(_with_database(lambda database: show(database, status, task, limit)))


@jobs.command("retry")
def jobs_retry(
    job_id: Annotated[int | None, typer.Argument(help="A job that failed for good.")] = None,
    all_failed: Annotated[bool, typer.Option("--all-failed", help="All of them.")] = False,
) -> None:
    """Puts what failed for good back into the queue."""
    from butai.jobs_command import retry

    if (job_id is None) is not all_failed:
        _fail("say which: a job's number, or --all-failed")
    asyncio.run(_with_database(lambda database: retry(database, job_id)))


@jobs.command("cancel")
def jobs_cancel(job_id: int) -> None:
    """Takes a waiting job out of the queue."""
    from butai.jobs_command import cancel

    asyncio.run(_with_database(lambda database: cancel(database, job_id)))


@alerts.command("test")
def alerts_test() -> None:
    """Sends a test message to each of BUTAI_ALERT_URLS, now."""
    from butai.alerts_command import send_test

    raise SystemExit(asyncio.run(send_test(_settings().alerts)))


@alerts.command("list")
def alerts_list() -> None:
    """The newest alerts."""
    from butai.alerts_command import show

    asyncio.run(_with_database(show))


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Looks at the database, the store, sign-in, LiveKit and the clocks, and says what to do about each finding."""
    from butai.doctor import run_doctor

    raise SystemExit(run_doctor(_settings(), as_json=as_json))


@app.command()
def version() -> None:
    """This version."""
    print(__version__)


@app.command()
def openapi() -> None:
    """The OpenAPI document, as JSON."""
    import json

    from butai.api import document

    print(json.dumps(document(), indent=1, ensure_ascii=False))


@demo.command("live")
def demo_live(
    seconds: Annotated[float, typer.Option(min=20, max=3600, help="How long on air.")] = 40,
    url: Annotated[str | None, typer.Option(help="Where `butai up` runs; http://127.0.0.1:8080.")] = None,
) -> None:
    """A host goes live on two platforms of this machine; one is killed and comes back, the other goes on.

    Wants a running `butai up`. Ends with 0 when both got what they should.
    """
    from butai.demo.live import run

    raise SystemExit(run(url or f"http://127.0.0.1:{_settings().http.port}", seconds))


@demo.command("library")
def demo_library(
    user: Annotated[str, typer.Option(help="Whose files they become.")] = "demo",
    url: Annotated[str | None, typer.Option(help="Where `butai up` runs; http://127.0.0.1:8080.")] = None,
) -> None:
    """Two avatars, two motions, music and two skies to begin with: made here, free for any use.

    Wants a running `butai up`.
    """
    from butai.demo.library import run

    raise SystemExit(run(url or f"http://127.0.0.1:{_settings().http.port}", user))


@apikey.command("create")
def apikey_create(
    user: Annotated[str, typer.Option(help="Whom the key acts as.")],
    scope: Annotated[list[str] | None, typer.Option(help="user, operator; may be given twice.")] = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
) -> None:
    """Makes a key and prints it, this once."""
    from butai.apikeys import create_api_key

    async def make(database: Any) -> str:
        async with database.transaction() as session:
            return (await create_api_key(session, user, scope or ["user"], name))[1]

    print(asyncio.run(_with_database(make)))


@apikey.command("list")
def apikey_list(user: Annotated[str | None, typer.Option(help="Only this user's.")] = None) -> None:
    """All keys, without their secrets."""
    from butai.apikeys import list_api_keys

    async def show(database: Any) -> None:
        async with database.transaction() as session:
            for key in await list_api_keys(session, user):
                state = "revoked" if key.revoked_at else "active"
                used = key.last_used_at.isoformat(timespec="seconds") if key.last_used_at else "never used"
                print(f"{key.id}  {key.user_id}  {','.join(key.scopes)}  {state}  {used}  {key.name}")

    asyncio.run(_with_database(show))


@apikey.command("revoke")
def apikey_revoke(key_id: str) -> None:
    """Ends a key, everywhere within ten seconds."""
    from butai.apikeys import revoke_api_key

    async def end(database: Any) -> None:
        async with database.transaction() as session:
            await revoke_api_key(session, key_id)

    asyncio.run(_with_database(end))
    print("Revoked.")


@livekit.command("webhooks")
def livekit_webhooks(
    room: Annotated[str | None, typer.Option(help="Only of this room.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 20,
) -> None:
    """The last webhooks that LiveKit sent, newest first, one line of JSON each. What looks secret is blanked."""
    import msgspec

    from butai.errors import SecretKeyInvalid
    from butai.live.stream_keys import Sealer
    from butai.live.webhook_reading import newest

    try:
        sealer = Sealer(_settings().live)
    except SecretKeyInvalid as error:
        _fail(error.detail)

    async def show(database: Any) -> None:
        for one in await newest(database, sealer, room, limit):
            print(msgspec.json.encode(one).decode())

    asyncio.run(_with_database(show))


async def _with_database(act: Any) -> Any:
    from butai.database import Database
    from butai.errors import ButaiError

    async with Database(_needed(_settings(), store=False).database) as database:
        try:
            return await act(database)
        except ButaiError as error:
            _fail(error.detail)


def main() -> None:
    """The entry point."""
    app()


if __name__ == "__main__":
    main()
