"""Development sign-in: a studio on the developer's own machine, without setting up a sign-in service.

`butai.operations.sign_in` exchanges a one-time code for a session: `check_dev_sign_in` decides whether the caller may
try, `dev_sign_in_cookie` makes the session. It is a NextAuth 4 session like any other, so a studio with the same secret
accepts it too.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from butai.config import IdentitySettings
from butai.errors import NotFound
from butai.identity.caller import chosen_user_id
from butai.identity.origins import Headers, seen_origin
from butai.identity.sessions import mint_nextauth4

# A proxy adds these; behind a proxy on this machine, all requests seem to come from loopback.
_PROXY_HEADERS = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip", b"via"}
)


def is_loopback(host: str | None) -> bool:
    """Whether an address (no name) is this machine: 127.0.0.0/8, ::1, and 127.0.0.0/8 written as IPv6."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback


def is_every_address(host: str) -> bool:
    """Whether a server that listens on `host` listens on all addresses of its machine, loopback among them."""
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def is_loopback_name(host: str) -> bool:
    """Whether a host name or an address, in lower case and without brackets, is this machine's own. `localhost` and what is
    below it belong to no one on the internet (RFC 6761)."""
    return host == "localhost" or host.endswith(".localhost") or is_loopback(host)


def check_dev_sign_in(settings: IdentitySettings, client_host: str | None, headers: Headers) -> None:
    """Raises `NotFound`, as if the path did not exist, unless all of this holds. A second check: a caller without a code
    is refused wherever the request comes from.

    It is switched on; the caller's address is loopback; no proxy has passed the request on; `Host` is a loopback name
    or address (otherwise a page whose name resolves to 127.0.0.1 could use it: DNS rebinding); and the browser was not
    sent here by another site (which could sign its visitor in as a user of its choice).
    """
    seen = list(headers)
    names = {name for name, _ in seen}
    if not settings.dev_sign_in or not is_loopback(client_host) or names & _PROXY_HEADERS:
        raise NotFound
    host = urlsplit(seen_origin("http", seen) or "").hostname or ""
    if not is_loopback_name(host):
        raise NotFound
    if any(name == b"sec-fetch-site" and value == b"cross-site" for name, value in seen):
        raise NotFound


def dev_sign_in_cookie(settings: IdentitySettings, user: str, name: str | None = None) -> str:
    """The value of the cookie `NEXTAUTH_COOKIE` that signs `user` in for 30 days.

    Raises `InvalidRequest` for an id that no user can have, `ValueError` when NEXTAUTH_SECRET is not set.
    """
    user = chosen_user_id(user)
    claims: dict[str, Any] = {"sub": user, "id": user, "name": name or user}
    return mint_nextauth4(settings, claims)
