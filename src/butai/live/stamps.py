"""Stamps: Butai's own part of a room's tokens, in an attribute of the LiveKit token.

LiveKit hands every participant a renewed token, again and again, so that its end says nothing of rights that were given
for a time. It copies the attributes. The stamp in one of them has an end of its own and the number of the room's
token generation, which a revocation raises. It is signed, because a participant with `roomAdmin` may write attributes.

Other participants see it. It is no credential: only the whole LiveKit token of the same room and identity is one.
"""

from __future__ import annotations

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


def _secret(api_secret: str) -> str:
    """A secret of its own for stamps: what LiveKit's secret signs by itself is a LiveKit token."""
    return hmac.digest(api_secret.encode(), b"butai stamp", "sha256").hex()
