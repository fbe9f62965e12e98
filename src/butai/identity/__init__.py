"""Identifies callers: from a request's headers to a `Caller`.

One `Identity` serves a process, and is asked once for each request.
Routes read the `Caller`; no other code reads credentials.

Credentials, strongest first; the first one present decides, and the others are ignored:

1. `Authorization: Bearer butai_…` (API key), `Authorization: Bearer <JWT>` of our LiveKit project that may administer a
   room (host token), or of OpenID Connect,
2. `X-API-Key: butai_…`,
3. the session cookie of Auth.js 5 or NextAuth 4 (`butai.identity.sessions`).

A request without a credential has an anonymous caller. A credential that is broken, expired, foreign, or of a kind that
is not configured is `Unauthenticated`, on public reads too: a client that believes itself signed in must learn that it
is not. All kinds share one name space of users: an issuer's `sub` must be the id that the studio's sessions carry.
"""

from butai.identity.api_keys import api_key_of
from butai.identity.caller import ANONYMOUS, Caller
from butai.identity.development import (
    check_dev_sign_in,
    dev_sign_in_cookie,
    is_every_address,
    is_loopback,
    is_loopback_name,
)
from butai.identity.identify import Identity
from butai.identity.origins import check_origin
from butai.identity.sessions import NEXTAUTH_COOKIE

__all__ = [
    "ANONYMOUS",
    "NEXTAUTH_COOKIE",
    "Caller",
    "Identity",
    "api_key_of",
    "check_dev_sign_in",
    "check_origin",
    "dev_sign_in_cookie",
    "is_every_address",
    "is_loopback",
    "is_loopback_name",
]
