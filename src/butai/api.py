"""The HTTP application: its parts, its routes, and its middleware.

`butai api` runs it under uvicorn; tests and `make docs` use `create_app`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, TypedDict

import aiohttp
import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse
from starlette.types import ASGIApp

from butai import __version__
from butai.alerts import routes as alert_routes
from butai.assets import routes
from butai.assets.findings import routes as findings_routes
from butai.assets.library import Library, assemble
from butai.assets.patrol import routes as patrol_routes
from butai.assets.search import routes as search_routes
from butai.assets.storage.client import Store
from butai.assets.studio_contract import routes as contract
from butai.assets.tus import routes as tus_routes
from butai.assets.tus.digests import Digests
from butai.assets.tus.service import Resumables
from butai.assets.uploads import signed_put
from butai.config import Settings
from butai.database import Database
from butai.errors import RateLimited
from butai.identity import NEXTAUTH_COOKIE, Identity
from butai.identity.api_keys import ApiKeys
from butai.identity.suspensions import Suspensions
from butai.limits.callers import CallerRates
from butai.live import audit_routes as live_audit_routes
from butai.live.broadcasts import closing_routes, overview_routes, stream_routes
from butai.live.broadcasts import routes as live_routes
from butai.live.destinations import routes as destination_routes
from butai.live.destinations import service
from butai.live.encoders import routes as encoder_routes
from butai.live.feed import Feed
from butai.live.ingresses import routes as ingress_routes
from butai.live.projects import Projects
from butai.live.reconcile.controllers import read_controllers
from butai.live.rooms import invitation_routes
from butai.live.rooms import routes as room_routes
from butai.live.stage import Stage
from butai.live.stream_keys import Sealer
from butai.live.tokens import Tokens
from butai.live.webhooks import routes as webhook_routes
from butai.live.webhooks.intake import Intake
from butai.operations import audit_routes, console, job_routes, moderation_routes, sign_in
from butai.operations import routes as health_routes
from butai.operations.health import Health
from butai.operations.schemas import AliveOut, ReadyOut
from butai.operations.shared_answer import SharedAnswer
from butai.web import problems, responses
from butai.web.connections import RequestsOfAddress
from butai.web.dependencies import NEEDS_SIGN_IN, by_probe
from butai.web.event_loop_turns import EventLoopTurns
from butai.web.hosts import AllowedHosts
from butai.web.metrics import Metrics
from butai.web.open_cors import OpenCors
from butai.web.refusals import Refusals, answer_refused
from butai.web.request_headers import MethodOverride
from butai.web.request_log import RequestLog
from butai.web.security_headers import SecurityHeaders
from butai.web.uvicorn_limits import ending

log = structlog.get_logger(__name__)


class RequestState(TypedDict):
    """The parts that routes find in `request.state`, beside `request_id`."""

    settings: Settings
    database: Database
    identity: Identity
    rates: CallerRates
    refusals: Refusals
    library: Library
    resumables: Resumables
    stage: Stage
    webhooks: Intake
    health: Health
    readiness: SharedAnswer[tuple[bool, bool]]


_READY_SECONDS = 0.5
"""Seconds for which a check of `/readyz` is reused: load balancers ask once a second, or less often."""


def create_app(settings: Settings) -> ASGIApp:
    """The application with all its middleware. Opens nothing until the server starts it."""
    metrics = Metrics()
    counted = RequestsOfAddress(_application(settings, metrics), settings.http.max_connections_per_address)
    guarded = SecurityHeaders(AllowedHosts(counted, settings.http), settings.http)
    return RequestLog(EventLoopTurns(guarded), metrics, access_log=settings.http.access_log)


def document() -> dict[str, Any]:
    """The OpenAPI document, the same for all settings."""
    return _application(Settings(), Metrics()).openapi()


def _application(settings: Settings, metrics: Metrics) -> FastAPI:

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[RequestState]:
        async with AsyncExitStack() as opened:
            database = await opened.enter_async_context(Database(settings.database))
            store = await opened.enter_async_context(Store(settings.store))
            http = await opened.enter_async_context(aiohttp.ClientSession())
            projects = Projects(settings.livekit, settings.live)
            tokens = Tokens(projects)
            identity = Identity(
                settings.identity,
                api_keys=ApiKeys(database),
                http=http,
                suspensions=Suspensions(database),
                allowed_origins=settings.http.cors_origins,
                public_url=settings.http.public_url,
                host=tokens.host,
            )
            opened.push_async_callback(identity.close)
            parts = assemble(database, store, settings.assets, settings.http)
            await opened.enter_async_context(parts.reads)
            feed = await opened.enter_async_context(Feed(database))
            ending.append(feed.end)
            opened.callback(ending.remove, feed.end)
            sealer = Sealer(settings.live)
            live = Stage(database, settings.live, settings.ingest, projects, tokens, sealer, feed)
            if live.sealer.rotates:
                opened.push_async_callback(_cancel, asyncio.create_task(_renew_seals(live)))
            webhooks = await opened.enter_async_context(Intake(database, projects, sealer, metrics))
            if settings.identity.dev_sign_in:
                sign_in.open_codes(settings.up.data_dir)
            health = Health(settings, parts, live, metrics)
            opened.push_async_callback(health.close)

            async def look_whether_ready() -> tuple[bool, bool]:
                return await database.ready(), await store.ready()

            readiness = SharedAnswer(look_whether_ready, _READY_SECONDS)
            opened.push_async_callback(readiness.close)
            yield {
                "settings": settings,
                "database": database,
                "identity": identity,
                "rates": CallerRates(settings.rates, settings.live.max_streams),
                "refusals": Refusals(),
                "library": parts,
                "resumables": Resumables(parts.uploads, Digests()),
                "stage": live,
                "webhooks": webhooks,
                "health": health,
                "readiness": readiness,
            }

    app = FastAPI(
        title="Butai",
        version=__version__,
        summary="The backend of a browser VTuber studio.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        generate_unique_id_function=lambda route: route.name,
    )
    problems.install(app)
    app.add_exception_handler(RateLimited, answer_refused)
    _add_process_routes(app, metrics)
    app.include_router(contract.hot)
    app.include_router(search_routes.router)
    app.include_router(webhook_routes.router)
    app.include_router(contract.router)
    app.include_router(routes.router)
    app.include_router(patrol_routes.router)
    app.include_router(findings_routes.router)
    app.include_router(tus_routes.router)
    app.include_router(tus_routes.around)
    app.include_router(alert_routes.router)
    app.include_router(job_routes.router)
    app.include_router(audit_routes.router)
    app.include_router(health_routes.router)
    app.include_router(moderation_routes.router)
    for part in (
        live_routes,
        overview_routes,
        closing_routes,
        room_routes,
        invitation_routes,
        ingress_routes,
        encoder_routes,
        destination_routes,
        live_audit_routes,
        stream_routes,
    ):
        app.include_router(part.router)
    app.openapi = lambda: _openapi(app)
    console.install(app)
    sign_in.install(app)
    app.add_middleware(MethodOverride, path=tus_routes.PATH)
    if settings.http.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.http.cors_origins,
            allow_credentials=True,
            allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
            allow_headers=[
                "authorization",
                "content-type",
                "idempotency-key",
                "if-none-match",
                "last-event-id",
                "range",
                "tus-resumable",
                "upload-checksum",
                "upload-length",
                "upload-metadata",
                "upload-offset",
                "x-api-key",
                "x-http-method-override",
                "x-request-id",
            ],
            expose_headers=[
                "accept-ranges",
                "butai-asset-id",
                "content-length",
                "content-range",
                "etag",
                "location",
                "retry-after",
                "tus-resumable",
                "upload-expires",
                "upload-length",
                "upload-metadata",
                "upload-offset",
                "x-request-id",
            ],
        )
    app.add_middleware(OpenCors, path=signed_put.PATH, method="PUT")
    return app


async def _renew_seals(stage: Stage) -> None:
    try:
        await service.renew_seals(stage)
    except Exception as error:  # noqa: BLE001 - the service starts without it
        # Nothing is lost: the older keys still open, and the next start tries again.
        log.warning("stream_keys.not_renewed", reason=type(error).__name__)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _add_process_routes(app: FastAPI, metrics: Metrics) -> None:
    @app.get(
        "/healthz", **responses.answers(AliveOut, error=None), tags=["process"], summary="Whether the process is alive"
    )
    async def healthz() -> Response:
        """Answers as long as the process can answer anything."""
        return responses.respond(AliveOut("ok", __version__))

    ready_or_not = responses.answers(ReadyOut, also={503: "A part does not answer"}, error=None)

    @app.get("/readyz", **ready_or_not, tags=["process"], summary="Whether the process can serve")
    async def readyz(request: Request) -> Response:
        """200 when the database and the store answer, else 503 with the part that does not. All who ask at the same time
        share one check, which is half a second old at most."""
        readiness: SharedAnswer[tuple[bool, bool]] = request.state.readiness
        known, stored = await readiness.get()
        ready = known and stored
        return responses.respond(ReadyOut(ready, known, stored), 200 if ready else 503)

    @app.get(
        "/metrics",
        tags=["process"],
        summary="Figures for Prometheus",
        response_class=PlainTextResponse,
        responses=problems.documented_only(429),
    )
    async def show_metrics(request: Request, _: Annotated[None, Depends(by_probe)]) -> Response:
        """The metrics in Prometheus's text format."""
        await metrics.look_at_jobs(request.state.database, read_controllers)
        return Response(metrics.render(), media_type="text/plain; version=0.0.4")


_BEARER = "OpenID Connect token, or an API key; for a room and its broadcasts also its host token (a LiveKit token)"

_LIVEKIT = "LiveKit's JWT, whose `sha256` is the body's"


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The document, with Butai's errors in place of FastAPI's, and the ways to sign in."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        routes=app.routes,
        license_info=app.license_info,
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    structs = responses.schemas()
    if twice := schemas.keys() & structs.keys():
        raise ValueError(f"schemas of one name: {twice}")
    schemas |= structs
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    document["components"]["securitySchemes"] = {
        "session": {"type": "apiKey", "in": "cookie", "name": NEXTAUTH_COOKIE, "description": "NextAuth or Auth.js"},
        "bearer": {"type": "http", "scheme": "bearer", "description": _BEARER},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "livekit": {"type": "apiKey", "in": "header", "name": "Authorization", "description": _LIVEKIT},
    }
    for path in document["paths"].values():
        for operation in path.values():
            # Butai answers a finding of FastAPI's validation with 400.
            if "HTTPValidationError" in str(operation["responses"].get("422", "")):
                del operation["responses"]["422"]
            if "process" not in operation["tags"]:
                operation.setdefault("security", NEEDS_SIGN_IN["security"])
    app.openapi_schema = document
    return document
