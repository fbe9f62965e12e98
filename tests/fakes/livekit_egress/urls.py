"""Stream URLs as LiveKit Egress checks and redacts them; called by the scripted worker and by `Replay`.

The rules are those of its protocol's `RedactStreamKey`; the texts of the refusals are in `errors.jsonl`.
"""

from __future__ import annotations

import re

_RTMP = re.compile(r"^(rtmps?://)(.*/)(.*/)(\S*)( live=1)?$")


def redact_identifier(identifier: str) -> str:
    """`{abc...xyz}`: up to three characters of each end, never more than two thirds of the whole."""
    for shown in (3, 2, 1):
        if len(identifier) >= shown * 3:
            return f"{{{identifier[:shown]}...{identifier[-shown:]}}}"
    return "{...}"


def redact(url: str) -> str:
    """The URL with its key redacted; what is no RTMP URL comes back as it is, as with LiveKit."""
    match = _RTMP.match(url)
    if match is None:
        return url
    scheme, host, app, key, live = match.groups()
    return f"{scheme}{host}{app}{redact_identifier(key)}{live or ''}"


def fault(url: str) -> str | None:
    """LiveKit's text about a URL that it refuses; None for a valid one."""
    if not url:
        return "request has missing or invalid field: stream url"
    if not url.startswith(("rtmp://", "rtmps://")):
        return f"invalid url {url}: invalid scheme"
    if _RTMP.match(url) is None:
        return f"invalid url {url}: rtmp urls must be of format rtmp(s)://{{host}}(/{{path}})/{{app}}/{{stream_key}}( live=1)"
    return None
