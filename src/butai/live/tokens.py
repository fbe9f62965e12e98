"""LiveKit access tokens: made for hosts, guests, viewers and our own engines, and read from requests.

LiveKit's own library makes them; `butai.identity.shared_secret` checks them. What a token allows at Butai is in its
stamp (`stamps`), never in a grant of LiveKit's alone: LiveKit renews the tokens of all who join.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

import msgspec
from joserfc import jws
from joserfc.jwk import OctKey
from livekit import api

from butai.identity.caller import Caller, shown
from butai.identity.shared_secret import SharedSecretToken
from butai.live import stamps
from butai.live.projects import DEFAULT, Project, Projects
from butai.live.stamps import Stamp, StampRole

Role = Literal["host", "guest", "viewer"]


@dataclass(frozen=True, slots=True)
class AdminClaims:
    """The claims of any LiveKit token with `roomAdmin`, also of another program: proof of a right at LiveKit, for claiming
    `room` of the LiveKit project `project`, where its holder is `identity`."""

    room: str
    identity: str
    project: str = DEFAULT


@dataclass(frozen=True, slots=True)
class StampedClaims:
    """The claims of a token that this service made: its stamp, and the LiveKit project."""

    stamp: Stamp
    project: str = DEFAULT

    @property
    def seconds(self) -> float:
        """Seconds until the stamp ends; negative within the leeway after that."""
        return self.stamp.end - time.time()


GUEST_HOURS = 12.0
"""Hours for which a guest's or a viewer's token is good, at most until the end of the host token that made it."""

BEFORE = 24 * 3600
"""Seconds before now from which a token is good: LiveKit's clock may be behind ours, and would refuse it."""

STAY_SECONDS = 12 * 3600
"""Seconds for which LiveKit keeps a room that no participant has joined yet, or after the last one has left (its own
default is 20; engines do not count): a host returns to the same room, whatever the grace of the broadcast. An empty room
costs nothing; one that is idle goes by a sweep (`rooms.idle`)."""


LEEWAY = 60.0
"""Seconds by which the clock of a LiveKit token's maker may differ from ours, as in LiveKit itself."""

STAMP_LEEWAY = 15.0
"""Seconds for which rights outlast the end of their stamp: our own machines' clocks may differ by so much, as for all
credentials here."""

_ENGINES = re.compile(r"EG_\w+|egress-[0-9a-f]{8}-[0-9a-f-]{27}(?:-spare)?")


def is_engines(identity: str) -> bool:
    """Whether an identity has the form of those of LiveKit Egress and the relay, which are hidden participants."""
    return _ENGINES.fullmatch(identity) is not None


def engine_identity(broadcast_id: UUID, *, spare: bool = False) -> str:
    """The identity of a broadcast's relay in the room. LiveKit admits one participant of each: with the `spare` one, a
    relay joins a second time before it leaves."""
    return f"egress-{broadcast_id}{'-spare' if spare else ''}"


class _Grants(msgspec.Struct, rename="camel"):
    """LiveKit's own defaults; an absent grant to publish or to subscribe counts as given."""

    room_join: bool = False
    room: str = ""
    room_admin: bool = False
    can_publish: bool | None = True
    can_subscribe: bool | None = True

    def fits(self, role: StampRole) -> bool:
        """Whether these are the grants of a host's token, or for any other role of one that may watch and no more."""
        if not (self.room_join and self.room):
            return False
        if role == "host":
            return self.room_admin
        return not self.room_admin and bool(self.can_subscribe) and self.can_publish is False


class _RoomConfig(msgspec.Struct):
    tags: dict[str, str] = msgspec.field(default_factory=dict)


class _Claims(msgspec.Struct, rename="camel"):
    iss: str = ""
    sub: str = ""
    exp: float = 0.0
    nbf: float = 0.0
    iat: float = 0.0
    video: _Grants = msgspec.field(default_factory=_Grants)
    attributes: dict[str, str] = msgspec.field(default_factory=dict)
    room_config: _RoomConfig = msgspec.field(default_factory=_RoomConfig)


_decode_claims = msgspec.json.Decoder(_Claims).decode


