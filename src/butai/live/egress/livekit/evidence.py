"""What LiveKit's word about an egress means for one attempt of an output. Pure; called by `poller` and `livekit`.

LiveKit says ACTIVE of a stream before anything is connected, ACTIVE of one that is stalled, and ACTIVE for ever of one whose
worker is dead. So nothing is taken from that word alone: live is a stream with `started_at` and four seconds without a
fault, as seen in looks that really happened; a retry of LiveKit's own is an interruption; a participant that left the room
is a worker's death. Rules and texts are those that LiveKit Egress 1.14 showed (tests/recordings).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from livekit.protocol.egress import EgressInfo, EgressStatus, StreamInfo

from butai.errors import Code
from butai.live.reconcile.reports import Phase


@dataclass(frozen=True, slots=True)
class Rules:
    """Times in seconds; tests with faster clocks have shorter ones."""

    settles: float = 4.0
    """That a stream must have streamed until it counts: an error before is a failed start, never retried by LiveKit."""
    heals: float = 10.0
    """Without another retry, after which an interrupted stream counts as live again."""


RULES = Rules()

ABSENT_LOOKS = 2
"""Looks at the room that must miss the egress's participant: the first may fall into its coming."""

Status = Literal["starting", "active", "ending", "complete", "failed", "aborted", "limit_reached", "lost"]
"""LiveKit's words, and `lost`: its record is gone, or nobody works on it."""

_STATUS: dict[int, Status] = {
    EgressStatus.EGRESS_STARTING: "starting",
    EgressStatus.EGRESS_ACTIVE: "active",
    EgressStatus.EGRESS_ENDING: "ending",
    EgressStatus.EGRESS_COMPLETE: "complete",
    EgressStatus.EGRESS_FAILED: "failed",
    EgressStatus.EGRESS_ABORTED: "aborted",
    EgressStatus.EGRESS_LIMIT_REACHED: "limit_reached",
}
_OVER: frozenset[Status] = frozenset({"complete", "failed", "aborted", "limit_reached", "lost"})

