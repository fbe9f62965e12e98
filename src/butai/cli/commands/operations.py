"""`butai jobs`, `alerts`, `apikey`, `livekit`, `suspend`, `restore` and `erase-user`: commands for operators."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from butai.cli.environment import fail, read_settings, with_database, with_services

if TYPE_CHECKING:
    from butai.database import Database

app = typer.Typer()
apikey = typer.Typer(no_args_is_help=True, help="API keys for programs and operators.")
app.add_typer(apikey, name="apikey")
livekit = typer.Typer(no_args_is_help=True, help="LiveKit's webhooks.")
app.add_typer(livekit, name="livekit")
alerts = typer.Typer(no_args_is_help=True, help="Alerts and test messages.")
app.add_typer(alerts, name="alerts")
jobs = typer.Typer(no_args_is_help=True, help="Background jobs: which failed for good, and why.")
app.add_typer(jobs, name="jobs")


@jobs.command("list")
def jobs_list(
    status: Annotated[str | None, typer.Option(help="todo, doing, failed (for good), cancelled.")] = None,
    task: Annotated[str | None, typer.Option(help="Only jobs of this task, such as assets.inspect.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
) -> None:
    """Jobs, newest first, each with its last failure."""
    from butai.cli.jobs import show

    asyncio.run(with_database(lambda database: show(database, status, task, limit)))


@jobs.command("retry")
def jobs_retry(
    job_id: Annotated[int | None, typer.Argument(help="A job that failed for good.")] = None,
    all_failed: Annotated[bool, typer.Option("--all-failed", help="All of them.")] = False,
) -> None:
    """Puts jobs that failed for good back into the queue."""
    from butai.cli.jobs import retry

    if (job_id is None) is not all_failed:
        fail("name a job by its number, or use --all-failed")
    asyncio.run(with_database(lambda database: retry(database, job_id)))


@jobs.command("cancel")
def jobs_cancel(job_id: int) -> None:
    """Removes a waiting job from the queue."""
    from butai.cli.jobs import cancel

    asyncio.run(with_database(lambda database: cancel(database, job_id)))


@alerts.command("test")
def alerts_test() -> None:
    """Sends a test message to each of BUTAI_ALERT_URLS, now."""
    from butai.cli.alerts import send_test

    raise SystemExit(asyncio.run(send_test(read_settings().alerts)))


@alerts.command("list")
def alerts_list() -> None:
    """The newest alerts."""
    from butai.cli.alerts import show

    asyncio.run(with_database(show))


@app.command("suspend")
def suspend_user(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    reason: Annotated[str, typer.Option(help="Why; operators read it.")],
) -> None:
    """Suspends a user: broadcasts end, sign-in is refused, public files are hidden."""
    from butai.cli.users import suspend

    settings = read_settings()
    asyncio.run(with_database(lambda database: suspend(database, settings, user, reason)))


@app.command("restore")
def restore_user(user: Annotated[str, typer.Argument(help="The user's id.")]) -> None:
    """Ends the suspension of a user: what was public is public again."""
    from butai.cli.users import restore

    settings = read_settings()
    asyncio.run(with_database(lambda database: restore(database, settings, user)))


@app.command("erase-user")
def erase_user(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Deletes all that is a user's, for good, and takes their name out of the audit trail."""
    from butai.cli.users import erase

    settings = with_services(read_settings())
    if not yes:
        typer.confirm(f"Delete everything of {user!r} for good?", abort=True)
    asyncio.run(with_database(lambda database: erase(database, settings, user)))


@apikey.command("create")
def apikey_create(
    user: Annotated[str, typer.Option(help="The user that the key acts as.")],
    scope: Annotated[list[str] | None, typer.Option(help="user, operator; may be given twice.")] = None,
    name: Annotated[str, typer.Option(help="The purpose of the key.")] = "",
) -> None:
    """Makes a key and prints it, which is never shown again."""
    from butai.identity.api_keys import create_api_key

    async def make(database: Database) -> str:
        return (await create_api_key(database, user, scope or ["user"], name))[1]

    print(asyncio.run(with_database(make)))


@apikey.command("list")
def apikey_list(user: Annotated[str | None, typer.Option(help="Only this user's keys.")] = None) -> None:
    """All keys, without their secrets."""
    from butai.identity.api_keys import list_api_keys

    async def show(database: Database) -> None:
        for key in await list_api_keys(database, user):
            state = "revoked" if key.revoked_at else "active"
            used = key.last_used_at.isoformat(timespec="seconds") if key.last_used_at else "never used"
            print(f"{key.id}  {key.user_id}  {','.join(key.scopes)}  {state}  {used}  {key.name}")

    asyncio.run(with_database(show))


@apikey.command("revoke")
def apikey_revoke(key_id: str) -> None:
    """Revokes a key, in all processes within ten seconds."""
    from butai.identity.api_keys import revoke_api_key

    async def end(database: Database) -> None:
        await revoke_api_key(database, key_id)

    asyncio.run(with_database(end))
    print("Revoked.")


@livekit.command("webhooks")
def livekit_webhooks(
    room: Annotated[str | None, typer.Option(help="Only webhooks of this room.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 20,
) -> None:
    """The last webhooks that LiveKit sent, newest first, one line of JSON each. Values that look like secrets are
    redacted."""
    import msgspec

    from butai.errors import SecretKeyInvalid
    from butai.live.stream_keys import Sealer
    from butai.live.webhooks.archive import newest

    try:
        sealer = Sealer(read_settings().live)
    except SecretKeyInvalid as error:
        fail(error.detail)

    async def show(database: Database) -> None:
        for one in await newest(database, sealer, room, limit):
            print(msgspec.json.encode(one).decode())

    asyncio.run(with_database(show))
