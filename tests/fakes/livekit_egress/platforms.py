"""What a platform does with an attempt to publish to it; scripts are lists of these, one entry for each attempt."""

from __future__ import annotations

from dataclasses import dataclass

REFUSED = "Failed to connect: 'publish' cmd failed: connection closed remotely"
UNREACHABLE = "Connection refused: Could not connect to {host}: Connection refused"
ALREADY = (
    "Failed to connect: publish denied; stream already exists: "
    '{ "level": "error", "code": "NetStream.Publish.BadName", "description": "Already publishing" }'
)
GONE = "Connection error: connection closed remotely"


@dataclass(frozen=True)
class Accept:
    """`started_at` appears `after` seconds behind StartEgress's answer; then it streams. `after` None, here and below: as
    recorded, 1.1 s at a start and 0.12 s for a URL added to a running egress.

    With `fails_after`, the stream FAILs that many seconds later with `error` (no retry: the platform's own end of it).
    """

    after: float | None = None
    fails_after: float | None = None
    error: str = GONE


@dataclass(frozen=True)
class Refuse:
    """`started_at` appears, as LiveKit sets it before the platform's answer; FAILED `shown` seconds later."""

    after: float | None = None
    error: str = REFUSED
    shown: float = 0.06


@dataclass(frozen=True)
class Unreachable:
    """Nothing listens there: FAILED without having looked started. `{host}` in the error is the URL's."""

    after: float | None = None
    error: str = UNREACHABLE


@dataclass(frozen=True)
class Never:
    """Connects for ever: ACTIVE and without `started_at`."""


Script = Accept | Refuse | Unreachable | Never
