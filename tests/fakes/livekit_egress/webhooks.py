"""Webhooks as LiveKit sends them, and the ways in which they go astray. `StandIn.webhooks` is one of these.

Signed like the recorded ones: `Authorization` holds a bare HS256 JWT with `iss`, `nbf`, `exp` five minutes on and `sha256`,
the base64 of the SHA-256 of the raw body. Events of one egress or room stay in order unless a policy says otherwise; a
target that fails is tried again with a growing pause, and after 30 s the event is dropped.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
import jwt
from google.protobuf.json_format import MessageToDict
from livekit.protocol.webhook import WebhookEvent

from tests.fakes.livekit_egress.clock import Clock, new_id

GIVE_UP_AFTER = 30.0  # s: what has waited longer is dropped by LiveKit


@dataclass
class Policy:
    """May be changed while the stand-in runs; times in seconds of the stand-in's clock, shares from 0 to 1."""

    on: bool = True  # off: every event is lost
    delay: float = 0.0  # each event is sent so much later, in order
    reorder: float = 0.0  # each event is held back by a random time up to this, on its own
    loss: float = 0.0  # share of the events that are never sent
    doubled: float = 0.0  # share of the events sent twice, with the same id


@dataclass(frozen=True)
class Sent:
    at: float
    event: str
    subject: str
    id: str
    target: str
    status: int


@dataclass
class Webhooks:
    """`sent` is what arrived somewhere (last 20,000); `counts`: emitted, lost, sent, failed, dropped."""

    clock: Clock
    keys: Mapping[str, str]
    targets: list[str]
    seed: int = 1
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        self.sent: deque[Sent] = deque(maxlen=20_000)
        self.emitted: deque[WebhookEvent] = deque(maxlen=20_000)
        self.counts: Counter[str] = Counter()
        self.one_lane = False
        self._random = random.Random(self.seed)
        self._session: aiohttp.ClientSession | None = None
        self._lanes: dict[tuple[str, str], deque[tuple[float, bytes, WebhookEvent]]] = {}

    async def start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=10)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=64))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def emit(self, event: WebhookEvent) -> None:
        """Send it to every target as the policy has it; `id` and `created_at` are set where they are missing."""
        event.id = event.id or new_id("EV")
        event.created_at = event.created_at or int(time.time())
        self.emitted.append(event)
        self.counts["emitted"] += 1
        if not self.targets:
            return
        policy = self.policy
        if not policy.on or self._random.random() < policy.loss:
            self.counts["lost"] += 1
            return
        body = json.dumps(MessageToDict(event), ensure_ascii=False, separators=(", ", ":")).encode()
        times = 2 if self._random.random() < policy.doubled else 1
        for target in self.targets:
            for _ in range(times):
                if policy.reorder:
                    held = policy.delay + self._random.random() * policy.reorder
                    self.clock.later(held, self._queue, target, event.id, body, event)
                elif policy.delay:
                    self.clock.later(policy.delay, self._queue, target, self._lane(event), body, event)
                else:
                    self._queue(target, self._lane(event), body, event)

    def _lane(self, event: WebhookEvent) -> str:
        if self.one_lane:
            return ""
        return event.egress_info.egress_id or event.ingress_info.ingress_id or event.room.name

    def _queue(self, target: str, lane: str, body: bytes, event: WebhookEvent) -> None:
        if self._session is None:
            return
        waiting = self._lanes.get((target, lane))
        if waiting is not None:
            waiting.append((self.clock.now(), body, event))
            return
        self._lanes[target, lane] = deque([(self.clock.now(), body, event)])
        self.clock.spawn(self._drain(target, lane))

    async def _drain(self, target: str, lane: str) -> None:
        waiting = self._lanes[target, lane]
        while waiting:
            await self._send(target, *waiting.popleft())
        del self._lanes[target, lane]

    async def _send(self, target: str, since: float, body: bytes, event: WebhookEvent) -> None:
        pause = 0.5
        while self._session is not None:
            try:
                headers = {"Authorization": self._token(body), "Content-Type": "application/webhook+json"}
                async with self._session.post(target, data=body, headers=headers) as answer:
                    await answer.read()
                    self.sent.append(
                        Sent(self.clock.now(), event.event, subject(event), event.id, target, answer.status)
                    )
                    if answer.status < 500:
                        self.counts["sent" if answer.status < 300 else "failed"] += 1
                        return
            except (TimeoutError, aiohttp.ClientError, RuntimeError):
                pass
            self.counts["retried"] += 1
            if self.clock.now() - since + pause > GIVE_UP_AFTER:
                self.counts["dropped"] += 1
                return
            await self.clock.sleep(pause)
            pause = min(pause * 2, 8.0)

    def _token(self, body: bytes) -> str:
        key, secret = next(iter(self.keys.items()))
        now = int(time.time())
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        return jwt.encode({"iss": key, "exp": now + 300, "nbf": now, "iat": now, "sha256": digest}, secret, "HS256")

    async def settled(self, timeout: float = 5.0) -> None:
        """Wait (real seconds) until nothing is on its way; raises TimeoutError."""
        end = time.monotonic() + timeout
        while self._lanes:
            if time.monotonic() > end:
                raise TimeoutError("webhooks are still on their way")
            await asyncio.sleep(0.01)


def subject(event: WebhookEvent) -> str:
    """What the event is about: an egress id, an ingress id, a participant's identity (with a track's kind) or a room."""
    if event.egress_info.egress_id:
        return event.egress_info.egress_id
    if event.ingress_info.ingress_id:
        return event.ingress_info.ingress_id
    if event.HasField("track"):
        return f"{event.participant.identity}/{event.track.name}"
    return event.participant.identity or event.room.name
