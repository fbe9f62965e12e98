"""Queries of broadcasts for hosts: status, metrics, timeline, history. No sealed key is ever selected."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

import msgspec
from psycopg.rows import dict_row

from butai.database import Connection, Database
from butai.errors import Code
from butai.live.answers import (
    ErrorOut,
    EventOut,
    MetricsOut,
    OutputOut,
    PastOut,
    SourceOut,
    StatusOut,
    WayInOut,
)
from butai.live.reconcile.retry import ONCE, PERMANENT
from butai.live.states import WIRE, BroadcastStatus, BroadcastWanted, OutputState, broadcast_status
from butai.live.texts import HOST_CODES, Language, words

TIMELINE = 50
"""The newest events that a status carries; the timeline has all."""

METRICS: LiteralString = """output_metrics m ON m.output_id = o.id AND m.attempt = o.attempt
    AND m.at > now() - interval '5 seconds' AND o.state IN ('live', 'reconnecting')"""
"""Joins an output's metrics. Engines report each second, so metrics older than 5 s are stale and left out."""

_URGENCY = (
    OutputState.FAILED,
    OutputState.RECONNECTING,
    OutputState.STARTING,
    OutputState.PENDING,
    OutputState.STOPPING,
    OutputState.LIVE,
    OutputState.ENDED,
)
"""Which of several outputs to one platform is shown for it: the one that most needs the host's attention comes
first."""

_BROADCAST: LiteralString = """
SELECT id, room_id, wanted, preset, chosen_preset, created_at, ended_at, end_code, stop_asked_at, source_phase,
       source_since, source_code, started_by, egress, host_identity, hold_until_media, source_ready, engine_ref
FROM broadcasts
"""
_OUTPUTS: LiteralString = f"""
SELECT o.id, o.destination_id, o.platform, o.label, o.key_fingerprint, o.state, o.state_since, o.confirmation, o.attempt,
       o.next_attempt_at, o.live_since, o.first_live_at, o.last_live_at, o.error_code, o.error_cause, o.check_code,
       o.created_at, o.ended_at, m.data AS metrics
FROM outputs o
LEFT JOIN {METRICS}
WHERE o.broadcast_id = %s ORDER BY o.id
"""
_METRICS: LiteralString = f"""
SELECT o.id, m.data FROM outputs o
JOIN {METRICS}
WHERE o.broadcast_id = """
_EVENT: LiteralString = """
SELECT id, at, room_id, broadcast_id, output_id, platform, event, from_state, to_state, attempt, code, actor, detail
FROM live_events
"""
_NEWEST: LiteralString = (
    _EVENT
    + """
WHERE broadcast_id = %s
  -- Without viewers who join and leave, which the timeline has.
  AND (actor IS NULL OR actor NOT IN ('service:livekit', 'livekit')
       OR NOT (event LIKE 'participant.%%' OR event LIKE 'track.%%')
       OR detail ->> 'identity' = %s)
ORDER BY id DESC LIMIT %s
"""
)
_INGRESSES: LiteralString = """
SELECT ingress_id, kind, name, state, state_at AS since FROM ingresses
WHERE room_id = %s AND state IN ('idle', 'buffering', 'publishing', 'error', 'ended')
ORDER BY created_at, id
"""


async def status(
    database: Database, language: Language, *, session_id: UUID | None = None, room_id: str | None = None
) -> StatusOut | None:
    """The status of a broadcast, or of a room's newest. None when there is none."""

    async def ask(connection: Connection) -> StatusOut | None:
        async with connection.cursor(row_factory=dict_row) as cursor:
            if session_id is not None:
                await cursor.execute(_BROADCAST + "WHERE id = %s", [session_id])
            else:
                await cursor.execute(_BROADCAST + "WHERE room_id = %s ORDER BY created_at DESC LIMIT 1", [room_id])
            broadcast = await cursor.fetchone()
            if broadcast is None:
                return None
            outputs = await (await cursor.execute(_OUTPUTS, [broadcast["id"]])).fetchall()
            ways_in = await (await cursor.execute(_INGRESSES, [broadcast["room_id"]])).fetchall()
            # Last: each statement sees what is newest, and a state whose event is missing cannot be explained to a host.
            asked = [broadcast["id"], broadcast["host_identity"], TIMELINE]
            events = await (await cursor.execute(_NEWEST, asked)).fetchall()
            return _status(broadcast, outputs, events[::-1], [WayInOut(**one) for one in ways_in], language)

    return await database.query(ask)


