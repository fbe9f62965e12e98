"""LiveKit access tokens: made for hosts, guests, viewers and our own engines, and read from requests.

LiveKit's own library signs them; `butai.identity.shared_secret` checks them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import msgspec
from livekit import api

from butai.identity.shared_secret import SharedSecretToken
from butai.live.projects import DEFAULT, Project, Projects

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


LEEWAY = 60.0
"""Seconds by which the clock of a token's maker may differ from ours, as in LiveKit itself."""


class _Grants(msgspec.Struct, rename="camel"):
    """LiveKit's own defaults; an absent grant to publish or to subscribe counts as given."""

    room_join: bool = False
    room: str = ""
    room_admin: bool = False
    can_publish: bool | None = True
    can_subscribe: bool | None = True


class _Claims(msgspec.Struct):
    iss: str = ""
    sub: str = ""
    exp: float = 0.0
    nbf: float = 0.0
    iat: float = 0.0
    video: _Grants = msgspec.field(default_factory=_Grants)


_decode_claims = msgspec.json.Decoder(_Claims).decode


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
        for project, claims in self._verified(token):
            grants = claims.video
            if grants.room_admin and grants.room and claims.sub:
                return HostClaims(grants.room, claims.sub, project.name)
        return None

    def read_viewer(self, token: str) -> Invitation | None:
        """A viewer token's claims; None when it is not ours, has expired, or may publish."""
        for project, claims in self._verified(token):
            grants = claims.video
            if grants.room_join and grants.room and grants.can_subscribe and grants.can_publish is False:
                return Invitation(grants.room, project.name, claims.exp - time.time())
        return None

    def _verified(self, token: str) -> Iterator[tuple[Project, _Claims]]:
        """The token's claims, once for each project that has signed it. Nothing for one that is not valid now."""
        try:
            signed = SharedSecretToken(token.encode())
            claims = _decode_claims(signed.payload)
        except (ValueError, RecursionError):
            return
        now = time.time()
        if claims.exp + LEEWAY < now or max(claims.nbf, claims.iat) - LEEWAY > now:
            return
        for project, key in self._projects.of_key(claims.iss):
            if signed.is_signed_with(key.api_secret):
                yield project, claims

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