class Tokens:
    """Signs and reads the tokens of all LiveKit projects, with each project's present keys."""

    def __init__(self, projects: Projects) -> None:
        self._projects = projects

    def make(self, project: str, stamp: Stamp, name: str = "") -> str:
        """A token to join with, which ends with its stamp. Raises `LiveKitNotConfigured`."""
        watches = stamp.role in ("viewer", "invitation")
        grants = api.VideoGrants(
            room_join=True,
            room=stamp.room,
            room_admin=stamp.role == "host",
            can_publish=not watches,
            can_publish_data=not watches,
            can_subscribe=True,
        )
        ttl = timedelta(seconds=max(1.0, stamp.end - time.time()))
        return self._sign(project, stamp.identity, name, grants, ttl, stamp)

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

    def read_admin(self, token: str) -> AdminClaims | None:
        """The claims of a token with `roomAdmin`, perhaps of another program; None when it is not signed with a key of
        ours, has expired, or grants no room to administer."""
        for project, claims in self._verified(token):
            grants = claims.video
            if grants.room_admin and grants.room and claims.sub:
                return AdminClaims(grants.room, claims.sub, project.name)
        return None

    def read_host(self, token: str) -> StampedClaims | None:
        """A host token's claims; None when this service did not make it, its stamp has ended, or it is no host's.

        Whether it was revoked, the room's generation says.
        """
        return self._stamped(token, "host")

    def read_invitation(self, token: str) -> StampedClaims | None:
        """An invitation's claims; None as for `read_host`."""
        return self._stamped(token, "invitation")

    def host(self, token: str) -> Caller | None:
        """The caller that a host token identifies; None as for `read_host`. It has no user id: it acts for its room,
        and owns no files. Elsewhere it is anonymous."""
        claims = self.read_host(token)
        if claims is None:
            return None
        stamp = claims.stamp
        return Caller(
            user_id=None,
            kind="host_token",
            rooms=frozenset({stamp.room}),
            livekit_project=claims.project,
            room_generation=stamp.generation,
            rights_end=stamp.end,
            name=shown(stamp.identity),
        )

    def stamp_of(self, project: str, room: str, identity: str, attributes: Mapping[str, str]) -> Stamp | None:
        """The stamp among a participant's attributes; None without a valid one. Raises `LiveKitNotConfigured`."""
        text = attributes.get(stamps.ATTRIBUTE)
        if text is None:
            return None
        return stamps.read(text, [key.api_secret for key in self._projects.get(project).keys], room, identity)

    def _stamped(self, token: str, role: StampRole) -> StampedClaims | None:
        for project, claims in self._verified(token):
            stamp = self.stamp_of(project.name, claims.video.room, claims.sub, claims.attributes)
            if stamp is None or stamp.role != role or not claims.video.fits(role):
                continue
            # Who administers a room may write a stamp that was seen there to another's token, or to an old one.
            if claims.room_config.tags != stamps.tags(claims.attributes[stamps.ATTRIBUTE]):
                continue
            if stamp.end + STAMP_LEEWAY > time.time():
                return StampedClaims(stamp, project.name)
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

    def _sign(
        self,
        project: str,
        identity: str,
        name: str,
        grants: api.VideoGrants,
        ttl: timedelta,
        stamp: Stamp | None = None,
    ) -> str:
        key = self._projects.get(project).key
        # Applies to a room that is created by the first to join. `sync_streams`: with lost packets LiveKit otherwise
        # lets sound run 0.3 s ahead of the picture (bench/sync.py).
        room = api.RoomConfiguration(empty_timeout=STAY_SECONDS, departure_timeout=STAY_SECONDS, sync_streams=True)
        token = api.AccessToken(key.api_key, key.api_secret)
        token = token.with_identity(identity).with_name(name).with_grants(grants).with_ttl(ttl)
        if stamp is not None:
            text = stamps.sign(stamp, key.api_secret)
            token = token.with_attributes({stamps.ATTRIBUTE: text})
            room.tags.update(stamps.tags(text))
        return _valid_before(token.with_room_config(room).to_jwt(), key.api_secret)


def _valid_before(token: str, api_secret: str) -> str:
    """The token, good from `BEFORE` on: the library takes the present time."""
    claims = msgspec.json.decode(SharedSecretToken(token.encode()).payload)
    claims["nbf"] -= BEFORE
    header = {"alg": "HS256", "typ": "JWT"}
    return jws.serialize_compact(header, msgspec.json.encode(claims), OctKey.import_key(api_secret))