async def figures(database: Database, *, session_id: UUID | None, room_id: str | None) -> dict[str, MetricsOut]:
    """Metrics of at most 5 s ago by output id, of a broadcast or of the one that a room has on air."""

    async def ask(connection: Connection) -> dict[str, MetricsOut]:
        which = (
            "%s" if session_id is not None else "(SELECT id FROM broadcasts WHERE room_id = %s AND ended_at IS NULL)"
        )
        cursor = await connection.execute(_METRICS + which, [session_id or room_id])
        return {str(output_id): msgspec.convert(data, MetricsOut) for output_id, data in await cursor.fetchall()}

    return await database.query(ask)


async def events(
    database: Database,
    language: Language,
    *,
    session_id: UUID | None = None,
    room_id: str | None = None,
    after: int = 0,
    limit: int = 500,
) -> list[EventOut]:
    """Up to `limit` events of a broadcast or a room with ids above `after`, oldest first."""

    async def ask(connection: Connection) -> list[EventOut]:
        async with connection.cursor(row_factory=dict_row) as cursor:
            where = "WHERE broadcast_id = %s" if session_id is not None else "WHERE room_id = %s"
            await cursor.execute(
                _EVENT + where + " AND id > %s ORDER BY id LIMIT %s", [session_id or room_id, after, limit]
            )
            return [_event(row, language) for row in await cursor.fetchall()]

    return await database.query(ask)


async def newest_event(database: Database, *, session_id: UUID | None, room_id: str | None) -> int:
    """The highest event id of a broadcast or a room; 0 without events."""

    async def ask(connection: Connection) -> int:
        where = "WHERE broadcast_id = %s" if session_id is not None else "WHERE room_id = %s"
        row = await (
            await connection.execute("SELECT coalesce(max(id), 0) FROM live_events " + where, [session_id or room_id])
        ).fetchone()
        return row[0] if row else 0

    return await database.query(ask)


async def history(database: Database, room_id: str, before: datetime | None, limit: int) -> list[PastOut]:
    """Up to `limit` broadcasts of a room that began before `before`, newest first."""

    async def ask(connection: Connection) -> list[PastOut]:
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                _BROADCAST
                + "WHERE room_id = %s AND (%s::timestamptz IS NULL OR created_at < %s) ORDER BY created_at DESC LIMIT %s",
                [room_id, before, before, limit],
            )
            rows = await cursor.fetchall()
            if not rows:
                return []
            await cursor.execute(
                "SELECT broadcast_id, platform, state, first_live_at, error_code FROM outputs "
                "WHERE broadcast_id = ANY(%s) ORDER BY id",
                [[row["id"] for row in rows]],
            )
            of: dict[UUID, list[dict[str, Any]]] = {}
            for output in await cursor.fetchall():
                of.setdefault(output.pop("broadcast_id"), []).append(output)
            return [_past(row, of.get(row["id"], [])) for row in rows]

    return await database.query(ask)


def _status(
    broadcast: dict[str, Any],
    outputs: list[dict[str, Any]],
    newest: list[dict[str, Any]],
    ingresses: list[WayInOut],
    language: Language,
) -> StatusOut:
    shown = [OutputOut(**output_values(broadcast, row, language)) for row in outputs]
    platforms: dict[str, OutputOut] = {}
    for row, output in sorted(zip(outputs, shown, strict=True), key=lambda pair: _urgency(pair[0])):
        platforms.setdefault(row["platform"], output)
    return StatusOut(
        session_id=broadcast["id"],
        room_id=broadcast["room_id"],
        status=shown_status(broadcast, outputs),
        preset=broadcast["preset"],
        chosen_preset=broadcast["chosen_preset"],
        warning=shown_error(Code.PRESET_LOWERED if broadcast["chosen_preset"] else None, None, language),
        started_at=broadcast["created_at"],
        ended_at=broadcast["ended_at"],
        end=shown_error(broadcast["end_code"], None, language),
        source=SourceOut(
            state=broadcast["source_phase"],
            since=broadcast["source_since"],
            error=shown_error(_source_code(broadcast), None, language),
        ),
        platforms=platforms,
        outputs=shown,
        ingress=ingresses,
        timeline=[_event(row, language) for row in newest],
    )


def _source_code(broadcast: dict[str, Any]) -> str | None:
    if broadcast["source_code"]:
        return broadcast["source_code"]
    waits = broadcast["source_phase"] in ("waiting", "lost") and broadcast["ended_at"] is None
    return Code.NO_MEDIA if waits else None


