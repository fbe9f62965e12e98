"""uvicorn in the tests' own process, without its waits: it looks every 0.1 s whether it is to end, then waits 0.1 s
more."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator
from typing import Any

import uvicorn
from starlette.types import ASGIApp


class PromptServer(uvicorn.Server):
    """Starts and ends as uvicorn's own does, but says when it has started and ends as soon as its requests are
    answered."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.running = asyncio.Event()
        self.told_to_end = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leaves the signals alone: Ctrl-C ends the tests."""
        yield

    async def main_loop(self) -> None:
        """Returns when the server is ordered to end."""
        await self.on_tick(0)  # Writes the Date header.
        self.running.set()
        await self.told_to_end.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets open connections end, for `timeout_graceful_shutdown` seconds at most; then the application."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while self.server_state.connections or self.server_state.tasks:
                    await asyncio.sleep(0.002)
        for task in self.server_state.tasks:
            task.cancel()
        await self.lifespan.shutdown()


@contextlib.asynccontextmanager
async def run_server(app: ASGIApp, listener: socket.socket, **how: Any) -> AsyncGenerator[None]:
    """Serves `app` until the block ends. `how`: further arguments of uvicorn's configuration."""
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2, **how)
    server = PromptServer(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    running = asyncio.create_task(server.running.wait())
    try:
        await asyncio.wait({serving, running}, return_when=asyncio.FIRST_COMPLETED)
        assert not serving.done(), serving
        yield
    finally:
        running.cancel()
        server.told_to_end.set()
        await serving
