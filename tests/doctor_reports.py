"""What `butai doctor` finds, by area and check, and parts that it may look at."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aiohttp import web
from pydantic import SecretStr

from butai.config import (
    DatabaseSettings,
    IdentitySettings,
    LiveKitSettings,
    Settings,
)
from butai.doctor import examine
from butai.doctor.findings import Finding, Level

LIVEKIT_SECRET = "canary-livekit-secret-0123456789abcdef"


def with_store(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, store=settings.store.model_copy(update=changes))


def with_database(settings: Settings, url: str) -> Settings:
    return replace(settings, database=DatabaseSettings(url=SecretStr(url)))


def with_identity(settings: Settings, **how: Any) -> Settings:
    return replace(settings, identity=IdentitySettings(**how))


Serve = Callable[[Callable[[web.Request], Any]], contextlib.AbstractAsyncContextManager[str]]


class Report:
    """What doctor found, by area and check."""

    def __init__(self, found: list[Finding]) -> None:
        self.found = found
        for finding in found:
            assert finding.message and "\n" not in finding.message + finding.advice, finding
            assert bool(finding.advice) == (finding.level is not Level.OK), finding
            assert "Traceback" not in finding.message

    @property
    def broken(self) -> list[tuple[str, str]]:
        return [(each.area, each.check) for each in self.found if each.level is Level.BROKEN]

    @property
    def warnings(self) -> list[tuple[str, str]]:
        return [(each.area, each.check) for each in self.found if each.level is Level.WARNING]

    def one(self, area: str, check: str) -> Finding:
        (finding,) = [each for each in self.found if (each.area, each.check) == (area, check)]
        return finding

    def said(self, area: str, check: str) -> str:
        finding = self.one(area, check)
        return f"{finding.level}: {finding.message} → {finding.advice}"


async def report(settings: Settings) -> Report:
    return Report(await examine(settings))


def livekit(request: web.Request) -> web.Response:
    """What a LiveKit does with a call: the token is checked by hand, not with the library that made it."""
    head, _, signature = request.headers["Authorization"].removeprefix("Bearer ").rpartition(".")
    expected = base64.urlsafe_b64encode(hmac.new(LIVEKIT_SECRET.encode(), head.encode(), hashlib.sha256).digest())
    body = head.partition(".")[2]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    good = signature == expected.rstrip(b"=").decode() and claims["iss"] == "devkey" and claims["exp"] > time.time()
    if not good or request.path != "/twirp/livekit.RoomService/ListRooms":
        return web.json_response({"code": "unauthenticated"}, status=401)
    if claims["video"] != {"roomList": True}:
        return web.json_response({"code": "permission_denied"}, status=403)
    return web.json_response({})


def livekit_at(url: str, secret: str = LIVEKIT_SECRET) -> LiveKitSettings:
    return LiveKitSettings(url=url.replace("http://", "ws://"), api_key="devkey", api_secret=SecretStr(secret))
