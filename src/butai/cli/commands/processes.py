"""`butai up`, `sign-in`, `api`, `worker`, `controller`, `ingest`, `migrate`, `doctor`, `version`, `openapi`."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from butai import __version__
from butai.cli.environment import fail, read_settings, with_services

app = typer.Typer()


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="The API's port; BUTAI_PORT, or 8080.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="The folder of Postgres's and the store's files.")] = None,
) -> None:
    """Runs everything on this machine: Postgres, an S3 store, LiveKit, the API, the worker, the controller, the ingest.
    Ctrl-C ends it."""
    from butai.cli.up import run_up

    raise SystemExit(run_up(read_settings(), port, data_dir))


@app.command("sign-in")
def sign_in(
    user: Annotated[str, typer.Argument(help="As whom; operator sees the operations.")] = "demo",
    data_dir: Annotated[Path | None, typer.Option(help="That of `butai up`; BUTAI_DATA_DIR, or .butai.")] = None,
    url: Annotated[str | None, typer.Option(help="Where the service is, if not where `butai up` said.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The body for POST /api/session, for programs.")] = False,
) -> None:
    """Prints a link that signs a browser on this machine in, once: for another browser, or as another user."""
    from butai.cli.sign_in import run_sign_in

    run_sign_in(read_settings(), user, data_dir, url, as_json=as_json)


@app.command()
def api(
    host: Annotated[str | None, typer.Option(help="BUTAI_HOST, or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="BUTAI_PORT, or 8080.")] = None,
) -> None:
    """Runs the HTTP API."""
    import uvicorn

    from butai.api import create_app
    from butai.errors import SecretKeyInvalid
    from butai.live.projects import Projects, ProjectsInvalid
    from butai.live.stream_keys import Sealer
    from butai.web.connections import Connections, most_connections
    from butai.web.uvicorn_limits import EndingServer, protocols, trusted

    settings = with_services(read_settings())
    try:
        Sealer(settings.live)
        Projects(settings.livekit, settings.live)
    except SecretKeyInvalid as error:
        fail(error.detail)
    except ProjectsInvalid as error:
        fail(str(error))
    # The application must know where it listens: that decides about loopback names.
    settings = replace(settings, http=settings.http.model_copy(update={"host": host or settings.http.host}))
    connections = Connections(
        most_connections(settings.http.max_connections),
        settings.http.max_connections_per_address,
        trusted(settings.http.trusted_proxies),
    )
    http, ws = protocols(connections)
    config = uvicorn.Config(
        create_app(settings),
        host=settings.http.host,
        port=port or settings.http.port,
        loop="uvloop",
        http=http,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.http.trusted_proxies),
        forwarded_allow_ips=settings.http.trusted_proxies,
        timeout_graceful_shutdown=10,
        # Longer than any keep-alive of a proxy in front of us, so that the proxy always closes first.
        timeout_keep_alive=75,
        ws=ws,
        # Clients of the event stream send no messages.
        ws_max_size=4096,
    )
    server = EndingServer(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise SystemExit(3)


@app.command()
def worker() -> None:
    """Runs background jobs."""
    from butai.worker import run

    asyncio.run(run(with_services(read_settings())))


@app.command()
def controller() -> None:
    """Keeps broadcasts on air as their hosts want them. After a stop the next controller takes over what is on air."""
    from butai.controller import run
    from butai.database import Database
    from butai.errors import SecretKeyInvalid
    from butai.live.egress.livekit.livekit import LiveKitEgress
    from butai.live.egress.relay.egress import RelayEgress, default_folder
    from butai.live.egress.relay.process import FolderRefused
    from butai.live.projects import Projects, ProjectsInvalid
    from butai.live.reconcile.port import Egress
    from butai.live.stream_keys import Sealer

    settings = with_services(read_settings(), store=False)
    live = settings.live
    try:
        projects, sealer = Projects(settings.livekit, live), Sealer(live)
    except SecretKeyInvalid as error:
        fail(error.detail)
    except ProjectsInvalid as error:
        fail(str(error))
    if not projects.configured:
        fail("LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET are not all set (or run: butai up)")

    def egresses(name: str, database: Database) -> list[Egress]:
        # Both engines, whichever one new broadcasts use: broadcasts on air keep theirs.
        relays = RelayEgress(
            live.relay_folder or default_folder(),
            projects,
            sealer.open,
            controller=name,
            allow_private=live.allow_private_ingest,
            # Where no new broadcast gets a relay, none is expected.
            standby=live.relay_standby and live.egress == "relay" and live.capacity != 0,
        )
        return [relays, LiveKitEgress(live, projects, database, sealer.open, controller=name)]

    try:
        asyncio.run(run(settings, egresses))
    except FolderRefused as error:
        fail(str(error))


@app.command()
def ingest() -> None:
    """Takes OBS and other encoders by RTMP. Another one that starts takes over; the first serves its encoders to their end."""
    from butai.live.egress.relay.egress import default_folder
    from butai.live.egress.relay.process import FolderRefused, prepare_folder
    from butai.live.encoders.process import AddressUnusable, CertificateInvalid, run

    settings = with_services(read_settings(), store=False)
    try:
        asyncio.run(run(settings, prepare_folder(settings.live.relay_folder or default_folder())))
    except (AddressUnusable, CertificateInvalid, FolderRefused) as error:
        fail(str(error))


@app.command()
def migrate() -> None:
    """Migrates the database to this version's tables."""
    from butai import database
    from butai.migrations.privileges import RolesNotApart, role_of

    settings = with_services(read_settings(), store=False).database
    service, owner = settings.url.get_secret_value(), settings.owner_url.get_secret_value()
    try:
        database.migrate(owner or service, service_url=service if owner else "")
    except RolesNotApart as error:
        fail(str(error))
    print(f"The database is at {database.head_revision()}.")
    if owner:
        print(
            f"{role_of(service)} may read and write the tables, and add to the audit trail; {role_of(owner)} owns them."
        )


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Checks the database, the store, sign-in, LiveKit and the clocks, and gives advice for each finding."""
    from butai.doctor import run_doctor

    raise SystemExit(run_doctor(read_settings(), as_json=as_json))


@app.command()
def version() -> None:
    """Prints the version of Butai."""
    print(__version__)


@app.command()
def openapi() -> None:
    """Prints the OpenAPI document, as JSON."""
    import json

    from butai.api import document

    print(json.dumps(document(), indent=1, ensure_ascii=False))
