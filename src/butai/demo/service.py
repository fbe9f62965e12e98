"""The few requests of a demonstration to the service, as any client would make them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp

from butai.sign_in.codes import FolderUnsafe, make_code


class DemoFailed(Exception):
    """The demonstration cannot go on. The text is for its user."""


class Service:
    """A running service with a signed-in user. `async with Service(url, data_dir) as service`."""

    def __init__(self, url: str, data_dir: Path) -> None:
        self.url = url.rstrip("/")
        self._data_dir = data_dir
        self._http: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        # `unsafe`: accepts cookies from a host that is an IP address.
        self._http = aiohttp.ClientSession(
            cookie_jar=aiohttp.CookieJar(unsafe=True), timeout=aiohttp.ClientTimeout(total=20)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def sign_in(self, user: str) -> None:
        """Signs in with a one-time code. Raises `DemoFailed` when the service does not answer, or accepts no codes."""
        try:
            code = make_code(self._data_dir, user)
        except (FolderUnsafe, OSError) as error:
            raise DemoFailed(
                f"{error}: run `butai up` (or `make run`) in another terminal first, or name its folder with --data-dir"
            ) from None
        try:
            async with self._http.post(f"{self.url}/api/session", json={"code": code}, allow_redirects=False) as answer:
                if answer.status != 303:
                    raise DemoFailed(
                        f"{self.url} does not sign in for development (it answered {answer.status}): "
                        "the demonstration is for a service that `butai up` runs on this machine"
                    )
        except (aiohttp.ClientConnectionError, TimeoutError):
            raise DemoFailed(
                f"nothing answers at {self.url}: run `butai up` (or `make run`) in another terminal first"
            ) from None

    async def upload(self, key: str, body: bytes) -> None:
        """Uploads a file under the key, as a form. Raises `DemoFailed`."""
        form = aiohttp.FormData({"fileName": key, "fileType": "application/octet-stream"})
        form.add_field("file", body, filename=key.rpartition("/")[2], content_type="application/octet-stream")
        await self.call("POST", "/api/s3/upload", form=form)

    async def call(self, method: str, path: str, body: object = None, *, form: aiohttp.FormData | None = None) -> Any:
        """The answer's JSON. Raises `DemoFailed` with the service's own text for a status that is not 2xx."""
        try:
            async with self._http.request(method, self.url + path, json=body, data=form) as answer:
                said = await answer.json(content_type=None) if answer.status != 204 else None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DemoFailed(f"{method} {path}: {error or type(error).__name__}") from error
        if answer.status >= 300:
            told = said if isinstance(said, dict) else {}
            told = told.get("error") or told
            words = told.get("detail") or told.get("message") or ""
            raise DemoFailed(f"{method} {path}: {answer.status} {told.get('code', '')} {words}".strip())
        return said

    async def hints(self, room_id: str) -> AsyncIterator[None]:
        """Yields at each event in the room (server-sent events), until it is closed.

        The state is then read from the status: an event is a hint, and a lost one does no harm.
        """
        while True:
            try:
                async with self._http.get(
                    f"{self.url}/api/live/events",
                    params={"room_id": room_id},
                    headers={"Accept": "text/event-stream"},
                    timeout=aiohttp.ClientTimeout(sock_connect=5, sock_read=60),
                ) as answer:
                    answer.raise_for_status()
                    async for line in answer.content:
                        if line.startswith(b"data:"):
                            yield
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(1)
