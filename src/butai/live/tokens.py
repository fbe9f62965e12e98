"""LiveKit access tokens: made for hosts, guests, viewers and our own egress; read when a host shows one.

Called by `rooms`, by `butai.identity` through `HostTokens`, and by `butai.live.egress`. LiveKit's own library makes
and checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from livekit import api

from butai.config import LiveKitSettings
from butai.errors import LiveKitNotConfigured

Role = Literal["host", "guest", "viewer"]


@dataclass(frozen=True, slots=True)
class HostClaims:
    """What a host token says: it may administer `room`, as `identity`."""

    room: str
    identity: str


EMPTY_SECONDS = 600
"""How long LiveKit keeps a room that nobody has joined yet."""

STAY_SECONDS = 90
"""How long it keeps one that everybody has left, beyond LiveKit's 20: a host who reloads comes back to the same one. More
than the default grace of a broadcast."""


class Tokens:
    """Of one LiveKit project."""

    def __init__(self, settings: LiveKitSettings) -> None:
        self._settings = settings

    @property
    def configured(self) -> bool:
        """Whether there is a LiveKit to make tokens for."""
        return bool(self._settings.url and self._settings.api_key and self._settings.api_secret.get_secret_value())

    def make(self, role: Role, room: str, identity: str, name: str, hours: float) -> str:
        """A token to join with. Raises `LiveKitNotConfigured`."""
        grants = api.VideoGrants(
            room_join=True,
            room=room,
            room_admin=role == "host",
            can_publish=role != "viewer",
            can_publish_data=role != "viewer",
            can_subscribe=True,
        )
        return self._sign(identity, name, grants, timedelta(hours=hours))

    def for_egress(self, room: str, identity: str) -> str:
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
        return self._sign(identity, "", grants, timedelta(days=1))

    def read_host(self, token: str) -> HostClaims | None:
        """What a host token says; None when it is not ours, has expired, or gives no room to administer."""
        if not self.configured:
            return None
        verifier = api.TokenVerifier(self._settings.api_key, self._settings.api_secret.get_secret_value())
        try:
            claims = verifier.verify(token)
        except Exception:
            # The library raises whatever its own parts raise; none of it is worth more than "no".
            return None
        grants = claims.video
        if grants is None or not grants.room_admin or not grants.room or not claims.identity:
            return None
        return HostClaims(grants.room, claims.identity)

    def room_of_host(self, token: str) -> tuple[str, str] | None:
        """The room that a host token rules and the identity in it, for `butai.identity`."""
        claims = self.read_host(token)
        return (claims.room, claims.identity) if claims else None

    def _sign(self, identity: str, name: str, grants: api.VideoGrants, ttl: timedelta) -> str:
        if not self.configured:
            raise LiveKitNotConfigured
        # For a room that the first to join makes. In sync: with packets lost, LiveKit otherwise lets sound run 0.3 s ahead of
        # the picture (bench/sync.py).
        room = api.RoomConfiguration(empty_timeout=EMPTY_SECONDS, departure_timeout=STAY_SECONDS, sync_streams=True)
        token = api.AccessToken(self._settings.api_key, self._settings.api_secret.get_secret_value())
        token = token.with_identity(identity).with_name(name).with_grants(grants).with_ttl(ttl)
        return token.with_room_config(room).to_jwt()
