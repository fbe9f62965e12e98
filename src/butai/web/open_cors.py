"""CORS for paths whose address is the credential: pages of every origin may send to them, without cookies."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send


class OpenCors:
    """The middleware, for the paths below `path`: it answers as the CORS rule of a bucket does. All other paths pass
    unchanged. It stands before the middleware of `BUTAI_CORS_ORIGINS`, which does not see the origin of what it passes
    on."""

    def __init__(self, app: ASGIApp, *, path: str, method: str) -> None:
        self._app = app
        self._path = f"{path}/"
        self._open = CORSMiddleware(
            self._without_origin,
            allow_origins=["*"],
            allow_methods=[method],
            allow_headers=["*"],
            expose_headers=["etag", "x-request-id"],
            max_age=3600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one WebSocket."""
        open_to_all = scope["type"] == "http" and scope["path"].startswith(self._path)
        await (self._open if open_to_all else self._app)(scope, receive, send)

    async def _without_origin(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"] = [header for header in scope["headers"] if header[0] != b"origin"]
        await self._app(scope, receive, send)
