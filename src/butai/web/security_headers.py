"""Middleware that adds the headers by which browsers limit what an answer may do. Pure ASGI, because every request pays.

A route that needs another value sets its own, which stays.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from butai.config import HttpSettings

NOSNIFF = (b"x-content-type-options", b"nosniff")
REFERRER = (b"referrer-policy", b"same-origin")
_OPENER = (b"cross-origin-opener-policy", b"same-origin")
_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
"""A year, for this name and not those below it: they may belong to other services."""


class SecurityHeaders:
    """The middleware: `X-Content-Type-Options` and `Referrer-Policy` on every answer, `Cross-Origin-Opener-Policy` on
    pages, `Strict-Transport-Security` when the public URL is https. Framing is denied by each page's own policy."""

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self.app = app
        secure = urlsplit(settings.public_url).scheme == "https"
        self._everywhere = (NOSNIFF, REFERRER, _TRANSPORT) if secure else (NOSNIFF, REFERRER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the refusal of a WebSocket."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                sent = list(message.get("headers", ()))
                given = dict(sent)
                page = given.get(b"content-type", b"").startswith(b"text/html")
                wanted = (*self._everywhere, _OPENER) if page else self._everywhere
                message["headers"] = sent + [header for header in wanted if header[0] not in given]
            await send(message)

        await self.app(scope, receive, guarded)
