"""The Twirp side: routes, tokens, protobuf and JSON bodies, errors as livekit-server 1.13 gives them.

A wrong secret or unknown key is refused before Twirp, in plain text (the client then knows no code); a token that lacks a
grant is Twirp's `unauthenticated`. `StandIn` gives it the function that answers.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import jwt
from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from livekit.protocol import egress, ingress, models, room

_STATUS = {
    "unauthenticated": 401,
    "not_found": 404,
    "bad_route": 404,
    "invalid_argument": 400,
    "malformed": 400,
    "failed_precondition": 412,
    "deadline_exceeded": 408,
    "unavailable": 503,
    "internal": 500,
    "resource_exhausted": 429,
}


class TwirpError(Exception):
    """An error answer. `code` is one of Twirp's; its HTTP status follows from it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = _STATUS[code]


class Method(NamedTuple):
    request: type[Message]
    response: type[Message]
    grant: str


METHODS: dict[str, Method] = {
    "Egress/StartEgress": Method(egress.StartEgressRequest, egress.EgressInfo, "roomRecord"),
    "Egress/StartParticipantEgress": Method(egress.ParticipantEgressRequest, egress.EgressInfo, "roomRecord"),
    "Egress/StartRoomCompositeEgress": Method(egress.RoomCompositeEgressRequest, egress.EgressInfo, "roomRecord"),
    "Egress/StartWebEgress": Method(egress.WebEgressRequest, egress.EgressInfo, "roomRecord"),
    "Egress/ListEgress": Method(egress.ListEgressRequest, egress.ListEgressResponse, "roomRecord"),
    "Egress/StopEgress": Method(egress.StopEgressRequest, egress.EgressInfo, "roomRecord"),
    "Egress/UpdateStream": Method(egress.UpdateStreamRequest, egress.EgressInfo, "roomRecord"),
    "RoomService/CreateRoom": Method(room.CreateRoomRequest, models.Room, "roomCreate"),
    "RoomService/DeleteRoom": Method(room.DeleteRoomRequest, room.DeleteRoomResponse, "roomCreate"),
    "RoomService/ListRooms": Method(room.ListRoomsRequest, room.ListRoomsResponse, "roomList"),
    "RoomService/ListParticipants": Method(room.ListParticipantsRequest, room.ListParticipantsResponse, "roomAdmin"),
    "RoomService/RemoveParticipant": Method(room.RoomParticipantIdentity, room.RemoveParticipantResponse, "roomAdmin"),
    "Ingress/CreateIngress": Method(ingress.CreateIngressRequest, ingress.IngressInfo, "ingressAdmin"),
    "Ingress/ListIngress": Method(ingress.ListIngressRequest, ingress.ListIngressResponse, "ingressAdmin"),
    "Ingress/DeleteIngress": Method(ingress.DeleteIngressRequest, ingress.IngressInfo, "ingressAdmin"),
}

Answer = Callable[[str, Message], Awaitable[Message | bytes]]
"""From a method's name (`Egress/StartEgress`) and its request; bytes are an answer already in protobuf's form."""


class TwirpServer:
    """An HTTP server on loopback whose address stays the same while it goes down and comes back."""

    def __init__(self, keys: Mapping[str, str], answer: Answer, port: int = 0) -> None:
        self.keys = keys
        self._answer = answer
        self._port = port
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._open = asyncio.Event()
        self._open.set()
        self.mode: str = "up"
        self.hanging = 0
        """Requests that have come and wait for `hang` to end."""
        self.routes: list[web.RouteDef] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 22)
        app.add_routes([web.post("/twirp/livekit.{service}/{method}", self._call), *self.routes])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()

    async def _listen(self) -> None:
        assert self._runner is not None
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        self._site = web.SockSite(self._runner, listener)
        await self._site.start()

    async def close(self) -> None:
        self._open.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def set_mode(self, mode: str) -> None:
        """`up`; `refuse`: connections are refused and the open ones cut; `hang`: taken, never answered; `error`: 500."""
        self.mode = mode
        if mode == "hang":
            self._open.clear()
        else:
            self._open.set()
        if mode == "refuse" and self._site is not None:
            await self._site.stop()
            self._site = None
            assert self._runner is not None and self._runner.server is not None
            for connection in list(self._runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
        elif mode != "refuse" and self._site is None:
            await self._listen()

    async def _call(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.mode == "hang":
            self.hanging += 1
            try:
                await self._open.wait()
            finally:
                self.hanging -= 1
        if self.mode == "error":
            return _error(TwirpError("internal", "twirp error unknown: internal error"))
        if self.mode == "refuse" and request.transport is not None:
            request.transport.abort()
        try:
            claims = self._claims(request.headers.get("Authorization", ""))
        except PermissionError as problem:
            return web.Response(status=401, text=str(problem))
        name = f"{request.match_info['service']}/{request.match_info['method']}"
        method = METHODS.get(name)
        if method is None:
            return _error(TwirpError("bad_route", f'no handler for path "{request.path}"'))
        as_json = request.content_type == "application/json"
        try:
            message = method.request()
            if as_json:
                json_format.Parse(body or b"{}", message, ignore_unknown_fields=True)
            else:
                message.ParseFromString(body)
            _check(claims, method, message)
            answer = await self._answer(name, message)
        except (json_format.ParseError, DecodeError) as problem:
            return _error(TwirpError("malformed", f"the request could not be decoded: {type(problem).__name__}"))
        except TwirpError as problem:
            return _error(problem)
        if as_json:
            if isinstance(answer, bytes):
                answer = method.response.FromString(answer)
            text = json_format.MessageToJson(answer, preserving_proto_field_name=True, indent=None)
            return web.Response(text=text, content_type="application/json")
        raw = answer if isinstance(answer, bytes) else answer.SerializeToString()
        return web.Response(body=raw, content_type="application/protobuf")

    def _claims(self, header: str) -> dict[str, Any]:
        token = header.removeprefix("Bearer ")
        if not token:
            return {}
        try:
            key = jwt.decode(token, options={"verify_signature": False}).get("iss", "")
        except jwt.PyJWTError:
            raise PermissionError("invalid authorization token") from None
        if key not in self.keys:
            raise PermissionError(f"invalid API key: {key}")
        try:
            return jwt.decode(token, self.keys[key], algorithms=["HS256"], leeway=60, options={"require": ["exp"]})
        except jwt.PyJWTError as problem:
            raise PermissionError(f"invalid token: {token}, error: {problem}") from None


def _check(claims: dict[str, Any], method: Method, message: Message) -> None:
    video = claims.get("video") or {}
    granted = bool(video.get(method.grant))
    if method.grant == "roomAdmin":
        granted = granted and video.get("room") == getattr(message, "room", None)
    if not granted:
        raise TwirpError("unauthenticated", "permissions denied")


def _error(problem: TwirpError) -> web.Response:
    text = json.dumps({"code": problem.code, "msg": str(problem)})
    return web.Response(status=problem.status, text=text, content_type="application/json")
