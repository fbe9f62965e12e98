"""How going live answers: JSON that no cache keeps, and errors that say what to do, in the asker's language.

Called by the routes of `butai.live`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi import Request, Response

from butai.errors import ButaiError
from butai.live.texts import HOST_CODES, Language, language, words
from butai.web.dependencies import SmallBodies

_NO_STORE = {"cache-control": "private, no-store", "vary": "Cookie, Authorization, Accept-Language"}


def as_json(value: Any, status: int = 200) -> Response:
    """An answer that no cache keeps."""
    return Response(msgspec.json.encode(value), status, _NO_STORE, "application/json")


def asked_language(request: Request) -> Language:
    """Of the request."""
    return language(request.headers.get("accept-language"))


class LiveRoute(SmallBodies):
    """A route whose errors carry an `action`, what the host can do, where their code has words (`butai.live.texts`).

    In Chinese `detail` is those words too; in English it stays as precise as it was raised.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's, with words."""
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handle(request)
            except ButaiError as error:
                if error.code in HOST_CODES:
                    tongue = asked_language(request)
                    message, action = words(error.code, error.more.get("platform"), tongue)
                    error.more = {**error.more, "action": action}
                    if tongue != "en":
                        error.detail = message
                raise

        return told