Stream = Literal["active", "finished", "failed"]
_STREAM: dict[int, Stream] = {
    StreamInfo.Status.ACTIVE: "active",
    StreamInfo.Status.FINISHED: "finished",
    StreamInfo.Status.FAILED: "failed",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is known of one attempt at LiveKit. Times are seconds since 1970; those that say `seen` are of our clock.

    Kept as JSON in `livekit_egresses.seen`; the same facts give the same JSON.
    """

    status: Status = "starting"
    stream: Stream | None = None
    updated_at: float = 0.0
    """LiveKit's clock: an older word than this is late, and dropped."""
    started_at: float | None = None
    """LiveKit's clock: the platform's connection."""
    started_seen: float | None = None
    retries: int = 0
    retried_seen: float | None = None
    over_seen: float | None = None
    error: str = ""
    error_code: int = 0
    roomless: bool = False
    """It shows a page of its own and is in no room, so nobody can miss it there."""
    absent: int = 0
    """Looks in a row at the room that missed the egress's own participant."""
    phase: Phase = "connecting"
    code: str = ""
    detail: str = ""
    at: float = 0.0
    """Since when it is in this phase."""
    source_closed: bool = False
    host: Literal["", "live", "silent"] = ""
    """The host's media in the room, when it was last looked at: unmuted tracks, or none."""
    host_at: float = 0.0
    """Since when."""

    @property
    def over(self) -> bool:
        """Nothing of it runs any more."""
        return self.status in _OVER or self.stream in ("finished", "failed")

    @property
    def settled(self) -> bool:
        """Nothing is expected to change by itself: the bulk look is enough."""
        return self.over or (self.phase == "live" and self.status != "ending")

    def as_json(self) -> dict[str, Any]:
        """Without what is at its default."""
        return {name: value for name, value in asdict(self).items() if value != getattr(_NOTHING, name)}


_NOTHING = Seen()


def from_json(data: dict[str, Any]) -> Seen:
    """What `as_json` made. Words of a newer version are left out."""
    return Seen(**{name: value for name, value in data.items() if name in Seen.__slots__})


def heard(seen: Seen, info: EgressInfo, urls: Sequence[str], now: float, nth: int = 1, rules: Rules = RULES) -> Seen:
    """The facts after LiveKit's word `info`, looked up at `now`. `urls`: this attempt's address as LiveKit shows it, which it
    is the `nth` to use in this egress."""
    updated = info.updated_at / 1e9
    if updated < seen.updated_at or seen.over:
        return judge(seen, now, rules)
    stream = find_stream(info, urls, nth)
    facts = replace(
        seen,
        status=_STATUS.get(info.status, "failed"),
        updated_at=updated,
        error=redacted(info.error or (info.details if info.status == EgressStatus.EGRESS_ABORTED else "")),
        error_code=info.error_code,
        roomless=not info.room_name,
        source_closed=seen.source_closed or "Source closed" in info.details,
    )
    if stream is not None:
        facts = replace(facts, stream=_STREAM.get(stream.status, "failed"))
        if stream.started_at and facts.started_at is None:
            facts = replace(facts, started_at=stream.started_at / 1e9, started_seen=now)
        if stream.retries > facts.retries:
            facts = replace(facts, retries=stream.retries, retried_seen=now)
        if stream.error:
            facts = replace(facts, error=redacted(stream.error))
    return judge(facts, now, rules)


def present(seen: Seen, now: float, *, there: bool) -> Seen:
    """After a look at the room: whether the egress's participant is in it. Not asked before the stream has started."""
    if seen.over or seen.started_at is None or seen.roomless:
        return seen
    if there:
        return replace(seen, absent=0)
    seen = replace(seen, absent=seen.absent + 1)
    return lost(seen, "its participant has left the room", now) if seen.absent >= ABSENT_LOOKS else seen


def host_heard(seen: Seen, now: float, *, live: bool) -> Seen:
    """After a look at the room: whether its host publishes anything."""
    host: Literal["live", "silent"] = "live" if live else "silent"
    return seen if seen.over or seen.host == host else replace(seen, host=host, host_at=now)


def lost(seen: Seen, why: str, now: float) -> Seen:
    """Nobody works on it, whatever LiveKit's record says."""
    return seen if seen.over else judge(replace(seen, status="lost", error=why, over_seen=now), now)


def refused(code: str, why: str, now: float) -> Seen:
    """It never ran: LiveKit's answer to the request."""
    return Seen("failed", None, over_seen=now, phase="failed", code=code, detail=redacted(why), at=now)


def judge(seen: Seen, now: float, rules: Rules = RULES) -> Seen:
    """The phase that the facts stand for. `now`: the moment of the look that they come from, so that nothing is called well
    because nobody looked."""
    phase, code, at = _phase(seen, now, rules)
    if seen.over and seen.over_seen is None:
        seen = replace(seen, over_seen=now)
    if (phase, code) == (seen.phase, seen.code) and seen.at:
        return seen
    return replace(seen, phase=phase, code=code, detail=seen.error if code else "", at=max(at, seen.at))


def _phase(seen: Seen, now: float, rules: Rules) -> tuple[Phase, str, float]:
    over_at = seen.over_seen or now
    if seen.status == "lost":
        return "failed", Code.EGRESS_LOST, over_at
    if seen.stream == "failed":
        return "failed", _stream_code(seen), over_at
    if seen.status in ("failed", "aborted", "limit_reached"):
        return "failed", _egress_code(seen), over_at
    if seen.status == "complete" or seen.stream == "finished":
        return "ended", Code.SOURCE_ENDED if seen.source_closed else "", over_at
    if seen.started_at is None or seen.started_seen is None:
        return "connecting", "", seen.at or now
    if seen.retried_seen is not None and now < seen.retried_seen + rules.heals:
        was_live = seen.phase in ("live", "stalled")
        return ("stalled", Code.DESTINATION_CLOSED, seen.retried_seen) if was_live else ("publishing", "", now)
    since = _streams_since(seen)
    if now < since + rules.settles:
        return "publishing", "", now
    if seen.retried_seen is not None:
        return "live", "", max(since + rules.settles, seen.retried_seen + rules.heals)
    return "live", "", since + rules.settles


def due(seen: Seen, rules: Rules = RULES) -> float | None:
    """When a look would change the phase though LiveKit says nothing new."""
    if seen.over or seen.started_at is None or seen.phase == "live":
        return None
    settles = _streams_since(seen) + rules.settles
    return settles if seen.retried_seen is None else max(settles, seen.retried_seen + rules.heals)


def _streams_since(seen: Seen) -> float:
    """LiveKit's moment, where its clock is near ours; else when we first saw it."""
    assert seen.started_at is not None
    assert seen.started_seen is not None
    near = 0 <= seen.started_seen - seen.started_at < 5
    return seen.started_at if near else seen.started_seen


def _stream_code(seen: Seen) -> Code:
    """Why a stream failed. GStreamer's words; a refused key is a closed connection during `publish`."""
    text = seen.error.lower()
    if "already publishing" in text or "already exists" in text:
        return Code.ALREADY_PUBLISHING
    if "'publish' cmd" in text or "publish denied" in text or "badname" in text or "not authorized" in text:
        return Code.KEY_REJECTED
    if "tls" in text or "certificate" in text or ("handshake" in text and "rtmp" not in text):
        return Code.TLS_FAILED
    if seen.phase in ("live", "stalled"):
        return Code.DESTINATION_CLOSED
    started = seen.started_at is not None and seen.updated_at - seen.started_at >= RULES.settles
    return Code.DESTINATION_CLOSED if started else Code.DESTINATION_UNREACHABLE


_BY_NUMBER: dict[int, Code] = {
    400: Code.INVALID_DESTINATION,
    403: Code.EGRESS_CRASHED,
    404: Code.NO_MEDIA,
    408: Code.EGRESS_LOST,
    412: Code.EGRESS_LOST,
    413: Code.EGRESS_LOST,
    500: Code.EGRESS_CRASHED,
    503: Code.EGRESS_UNAVAILABLE,
}
"""Of an egress that failed as a whole. 403: killed, or out of memory. 413: it ran as long as its worker lets one run."""


def _egress_code(seen: Seen) -> Code:
    if seen.error_code == 503 and "connect" in seen.error.lower():
        # All of its streams failed, and the text is the last one's.
        return _stream_code(seen)
    if seen.status in ("limit_reached", "aborted"):
        return Code.EGRESS_LOST
    return _BY_NUMBER.get(seen.error_code, Code.EGRESS_CRASHED)


def find_stream(info: EgressInfo, urls: Sequence[str], nth: int = 1) -> StreamInfo | None:
    """The attempt's row. An address that was added again has several, of which the last is the newest, and which are not
    there at once; the order of different addresses means nothing."""
    rows = [row for row in info.stream_results if row.url in urls]
    if rows:
        return rows[-1] if len(rows) >= nth else None
    return info.stream_results[0] if len(info.stream_results) == nth == 1 else None


_RTMP = re.compile(r"^(rtmps?://)(.*/)(.*/)(\S*)( live=1)?$")


def shown(url: str) -> str:
    """A full address as LiveKit shows it: of its last part, three letters from either end, of a short one fewer.
    Source: livekit/protocol, utils/redact.go."""
    match = _RTMP.match(url)
    if match is None:
        return url
    key, kept = match[4], min(len(match[4]) // 3, 3)
    short = f"{{{key[:kept]}...{key[len(key) - kept :]}}}"
    return match[1] + match[2] + match[3] + short + (match[5] or "")


_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)


def redacted(text: str) -> str:
    """Raw words of the engine for operators: one line, no address, since LiveKit leaves six letters of the key in it, and
    all of them in one that is not RTMP's ("invalid url http://x/KEY: invalid scheme")."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return _ADDRESS.sub("[address]", line)[:300].strip()
