"""The list route with nothing around it: what `list_page` measures the whole middleware against.

The same handler of `butai.assets.studio_contract.routes` under FastAPI and uvicorn, but no identity (every caller is
the same user), no request id, no metrics, no log line. Started by `servers.bare`; takes the settings of `butai api`,
and a port."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from butai.assets.library import assemble
from butai.assets.storage.client import Store
from butai.assets.studio_contract import routes
from butai.config import Settings
from butai.database import Database
from butai.identity import Caller
from butai.limits.callers import CallerRates


class _Somebody:
    """Replaces the identity: every request has the same caller."""

    caller = Caller(user_id="bench-stranger", kind="session", scopes=frozenset({"user"}), by_cookie=True)

    async def identify_request(self, _scope: Any) -> Caller:
        return self.caller


def create_app(settings: Settings) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        async with Database(settings.database) as database:
            library = assemble(database, Store(settings.store), settings.assets, settings.http)
            rates = CallerRates(settings.rates, settings.live.max_streams)
            yield {"library": library, "identity": _Somebody(), "rates": rates}

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.include_router(routes.hot)
    return app


if __name__ == "__main__":
    uvicorn.run(
        create_app(Settings()),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
    )