def shown_status(broadcast: dict[str, Any], outputs: Sequence[dict[str, Any]]) -> BroadcastStatus:
    """A broadcast's status, computed from the rows of its outputs."""
    return broadcast_status(
        [OutputState(row["state"]) for row in outputs],
        wanted=broadcast["wanted"] == BroadcastWanted.ON_AIR,
        ended=broadcast["ended_at"] is not None,
        was_live=any(row["first_live_at"] is not None for row in outputs),
    )


def _urgency(row: dict[str, Any]) -> tuple[int, float]:
    return _URGENCY.index(OutputState(row["state"])), -row["created_at"].timestamp()


def _held_code(broadcast: dict[str, Any], row: dict[str, Any]) -> str | None:
    """Why an output that could make an attempt now makes none; None for one that is not held."""
    if not broadcast["hold_until_media"] or broadcast["source_ready"] or broadcast["wanted"] != BroadcastWanted.ON_AIR:
        return None
    due = row["next_attempt_at"]
    if row["state"] != OutputState.PENDING and (
        row["state"] not in (OutputState.STARTING, OutputState.RECONNECTING) or due is None or due > datetime.now(UTC)
    ):
        return None
    if row["check_code"] and broadcast["engine_ref"]:
        # Without an engine nothing is checked any more. The source says what is missing of the host.
        return row["check_code"]
    # Before the room is joined, whether the host publishes is not known.
    waits = broadcast["source_phase"] in ("waiting", "live", "lost")
    return (_source_code(broadcast) or Code.NO_MEDIA) if waits else None


def output_values(broadcast: dict[str, Any], row: dict[str, Any], language: Language) -> dict[str, Any]:
    """The fields of an `OutputOut`, of the rows of a broadcast and its output."""
    held = _held_code(broadcast, row)
    error = shown_error(held or row["error_code"], row["platform"], language)
    if error is not None:
        error = msgspec.structs.replace(
            error,
            # The attempts of a failed output are used up: the next one is the host's decision.
            retryable=error.retryable and row["state"] != OutputState.FAILED,
            platform=row["platform"],
            attempt=row["attempt"],
            next_attempt_at=None if held else row["next_attempt_at"],
            cause=None if held else shown_error(row["error_cause"], row["platform"], language),
        )
    return {
        "id": row["id"],
        "platform": row["platform"],
        "label": row["label"],
        "destination_id": row["destination_id"],
        "key_fingerprint": row["key_fingerprint"],
        "state": WIRE[OutputState(row["state"])],
        "since": row["state_since"],
        "confirmation": row["confirmation"],
        "attempt": row["attempt"],
        "next_attempt_at": None if held else row["next_attempt_at"],
        "live_since": row["live_since"],
        "error": error,
        "metrics": None if row["metrics"] is None else msgspec.convert(row["metrics"], MetricsOut),
    }


def shown_error(code: str | None, platform: str | None, language: Language) -> ErrorOut | None:
    """A code with its texts; None for none."""
    if not code:
        return None
    message, action = words(code, platform, language)
    return ErrorOut(code=code, message=message, action=action, retryable=_retryable(code))


def _retryable(code: str) -> bool:
    """Whether Butai tries again by itself after this code."""
    return code in ONCE or (code not in PERMANENT and code in HOST_CODES)


def _event(row: dict[str, Any], language: Language) -> EventOut:
    return EventOut(
        id=row["id"],
        at=row["at"],
        event=row["event"],
        session_id=row["broadcast_id"],
        output_id=row["output_id"],
        platform=row["platform"],
        from_=_wire(row["from_state"]),
        to=_wire(row["to_state"]),
        attempt=row["attempt"],
        error=shown_error(row["code"], row["platform"], language),
        actor=row["actor"],
        detail=row["detail"],
    )


def _wire(state: str | None) -> str | None:
    try:
        return WIRE[OutputState(state)] if state else None
    except ValueError:
        return state


def _past(row: dict[str, Any], outputs: list[dict[str, Any]]) -> PastOut:
    return PastOut(
        session_id=row["id"],
        room_id=row["room_id"],
        status=shown_status(row, outputs),
        started_at=row["created_at"],
        ended_at=row["ended_at"],
        end_code=row["end_code"],
        platforms=list(dict.fromkeys(output["platform"] for output in outputs)),
    )
