"""Cross-site writes: browsers send cookies whichever site made the page, so a write must prove its origin.

Only callers with a cookie are checked. Tokens and API keys need no such check: a page
cannot make a browser add them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from butai.errors import OriginDenied

Headers = Iterable[tuple[bytes, bytes]]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_WEB_SCHEMES = {"ws": "http", "wss": "https"}


def check_origin(method: str, headers: Headers, allowed_origins: Collection[str], own_origins: Collection[str]) -> None:
    """Raises `OriginDenied` unless a request by cookie may write. Safe methods always may.

    `allowed_origins`, `own_origins`: as from `normal_origin`. The rules, in this order:

    1. `Sec-Fetch-Site` is present (every browser since 2023): `same-origin` and `none` (typed by the user) pass; any
    other value passes only with an `Origin` that is allowed.
    2. `Origin` is present: it must be our own or allowed. `null` (sandboxed pages, `file:`) never passes.
    3. Neither is present: the request passes. Browsers send `Origin` with every unsafe method; a request with neither
    is a program's, which holds its cookie on purpose.
    """
    if method in SAFE_METHODS:
        return
    site = origin = None
    for name, value in headers:
        if name == b"sec-fetch-site":
            if site is not None:
                raise OriginDenied
            site = value
        elif name == b"origin":
            if origin is not None:
                raise OriginDenied
            origin = value
    if site in (b"same-origin", b"none"):
        return
    if site is None and origin is None:
        return
    named = normal_origin(origin.decode("latin-1")) if origin is not None else None
    if named is None or not (named in allowed_origins or (site is None and named in own_origins)):
        raise OriginDenied


def normal_origin(url: str) -> str | None:
    """`https://host` or `https://host:port` of a URL: lower case, without the scheme's own port. None if it has none.

    `ws` and `wss` count as `http` and `https`: a page's origin is never a WebSocket's.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname
    if not host or parts.username is not None or parts.scheme not in _DEFAULT_PORTS:
        return None
    scheme = _WEB_SCHEMES.get(parts.scheme, parts.scheme)
    if ":" in host:
        host = f"[{host}]"
    return f"{scheme}://{host}" if port in (None, _DEFAULT_PORTS[scheme]) else f"{scheme}://{host}:{port}"


def seen_origin(scheme: str, headers: Headers) -> str | None:
    """Our own origin as the request names it (`Host`); None unless there is exactly one `Host`.

    A page elsewhere cannot choose it: the browser sets `Host` to where the request goes.
    """
    hosts = [value for name, value in headers if name == b"host"]
    return normal_origin(f"{scheme}://{hosts[0].decode('latin-1')}") if len(hosts) == 1 else None
