"""LiveKit access tokens: made for hosts, guests, viewers and our own engines, and read from requests.

LiveKit's own library signs and verifies them.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import msgspec
from livekit import api
from livekit.api.access_token import Claims

from butai.live.projects import DEFAULT, LiveKitKey, Projects

Role = Literal["host", "guest", "viewer"]


@dataclass(frozen=True, slots=True)
class HostClaims:
    """A host token's claims: its holder may administer `room` of the LiveKit project `project`, as `identity`."""

    room: str
    identity: str
    project: str = DEFAULT


@dataclass(frozen=True, slots=True)
class Invitation:
    """A viewer token's claims: its holder may watch `room` of the LiveKit project `project`, for `seconds` from now."""

    room: str
    project: str
    seconds: float


EMPTY_SECONDS = 600
"""Seconds for which LiveKit keeps a room that no participant has joined yet."""

STAY_SECONDS = 90
"""Seconds for which LiveKit keeps a room after the last participant has left (its own default is 20): a host who
reloads returns to the same room. Longer than a broadcast's default grace of 60."""


class Tokens:
    """Signs and reads the tokens of all LiveKit projects, with each project's present keys."""

    def __init__(self, projects: Projects) -> None:
        self._projects = projects

    def make(self, project: str, role: Role, room: str, identity: str, name: str, hours: float) -> str:
        """A token to join with. Raises `LiveKitNotConfigured`."""
        grants = api.VideoGrants(
            room_join=True,
            room=room,
            room_admin=role == "host",
            can_publish=role != "viewer",
            can_publish_data=role != "viewer",
            can_subscribe=True,
        )
        return self._sign(project, identity, name, grants, timedelta(hours=hours))

    def for_egress(self, project: str, room: str, identity: str) -> str:
        """A token that subscribes to a room without being visible in it. Valid for a day: broadcasts may be long, and
        LiveKit renews the tokens of connected participants."""
        grants = api.VideoGrants(
            room_join=True,
            room=room,
            can_subscribe=True,
            can_publish=False,
            can_publish_data=False,
            hidden=True,
            recorder=True,
        )
        return self._sign(project, identity, "", grants, timedelta(days=1))

    def read_host(self, token: str) -> HostClaims | None:
        """A host token's claims; None when it is not ours, has expired, or grants no room to administer."""
        for project, key in self._projects.of_key(_issuer(token)):
            claims = _verified(token, key)
            grants = claims.video if claims else None
            if claims and grants and grants.room_admin and grants.room and claims.identity:
                return HostClaims(grants.room, claims.identity, project.name)
        return None

    def read_viewer(self, token: str) -> Invitation | None:
        """A viewer token's claims; None when it is not ours, has expired, or may publish."""
        for project, key in self._projects.of_key(_issuer(token)):
            claims = _verified(token, key)
            grants = claims.video if claims else None
            if grants and grants.room_join and grants.room and grants.can_subscribe and grants.can_publish is False:
                return Invitation(grants.room, project.name, _payload(token).exp - time.time())
        return None

    def room_of_host(self, token: str) -> tuple[str, str, str] | None:
        """The room that a host token may administer, the identity in it, and the project; None as for `read_host`."""
        claims = self.read_host(token)
        return (claims.room, claims.identity, claims.project) if claims else None

    def _sign(self, project: str, identity: str, name: str, grants: api.VideoGrants, ttl: timedelta) -> str:
        key = self._projects.get(project).key
        # Applies to a room that is created by the first to join. `sync_streams`: with lost packets LiveKit otherwise
        # lets sound run 0.3 s ahead of the picture (bench/sync.py).
        room = api.RoomConfiguration(empty_timeout=EMPTY_SECONDS, departure_timeout=STAY_SECONDS, sync_streams=True)
        token = api.AccessToken(key.api_key, key.api_secret)
        token = token.with_identity(identity).with_name(name).with_grants(grants).with_ttl(ttl)
        return token.with_room_config(room).to_jwt()


class _Payload(msgspec.Struct):
    iss: str = ""
    exp: float = 0.0


def _payload(token: str) -> _Payload:
    """The claims of a token whose signature has not been checked; empty for a text that is not a token."""
    try:
        payload = token.split(".")[1]
        return msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Payload)
    except (IndexError, ValueError, msgspec.MsgspecError, RecursionError):
        return _Payload()


def _issuer(token: str) -> str:
    """The API key that a token claims to be signed with."""
    return _payload(token).iss


def _verified(token: str, key: LiveKitKey) -> Claims | None:
    try:
        return api.TokenVerifier(key.api_key, key.api_secret).verify(token)
    except Exception:  # noqa: BLE001 - whatever it raises, the token is invalid
        # The library passes on whatever PyJWT and its own parsing raise; each of them means an invalid token.
        return None
