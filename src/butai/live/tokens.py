"""LiveKit access tokens: made for hosts, guests, viewers and our own egress; read when a host shows one.

Called by `rooms`, by `butai.identity` through `HostTokens`, and by `butai.live.egress`. LiveKit's own library makes
and checks them.
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
    """What a host token says: it may administer `room` of the LiveKit project `project`, as `identity`."""

    room: str
    identity: str
    project: str = DEFAULT


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a viewer's token says: its holder may see `room` of the LiveKit project `project`, for `seconds` from now."""

    room: str
    project: str
    seconds: float


EMPTY_SECONDS = 600
"""How long LiveKit keeps a room that nobody has joined yet."""

STAY_SECONDS = 90
"""How long it keeps one that everybody has left, beyond LiveKit's 20: a host who reloads comes back to the same one. More
than the default grace of a broadcast."""


class Tokens:
    """Of all LiveKit projects, each with its keys of the moment."""

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
        """A token that sees and hears a room, and is seen by nobody. Good for a day: a show may be long, and LiveKit
        renews the tokens of those who are there."""
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
        """What a host token says; None when it is not ours, has expired, or gives no room to administer."""
        for project, key in self._projects.of_key(_issuer(token)):
            claims = _verified(token, key)
            grants = claims.video if claims else None
            if claims and grants and grants.room_admin and grants.room and claims.identity:
                return HostClaims(grants.room, claims.identity, project.name)
        return None

    def read_viewer(self, token: str) -> Invitation | None:
        """What a viewer's token says; None when it is not ours, has expired, or is not one that can only watch."""
        for project, key in self._projects.of_key(_issuer(token)):
            claims = _verified(token, key)
            grants = claims.video if claims else None
            if grants and grants.room_join and grants.room and grants.can_subscribe and grants.can_publish is False:
                return Invitation(grants.room, project.name, _payload(token).exp - time.time())
        return None

    def room_of_host(self, token: str) -> tuple[str, str, str] | None:
        """The room that a host token rules, the identity in it, and the project, for `butai.identity`."""
        claims = self.read_host(token)
        return (claims.room, claims.identity, claims.project) if claims else None

    def _sign(self, project: str, identity: str, name: str, grants: api.VideoGrants, ttl: timedelta) -> str:
        key = self._projects.get(project).key
        # For a room that the first to join makes. In sync: with packets lost, LiveKit otherwise lets sound run 0.3 s ahead of
        # the picture (bench/sync.py).
        room = api.RoomConfiguration(empty_timeout=EMPTY_SECONDS, departure_timeout=STAY_SECONDS, sync_streams=True)
        token = api.AccessToken(key.api_key, key.api_secret)
        token = token.with_identity(identity).with_name(name).with_grants(grants).with_ttl(ttl)
        return token.with_room_config(room).to_jwt()


class _Payload(msgspec.Struct):
    iss: str = ""
    exp: float = 0.0


def _payload(token: str) -> _Payload:
    """What a token says of itself; not believed before its signature is checked."""
    try:
        payload = token.split(".")[1]
        return msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Payload)
    except (IndexError, ValueError, msgspec.MsgspecError, RecursionError):
        return _Payload()


def _issuer(token: str) -> str:
    """The API key that a token says it is of."""
    return _payload(token).iss


def _verified(token: str, key: LiveKitKey) -> Claims | None:
    try:
        return api.TokenVerifier(key.api_key, key.api_secret).verify(token)
    except Exception:
        # The library raises whatever its own parts raise; none of it is worth more than "no".
        return None
