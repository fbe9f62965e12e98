"""LiveKit's API for egresses, with errors that say what is known afterwards.

LiveKit's own client (`livekit-api`) makes the calls. Its retries are switched off: `StartEgress` is not idempotent, and a
second one is a second push to the same key. Each call takes the project's key of that moment, so keys may be exchanged
while all goes on. Used by `livekit` and `poller`; one gateway for each project.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
from livekit import api
from livekit.protocol.egress import EgressInfo, StartEgressRequest

from butai.errors import LiveKitNotConfigured
from butai.live.projects import Projects


@dataclass(frozen=True)
class Patience:
    """Seconds for LiveKit's answers; tests with faster clocks have shorter ones."""

    start: float = 60.0
    """StartEgress takes half a second when all is well, and 22 until "no response from servers": whoever gives up before
    that is in doubt each time."""
    stop: float = 10.0
    """StopEgress takes 3 when the worker is dead."""
    look: float = 5.0
    """Whatever only reads."""

    def faster(self, times: float) -> Patience:
        """All of them divided."""
        return Patience(self.start / times, self.stop / times, max(self.look / times, 1.0))


_Answer = TypeVar("_Answer")


class GatewayError(Exception):
    """LiveKit did not do it. The text is for operators and may hold an address: redact it."""


class Refused(GatewayError):
    """It said no. `status`: HTTP's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message or code)
        self.status, self.code = status, code


class Unauthorized(GatewayError):
    """It does not take our key."""


class Unreachable(GatewayError):
    """It does not answer. `sent`: the request may have arrived all the same, and be done."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


class Gateway:
    """One project's."""

    def __init__(
        self, projects: Projects, name: str, http: aiohttp.ClientSession, patience: Patience | None = None
    ) -> None:
        """`http`: kept open by whoever made it."""
        self._projects, self.name, self._http = projects, name, http
        self._patience = patience or Patience()
        self.calls: Counter[str] = Counter()
        """How often LiveKit was asked what."""

    async def start(self, request: StartEgressRequest) -> EgressInfo:
        """A new egress. Raises `GatewayError`; after `Unreachable` with `sent` there may be one."""
        return await self._call("StartEgress", self._patience.start, lambda of: of.egress.start_egress(request))

    async def start_participant(self, request: api.ParticipantEgressRequest) -> EgressInfo:
        """As `start`, in the older form, which ends when the participant leaves."""
        return await self._call(
            "StartParticipantEgress", self._patience.start, lambda of: of.egress.start_participant_egress(request)
        )

    async def update(self, request: api.UpdateStreamRequest) -> EgressInfo:
        """Adds or removes addresses of an egress."""
        return await self._call("UpdateStream", self._patience.stop, lambda of: of.egress.update_stream(request))

    async def stop(self, egress_id: str) -> EgressInfo:
        """Ends an egress. `Refused` with 412: it has ended; 404: unknown; 408: its worker is dead."""
        asked = api.StopEgressRequest(egress_id=egress_id)
        return await self._call("StopEgress", self._patience.stop, lambda of: of.egress.stop_egress(asked))

    async def active(self, room_id: str = "") -> list[EgressInfo]:
        """All that are not over: of the project, or of a room."""
        asked = api.ListEgressRequest(active=True, room_name=room_id)
        answer = await self._call("ListEgress", self._patience.look, lambda of: of.egress.list_egress(asked))
        return list(answer.items)

    async def one(self, egress_id: str) -> EgressInfo | None:
        """An egress by its id; None when LiveKit knows none."""
        asked = api.ListEgressRequest(egress_id=egress_id)
        try:
            answer = await self._call("ListEgress", self._patience.look, lambda of: of.egress.list_egress(asked))
        except Refused as error:
            if error.status == 404:
                return None
            raise
        return next(iter(answer.items), None)

    async def participants(self, room_id: str) -> list[api.ParticipantInfo] | None:
        """Who is in a room, hidden ones too; None when there is no such room."""
        asked = api.ListParticipantsRequest(room=room_id)
        try:
            answer = await self._call(
                "ListParticipants", self._patience.look, lambda of: of.room.list_participants(asked)
            )
        except Refused as error:
            if error.status == 404:
                return None
            raise
        return list(answer.participants)

    async def _call(self, method: str, seconds: float, ask: Callable[[api.LiveKitAPI], Awaitable[_Answer]]) -> _Answer:
        self.calls[method] += 1
        try:
            project = self._projects.get(self.name)
        except LiveKitNotConfigured:
            raise Unreachable(f"no project {self.name} is configured", sent=False) from None
        key = project.key
        of = api.LiveKitAPI(project.http_url, key.api_key, key.api_secret, session=self._http, failover=False)
        try:
            async with asyncio.timeout(seconds):
                return await ask(of)
        except api.TwirpError as error:
            if error.status in (401, 403):
                raise Unauthorized(f"{method}: {error.status}") from None
            if error.status in (502, 504) or (error.status == 503 and error.code == "unknown"):
                # A proxy before LiveKit: its own errors carry a code.
                raise Unreachable(f"{method}: {error.status}", sent=True) from None
            raise Refused(error.status, error.code, error.message) from None
        except TimeoutError:
            raise Unreachable(f"{method}: no answer within {seconds:.0f} s", sent=True) from None
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"{method}: {type(error).__name__}", sent=False) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{method}: {type(error).__name__}", sent=True) from None


def open_http() -> aiohttp.ClientSession:
    """A session for gateways. Each call has its own patience."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, connect=5),
        connector=aiohttp.TCPConnector(limit=200, keepalive_timeout=30),
    )
