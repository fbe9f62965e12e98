"""The caller of a request, and the rules that all kinds of credentials share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from butai.errors import InvalidRequest, Unauthenticated

Kind = Literal["anonymous", "session", "bearer", "api_key", "host_token"]

LEEWAY = 15.0
"""Seconds that clocks may differ: as in NextAuth (`clockTolerance: 15`)."""

USER: frozenset[str] = frozenset({"user"})
USER_AND_OPERATOR: frozenset[str] = frozenset({"user", "operator"})

_MAX_USER_ID = 255
"""Characters. Ids are cuids, uuids, e-mail addresses, or issuers' subjects (OpenID Connect: at most 255)."""

_NO_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)))


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request. An anonymous caller is a value too (`ANONYMOUS`).

    `scopes`: `user` may act as `user_id`; `operator`, which always comes with `user`, may act on what belongs to other
    users. `rooms`: the rooms that a host token may control, in `livekit_project`, until `rights_end` (seconds since
    1970) and while the room has the token generation `room_generation`. `by_cookie`: the browser sent the
    credential by itself, so writes must come from a trusted origin (`butai.identity.origins`).
    """

    user_id: str | None
    kind: Kind
    scopes: frozenset[str] = frozenset()
    rooms: frozenset[str] = frozenset()
    livekit_project: str | None = None
    room_generation: int | None = None
    rights_end: float | None = None
    by_cookie: bool = False
    name: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)

    @property
    def is_anonymous(self) -> bool:
        """Whether the request had no credential."""
        return self.user_id is None

    @property
    def is_operator(self) -> bool:
        """Whether the caller may act on what belongs to other users."""
        return "operator" in self.scopes


ANONYMOUS = Caller(user_id=None, kind="anonymous")


def usable_user_id(value: object) -> str:
    """A claim as a user id: a printable string of 1 to 255 characters, or a whole number (ids from a serial column).

    Raises `Unauthenticated` for anything else: NUL and lone surrogates cannot be stored by Postgres.
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return str(value)
    if isinstance(value, str) and 0 < len(value) <= _MAX_USER_ID and value.isprintable():
        return value
    raise Unauthenticated("The credential names no usable user")


def chosen_user_id(value: str) -> str:
    """A user id that was written by hand, by the rule of `usable_user_id`. Raises `InvalidRequest`."""
    try:
        return usable_user_id(value)
    except Unauthenticated:
        raise InvalidRequest("A user id is 1 to 255 printable characters") from None


def shown(value: object) -> str | None:
    """A name or an e-mail address for display: a string without control characters, at most 255 long, or None."""
    if not isinstance(value, str):
        return None
    # "ignore" drops lone surrogates, which other programs cannot read.
    return value.translate(_NO_CONTROLS).encode("utf-8", "ignore").decode()[:255] or None


def check_times(expires: float, not_before: float | None, now: float) -> None:
    """Raises `Unauthenticated` unless `now` is within `not_before`…`expires` (seconds since 1970), within the
    leeway."""
    if not math.isfinite(expires):  # `Infinity`, `NaN` and 1e999 pass for numbers
        raise Unauthenticated("The credential has no end")
    if expires <= now - LEEWAY:
        raise Unauthenticated("The credential has expired")
    if not_before is not None and not_before > now + LEEWAY:
        raise Unauthenticated("The credential is not valid yet")
