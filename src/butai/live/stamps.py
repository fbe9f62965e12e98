"""Stamps: Butai's own part of a room's tokens, in an attribute of the LiveKit token.

LiveKit hands every participant a renewed token, again and again, so that its end says nothing of rights that were given
for a time. It copies the attributes. The stamp in one of them has an end of its own and the number of the room's
token generation, which a revocation raises.

A participant with `roomAdmin` may write attributes, also its own, and other participants see them: the holder of an ended
host token could write the stamp of a newer one into its own renewed token. So a stamp is signed, and its digest stands in
the token's room configuration too, which LiveKit copies and lets no participant write. It is no credential: only the whole
token that it was made for is one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Literal

import msgspec
from joserfc import jws
from joserfc.jwk import OctKey

from butai.identity.shared_secret import SharedSecretToken

ATTRIBUTE = "butai.stamp"
"""The name of the attribute."""

StampRole = Literal["host", "guest", "viewer", "invitation"]
"""`invitation`: a viewer's token made by the host, which others exchange for one of their own with the role
`viewer`."""


class Stamp(msgspec.Struct, frozen=True):
    """`room` and `identity`: those of the token. `generation`: the room's at the time. `end`: seconds since 1970.
    `invitation`: the id of the invitation that it is, or was made from."""

    role: StampRole
    room: str
    identity: str
    generation: int
    end: float
    invitation: str | None = None


_decode = msgspec.json.Decoder(Stamp).decode


def sign(stamp: Stamp, api_secret: str) -> str:
    """The stamp as text (a compact JWS)."""
    return jws.serialize_compact({"alg": "HS256"}, msgspec.json.encode(stamp), OctKey.import_key(_secret(api_secret)))


def read(text: str, api_secrets: Iterable[str], room: str, identity: str) -> Stamp | None:
    """The stamp of this room and identity, whether it has ended or not; None for any other text. `api_secrets`: of the
    room's LiveKit project; one of them must have signed it."""
    try:
        signed = SharedSecretToken(text.encode())
        stamp = _decode(signed.payload)
    except (ValueError, RecursionError):
        return None
    if (stamp.room, stamp.identity) != (room, identity):
        return None
    return stamp if any(signed.is_signed_with(_secret(one)) for one in api_secrets) else None


def tags(text: str) -> dict[str, str]:
    """The tags of the room configuration in the token that this stamp is made for."""
    return {ATTRIBUTE: hashlib.sha256(text.encode()).hexdigest()}


def _secret(api_secret: str) -> str:
    """A secret of its own for stamps: what LiveKit's secret signs by itself is a LiveKit token."""
    return hmac.digest(api_secret.encode(), b"butai stamp", "sha256").hex()
