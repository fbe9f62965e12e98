"""The one statement that keeps a batch of webhooks, tells them in timelines and wakes who waits. Called by `webhooks`.

Rows are locked as everywhere: rooms, then broadcasts, then ingresses, each in the order of their keys. The room's and the
broadcast's locks are what makes the ids of events grow in the order of commits, so that whoever follows them misses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import msgspec

from butai.live.webhooks.payload import Heard

LATE: LiteralString = "2 seconds"
"""After which an event is told with LiveKit's time, which has whole seconds only, and not with ours."""

STATEMENT: LiteralString = f"""
WITH given AS (
    SELECT * FROM unnest(
        %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::float8[], %b::bytea[],
        %s::text[], %s::jsonb[], %s::text[], %s::text[], %s::text[], %s::float8[], %s::text[]
    ) WITH ORDINALITY AS given (
        id, project, event, room_id, subject, created_at, body,
        told, detail, egress_id, ingress_id, ingress_state, ingress_at, ingress_error, number
    )
), kept AS (
    INSERT INTO livekit_webhooks (id, project, event, room_id, subject, created_at, sealed_body)
    SELECT id, project, event, room_id, subject, to_timestamp(created_at), body FROM given ORDER BY id
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), new AS (
    SELECT given.*, ours.broadcast_id AS egress_of, ours.outputs, ours.output_id, ours.attempt,
           coalesce(ours.room_id, given.room_id) AS room
    FROM given JOIN kept USING (id)
    -- An egress of a page of one's own names no room. In shared mode several outputs have one egress.
    LEFT JOIN LATERAL (
        SELECT min(room_id) AS room_id, min(broadcast_id::text)::uuid AS broadcast_id, count(*) AS outputs,
               min(output_id::text)::uuid AS output_id, min(attempt) AS attempt
        FROM livekit_egresses e WHERE e.egress_id = given.egress_id AND e.project = given.project
    ) ours ON given.egress_id IS NOT NULL
), known AS MATERIALIZED (
    SELECT r.room_id, r.livekit_project FROM rooms r
    WHERE (r.room_id, r.livekit_project) IN (SELECT room, project FROM new)
    -- Not FOR UPDATE: a controller that writes its broadcast twice in one transaction looks at the room's key again.
    ORDER BY r.room_id FOR NO KEY UPDATE
), broadcast AS MATERIALIZED (
    SELECT b.id, b.room_id, b.ended_at FROM broadcasts b
    WHERE b.id IN (
        SELECT a.id FROM broadcasts a JOIN known USING (room_id) WHERE a.ended_at IS NULL
        UNION SELECT egress_of FROM new WHERE egress_of IS NOT NULL
    )
    ORDER BY b.id FOR NO KEY UPDATE
), placed AS (
    SELECT new.*, coalesce(its.id, running.id) AS broadcast_id
    FROM new JOIN known ON known.room_id = new.room AND known.livekit_project = new.project
    LEFT JOIN broadcast its ON its.id = new.egress_of
    LEFT JOIN broadcast running ON running.room_id = new.room AND running.ended_at IS NULL
), told AS (
    INSERT INTO live_events (at, room_id, broadcast_id, output_id, platform, attempt, event, actor, detail)
    SELECT CASE WHEN to_timestamp(p.created_at) < clock_timestamp() - interval '{LATE}'
                THEN to_timestamp(p.created_at) ELSE clock_timestamp() END,
           p.room, p.broadcast_id, o.id, o.platform, CASE WHEN o.id IS NULL THEN NULL ELSE p.attempt END,
           p.told, 'livekit', p.detail
    FROM placed p LEFT JOIN outputs o ON o.id = p.output_id AND p.outputs = 1
    WHERE p.told IS NOT NULL ORDER BY p.number
), newest AS (
    SELECT DISTINCT ON (ingress_id) ingress_id, project, ingress_state, to_timestamp(ingress_at) AS at, ingress_error
    FROM new WHERE ingress_id IS NOT NULL ORDER BY ingress_id, ingress_at DESC, number DESC
), way AS MATERIALIZED (
    SELECT i.ingress_id FROM ingresses i WHERE i.ingress_id IN (SELECT ingress_id FROM newest)
    ORDER BY i.ingress_id FOR NO KEY UPDATE
), changed AS (
    UPDATE ingresses i SET state = newest.ingress_state, state_at = newest.at, error = newest.ingress_error
    FROM newest JOIN way USING (ingress_id)
    -- The first word is taken whatever its time: a row's own is by our clock, not by LiveKit's.
    WHERE i.ingress_id = newest.ingress_id AND i.project = newest.project
      AND (i.state_at < newest.at OR i.state_at = i.created_at)
)
SELECT pg_notify('butai_livekit', hint) FROM (
    SELECT DISTINCT json_build_object(
        'project', project, 'event', event, 'room_id', room, 'subject', subject, 'identity', detail ->> 'identity'
    )::text
    FROM placed
) hints (hint)
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A webhook that is verified: whose, what it says, and its body, sealed."""

    project: str
    heard: Heard
    sealed_body: bytes


def parameters(batch: Sequence[Kept]) -> list[list[Any]]:
    """One list for each column of `given`. An id stands in a batch once."""
    once = {one.heard.id: one for one in reversed(batch)}
    rows = [_row(one) for one in reversed(once.values())]
    return [list(column) for column in zip(*rows, strict=True)]


def _row(one: Kept) -> tuple[Any, ...]:
    heard, ingress = one.heard, one.heard.ingress
    return (
        heard.id,
        one.project,
        heard.event,
        heard.room_id,
        heard.subject,
        heard.created_at,
        one.sealed_body,
        heard.told,
        msgspec.json.encode(heard.detail).decode(),
        heard.egress_id,
        ingress and ingress.ingress_id,
        ingress and ingress.state,
        ingress and ingress.at,
        ingress and ingress.error,
    )
