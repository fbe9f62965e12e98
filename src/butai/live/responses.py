"""Answers of going live: JSON that caches must not keep, and errors with advice in the language of the request."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi import Request, Response

from butai.errors import ButaiError
from butai.live.texts import HOST_CODES, Language, preferred_language, words
from butai.web.bodies import SmallBodies
from butai.web.responses import respond

_VARY = {"vary": "Cookie, Authorization, Accept-Language"}


def respond_live(answer: msgspec.Struct, status: int = 200) -> Response:
    """`answer` as JSON that caches must not keep; it differs by caller and language."""
    return respond(answer, status, _VARY)


def request_language(request: Request) -> Language:
    """The language that `Accept-Language` prefers; English otherwise."""
    return preferred_language(request.headers.get("accept-language"))


class LiveRoute(SmallBodies):
    """A route whose errors carry an `action`, the host's next step, where `butai.live.texts` has one for their code.

    In Chinese `detail` is replaced by the text as well; in English it stays as it was raised, which is more specific.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wraps the framework's handler: adds `action` to a `ButaiError` before it leaves."""
        handle = super().get_route_handler()

        async def with_advice(request: Request) -> Response:
            try:
                return await handle(request)
            except ButaiError as error:
                if error.code in HOST_CODES:
                    language = request_language(request)
                    message, action = words(error.code, error.more.get("platform"), language)
                    error.more = {**error.more, "action": action}
                    if language != "en":
                        error.detail = message
                raise

        return with_advice
