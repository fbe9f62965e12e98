"""The web console: its pages, its scripts, the page of the API's documentation, and the session of the console's user.

The sources are in `console/` at the root; `make console` builds them into the package, as `console_dist`. Every page is
the same document, in which the console's own router finds the address. Without a build there is one plain page with
instructions, and the rest of the service works the same.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from butai import __version__
from butai.config import Settings
from butai.errors import NotFound, Unauthenticated
from butai.identity import ANONYMOUS
from butai.live.stage import Stage
from butai.operations.schemas import SessionOut
from butai.web.dependencies import TAKES_SIGN_IN, charged_caller
from butai.web.old_names import with_old_names
from butai.web.problems import documented_only
from butai.web.responses import answers, respond

DIST = Path(__file__).parents[1] / "console_dist"

PAGES = ("/", "/library", "/stage", "/operations", "/watch/{room}")
"""The addresses that the console's router knows (`console/src/router.tsx`)."""

_DOCUMENTS = {"index.html", "docs.html"}

_COMPRESSED = {".js", ".css", ".html", ".svg", ".json"}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    zipped: bytes | None
    etag: str
    media_type: str


class _Build:
    """The files of the build, 4 MB in all: each read and compressed once, when it is first requested."""

    def __init__(self) -> None:
        self._stamp = 0
        self._names: frozenset[str] = frozenset()
        self._kept: dict[str, _File] = {}

    async def file(self, path: str) -> _File | None:
        """A file of the build; None for all other paths, wherever they lead."""
        found = self._kept.get(path)
        if found is None or path in _DOCUMENTS:
            self._look()
            found = self._kept.get(path)
        if found is None and path in self._names:
            found = self._kept[path] = await asyncio.to_thread(_read, DIST / path)
        return found

    def _look(self) -> None:
        """Reloads after a new build: all names are different then."""
        try:
            stamp = (DIST / "index.html").stat().st_mtime_ns
        except FileNotFoundError:
            stamp = 0
        if stamp != self._stamp:
            self._stamp, self._kept = stamp, {}
            files = (file for file in DIST.rglob("[!.]*") if file.is_file()) if stamp else ()
            self._names = frozenset(str(file.relative_to(DIST)) for file in files)


def _read(file: Path) -> _File:
    body = file.read_bytes()
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    zipped = gzip.compress(body, 9, mtime=0) if file.suffix in _COMPRESSED and len(body) > 500 else None
    return _File(body, zipped, f'"{hashlib.sha256(body).hexdigest()[:24]}"', kind)


def _answer(request: Request, file: _File, headers: dict[str, str]) -> Response:
    """The file, compressed if the client accepts that; 304 if the client has it already."""
    headers |= {"vary": "Accept-Encoding", "etag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    if file.zipped and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.zipped, 200, headers | {"content-encoding": "gzip"}, file.media_type)
    return Response(file.body, 200, headers, file.media_type)


def policy(livekit: list[str]) -> str:
    """The pages' content security policy. `livekit`: addresses of the servers that a page talks to (`wss://…`).

    No scripts but our own, and none inline. three.js loads a model's textures and buffers from `blob:` and `data:`.
    """
    talks: set[str] = set()
    for url in livekit:
        parts = urlsplit(url)
        secure = parts.scheme in ("wss", "https")
        talks |= {f"{scheme}://{parts.netloc}" for scheme in (("wss", "https") if secure else ("ws", "http"))}
    connect = " ".join(["'self'", "blob:", "data:", *sorted(talks)])
    return (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        f"media-src 'self' blob:; worker-src 'self' blob:; connect-src {connect}; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


def install(app: FastAPI) -> None:
    """Serves the console's pages at `PAGES`, `/docs`, their files under `/console/`, and `/api/session`."""
    build = _Build()

    known = answers(SessionOut, error=None)
    known["responses"] |= documented_only(403, 429, 503)

    @app.get("/api/session", tags=["process"], summary="The signed-in user", **known, openapi_extra=TAKES_SIGN_IN)
    async def session(request: Request) -> Response:
        """For pages, which offer what the user may do. An invalid credential counts as none; this never answers 401. A
        suspended user gets 403 `user_suspended`."""
        settings: Settings = request.state.settings
        try:
            who = await charged_caller(request, request.scope)
        except Unauthenticated:
            # A stale cookie must not keep a user from the sign-in.
            who = ANONYMOUS
        answer = SessionOut(who.user_id, who.name, who.is_operator, settings.identity.dev_sign_in, __version__)
        return respond(with_old_names(answer))

    async def document(request: Request, name: str, livekit: list[str]) -> Response:
        """A document of the build, with its policy; a plain page where nothing is built."""
        file = await build.file(name)
        if file is None:
            return HTMLResponse(_UNBUILT.format(version=escape(__version__)), headers={"cache-control": "no-store"})
        headers = {
            "content-security-policy": policy(livekit),
            "cache-control": "no-cache",
            "permissions-policy": "camera=(self), microphone=(self)",
        }
        return _answer(request, file, headers)

    async def page(request: Request) -> Response:
        """The console's document."""
        stage: Stage = request.state.stage
        return await document(request, "index.html", stage.projects.public_urls)

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs(request: Request) -> Response:
        """The OpenAPI document as Swagger UI shows it. The page that FastAPI has for this loads it from a public CDN: it
        shows nothing without the internet, and it is another party's script where cookies sign people in."""
        return await document(request, "docs.html", [])

    for path in PAGES:
        app.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)

    @app.api_route("/console/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def files(request: Request, path: str) -> Response:
        """Scripts and styles. Their names change with their content, so browsers cache them."""
        file = await build.file(path)
        if file is None or path in _DOCUMENTS:
            raise NotFound
        lasting = path.startswith("assets/")
        return _answer(
            request, file, {"cache-control": "public, max-age=31536000, immutable" if lasting else "no-cache"}
        )


_UNBUILT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Butai</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">
<style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui;max-width:40rem;margin:4rem auto;padding:0 1rem}}</style>
<h1>Butai 舞台</h1><p>Version {version}. The service runs; its console is not built: install Node 20 with npm, then
<code>make console</code>.</p>
<ul><li><a href="/openapi.json">API document</a><li><a href="/readyz">State</a>
<li><a href="/metrics">Metrics</a></ul></html>"""
