"""Webhooks as LiveKit sends and signs them, for the tests."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import os
import time
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    # Benchmarks and the fuzz's own process have no use for fixtures.
    from tests.conftest import Api

KEY, SECRET = "canary-webhook-key", "canary-webhook-secret-of-32-letters"
TURN_PASSWORD = "canary-turn-password-8bd1"
PIECES = "canary-pieces-of-a-key"
_numbers = itertools.count()


def _part(value: dict[str, Any] | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def sign(
    body: bytes, key: str = KEY, secret: str = SECRET, *, at: float | None = None, head: Any = None, **claims: Any
) -> str:
    """The `Authorization` of `body`, signed at `at`; five minutes good, as LiveKit's are. A claim that is None is left
    out."""
    now = int(time.time() if at is None else at)
    said = {
        "iss": key,
        "exp": now + 300,
        "nbf": now,
        "iat": now,
        "sha256": base64.b64encode(hashlib.sha256(body).digest()).decode(),
    } | claims
    signed = (
        _part(head or {"alg": "HS256", "typ": "JWT"}) + b"." + _part({k: v for k, v in said.items() if v is not None})
    )
    return (signed + b"." + _part(hmac.digest(secret.encode(), signed, "sha256"))).decode()


def new_id() -> str:
    return f"EV_{os.getpid()}_{next(_numbers)}"


def event(
    name: str = "room_started", room: str | None = "studio-1", *, at: float | None = None, **more: Any
) -> dict[str, Any]:
    """A webhook's body, with the secrets that LiveKit writes into a room."""
    about: dict[str, Any] = {}
    if room is not None and not name.startswith(("egress", "ingress")):
        about["room"] = {"sid": "RM_x", "name": room, "turnPassword": TURN_PASSWORD}
    said = {"event": name, **about, **more}
    return {"id": new_id(), "createdAt": str(int(time.time() if at is None else at))} | said


def joined(identity: str, name: str = "participant_joined", room: str = "studio-1", **more: Any) -> dict[str, Any]:
    return event(name, room, participant={"sid": "PA_x", "identity": identity, **more})


def encoded(said: dict[str, Any]) -> bytes:
    return json.dumps(said).encode()


async def send(api: Api, said: dict[str, Any] | bytes, authorization: str | None = None) -> tuple[int, Any]:
    """Its status and answer. Signed as LiveKit does unless `authorization` is given; "" sends none."""
    body = said if isinstance(said, bytes) else encoded(said)
    headers = {"Content-Type": "application/webhook+json"}
    if authorization != "":
        headers["Authorization"] = authorization or sign(body)
    async with api.client.post(f"{api.url}/api/live/webhook", data=body, headers=headers) as answer:
        is_json = answer.content_type.endswith("json")
        return answer.status, await answer.json() if is_json else await answer.read()


async def send_all(api: Api, many: list[dict[str, Any]], at_once: int = 500) -> list[int]:
    """All at once, over so many connections; their statuses in order."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_once)) as client:

        async def one(said: dict[str, Any]) -> int:
            body = encoded(said)
            headers = {"Authorization": sign(body)}
            async with client.post(f"{api.url}/api/live/webhook", data=body, headers=headers) as answer:
                return answer.status

        return await asyncio.gather(*map(one, many))
