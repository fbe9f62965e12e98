"""The stand-in as a process of its own, for benches; see the package's docstring."""

from __future__ import annotations

import argparse
import asyncio
import inspect
import signal
from typing import Any

from aiohttp import web

from tests.fakes.livekit_egress import platforms
from tests.fakes.livekit_egress.commands import Commands
from tests.fakes.livekit_egress.standin import StandIn

_SCRIPTS = {one.__name__: one for one in (platforms.Accept, platforms.Refuse, platforms.Unreachable, platforms.Never)}
_COMMANDS = frozenset(name for name in vars(Commands) if not name.startswith("_"))


def _script(given: Any) -> Any:
    """`{"script": "Refuse", "after": 0.5}` or a list of such."""
    if isinstance(given, list):
        return [_script(one) for one in given]
    return _SCRIPTS[given.pop("script")](**given)


class Control:
    """`POST /control` `{"command", "args", "kwargs"}`: a command of `Commands`, or `platform` (args: url or `*`, script) and
    `egress_of` (args: full URL; the ids of the egresses that hold it). `GET /control`: the counters."""

    def __init__(self, standin: StandIn) -> None:
        self._standin = standin

    async def post(self, request: web.Request) -> web.Response:
        given = await request.json()
        command, args, kwargs = given["command"], given.get("args", []), given.get("kwargs", {})
        standin = self._standin
        if command == "platform":
            if args[0] == "*":
                standin.default = _script(args[1])
            else:
                standin.platforms[args[0]] = _script(args[1])
            result: Any = None
        elif command == "egress_of":
            result = standin.running.get(args[0], [])
        elif command in _COMMANDS:
            result = getattr(standin, command)(*args, **kwargs)
            if inspect.isawaitable(result):
                result = await result
        else:
            return web.json_response({"error": "no such command"}, status=400)
        return web.json_response({"result": result})

    async def get(self, _: web.Request) -> web.Response:
        standin = self._standin
        return web.json_response(
            {
                "calls": dict(standin.calls),
                "starts": len(standin.starts),
                "egresses": len(standin.egresses),
                "running": {url: len(ids) for url, ids in standin.running.items()},
                "high_water": max(standin.high_water.values(), default=0),
                "webhooks": dict(standin.webhooks.counts),
            }
        )


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.livekit_egress")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", default="devkey")
    parser.add_argument("--secret", default="secretsecretsecretsecretsecretsecret")
    parser.add_argument("--webhook", action="append", default=[])
    parser.add_argument("--speed", type=float, default=1.0)
    given = parser.parse_args()
    standin = StandIn(key=given.key, secret=given.secret, webhooks=given.webhook, speed=given.speed, port=given.port)
    control = Control(standin)
    standin.server.routes += [web.post("/control", control.post), web.get("/control", control.get)]
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    async with standin:
        print(f"ready {standin.url}", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(_main())
