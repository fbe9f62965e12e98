"""A proxy before the real store that writes down what is asked, and misbehaves on demand.

It answers as AWS does where our store does not (403 for an absent key to those who may not list), and breaks in the
ways that networks break: refusals, silence, bodies cut in the middle. It runs in a thread of its own, so that both the
tests and processes they start can use it. Signatures stay valid because the Host header goes through as it came.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL


@dataclass(frozen=True)
class Seen:
    """One request that passed. `lists`: it asked for the contents of the bucket."""

    method: str
    path: str
    query: frozenset[str]
    status: int

    @property
    def lists(self) -> bool:
        at_bucket = self.path.strip("/").count("/") == 0
        return self.method == "GET" and (at_bucket or "list-type" in self.query or "uploads" in self.query)


@dataclass
class Fault:
    """What to do to requests that `matches`; `met` counts those it was done to.

    `status`: answer so, without asking the store. `hang`: answer nothing. `cut_request`, `cut_answer`: close the
    connection after so many bytes of the body.
    """

    matches: Callable[[web.BaseRequest], bool]
    status: int | None = None
    hang: bool = False
    cut_request: int | None = None
    cut_answer: int | None = None
    times: int = 10**9
    met: int = 0
    code: str = "InternalError"


@dataclass
class StoreProxy:
    """Start with `with`; point the service at `endpoint`."""

    upstream: str
    seen: list[Seen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    """Bytes that had passed when the service stopped reading an answer."""
    hide_absence: bool = False
    endpoint: str = ""

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    def fault(self, method: str | None = None, **how: object) -> Fault:
        """Misbehaves from now on, for all requests or those of one method."""
        fault = Fault(lambda request: method in (None, request.method), **how)  # pyright: ignore[reportArgumentType]
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Behaves again."""
        self.faults.clear()
        self.cut.clear()
        self.hide_absence = False

    def _run(self, started: threading.Event) -> None:
        asyncio.run(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as self._client:
            server = web.Server(self._handle)
            runner = web.ServerRunner(server, handler_cancellation=True, shutdown_timeout=1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            self.endpoint = f"http://127.0.0.1:{port}"
            started.set()
            await self._ended.wait()
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        fault = next((fault for fault in self.faults if fault.met < fault.times and fault.matches(request)), None)
        if fault is not None and fault.cut_request is None and fault.cut_answer is None:
            fault.met += 1
            if fault.hang:
                await asyncio.sleep(3600)
            try:
                async for _ in request.content.iter_any():
                    pass
            except ConnectionError:
                # The client hung up first, as it does with the other parts of an upload that has failed.
                raise asyncio.CancelledError from None
            self._write_down(request, fault.status or 500)
            said = b"" if request.method == "HEAD" else f"<Error><Code>{fault.code}</Code></Error>".encode()
            return web.Response(status=fault.status or 500, body=said)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "connection"}
        has_body = request.can_read_body

        async def body() -> AsyncIterator[bytes]:
            passed = 0
            async for chunk in request.content.iter_any():
                passed += len(chunk)
                if fault is not None and fault.cut_request is not None and passed > fault.cut_request:
                    fault.met += 1
                    raise ConnectionResetError
                yield chunk

        url = URL(self.upstream + request.raw_path, encoded=True)
        try:
            async with self._client.request(
                request.method,
                url,
                headers=headers,
                data=body() if has_body else None,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Content-Type", "Accept", "Accept-Encoding"),
            ) as answer:
                return await self._pass_on(request, answer, fault)
        except (aiohttp.ClientError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
            raise asyncio.CancelledError from None

    async def _pass_on(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, fault: Fault | None
    ) -> web.StreamResponse:
        status = answer.status
        if self.hide_absence and status == 404 and request.method in ("GET", "HEAD"):
            status = 403
        self._write_down(request, status)
        kept = {
            name: value
            for name, value in answer.headers.items()
            if name.lower() not in ("transfer-encoding", "connection")
        }
        response = web.StreamResponse(status=status, headers=kept)
        await response.prepare(request)
        passed = 0
        async for chunk in answer.content.iter_any():
            if fault is not None and fault.cut_answer is not None and passed + len(chunk) > fault.cut_answer:
                await response.write(chunk[: fault.cut_answer - passed])
                fault.met += 1
                assert request.transport is not None
                request.transport.abort()
                raise asyncio.CancelledError
            passed += len(chunk)
            try:
                await response.write(chunk)
            except (ConnectionError, asyncio.CancelledError):
                self.cut.append(passed)
                raise
        await response.write_eof()
        return response

    def _write_down(self, request: web.BaseRequest, status: int) -> None:
        self.seen.append(Seen(request.method, request.path, frozenset(request.query), status))
