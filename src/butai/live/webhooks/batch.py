"""One statement that stores a batch of webhooks, adds them to timelines, updates ingresses and sends notifications.

Locks are taken in the order of all code: rooms, then broadcasts, then ingresses, each ordered by key. Because the
room and the broadcast are locked, event ids grow in the order of commits, and a reader that follows ids misses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import msgspec

from butai import jobs
from butai.live.rooms.removal import REMOVE_REVOKED
from butai.live.webhooks.payload import WebhookEvent

LATE: LiteralString = "2 seconds"
"""Age above which an event is dated by LiveKit, whose times have whole seconds; a newer one is dated by Postgres."""

_REPORTABLE: LiteralString = "'idle', 'buffering', 'publishing', 'error', 'ended'"
"""The states in which the table of `live.ingresses.states` takes reports."""

_LOOK: LiteralString = jobs.enqueue_sql(REMOVE_REVOKED, "jsonb_build_object('room_id', room)", "10")
"""Enqueues a look for revoked tokens in `room`."""

STATEMENT: LiteralString = f"""
WITH given AS (
    SELECT * FROM unnest(
        %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::float8[], %b::bytea[],
        %s::text[], %s::jsonb[], %s::text[], %s::text[], %s::text[], %s::float8[], %s::text[]
    ) WITH ORDINALITY AS given (
        id, project, event, room_id, subject, created_at, body,
        timeline_event, detail, egress_id, ingress_id, ingress_state, ingress_at, ingress_error, number
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
    -- An egress of a web page names no room. In shared mode several outputs have one egress.
    LEFT JOIN LATERAL (
        SELECT min(room_id) AS room_id, min(broadcast_id::text)::uuid AS broadcast_id, count(*) AS outputs,
               min(output_id::text)::uuid AS output_id, min(attempt) AS attempt
        FROM livekit_egresses e WHERE e.egress_id = given.egress_id AND e.project = given.project
    ) ours ON given.egress_id IS NOT NULL
), known AS MATERIALIZED (
    SELECT r.room_id, r.livekit_project, r.removal_until FROM rooms r
    WHERE (r.room_id, r.livekit_project) IN (SELECT room, project FROM new)
    -- Not FOR UPDATE, which would block the foreign key check of a controller that writes its broadcast.
    ORDER BY r.room_id FOR NO KEY UPDATE
), broadcast AS MATERIALIZED (
    SELECT b.id, b.room_id, b.ended_at FROM broadcasts b
    WHERE b.id IN (
        SELECT a.id FROM broadcasts a JOIN known USING (room_id) WHERE a.ended_at IS NULL
        UNION SELECT egress_of FROM new WHERE egress_of IS NOT NULL
    )
    ORDER BY b.id FOR NO KEY UPDATE
), located AS (
    SELECT new.*, coalesce(its.id, running.id) AS broadcast_id
    FROM new JOIN known ON known.room_id = new.room AND known.livekit_project = new.project
    LEFT JOIN broadcast its ON its.id = new.egress_of
    LEFT JOIN broadcast running ON running.room_id = new.room AND running.ended_at IS NULL
), events AS (
    INSERT INTO live_events (at, room_id, broadcast_id, output_id, platform, attempt, event, actor, detail)
    SELECT CASE WHEN to_timestamp(p.created_at) < clock_timestamp() - interval '{LATE}'
                THEN to_timestamp(p.created_at) ELSE clock_timestamp() END,
           p.room, p.broadcast_id, o.id, o.platform, CASE WHEN o.id IS NULL THEN NULL ELSE p.attempt END,
           p.timeline_event, 'service:livekit', p.detail
    FROM located p LEFT JOIN outputs o ON o.id = p.output_id AND p.outputs = 1
    WHERE p.timeline_event IS NOT NULL ORDER BY p.number
), newest AS (
    SELECT DISTINCT ON (ingress_id) ingress_id, project, ingress_state, to_timestamp(ingress_at) AS at, ingress_error
    FROM new WHERE ingress_id IS NOT NULL ORDER BY ingress_id, ingress_at DESC, number DESC
), locked AS MATERIALIZED (
    SELECT i.ingress_id FROM ingresses i WHERE i.ingress_id IN (SELECT ingress_id FROM newest)
    ORDER BY i.id FOR NO KEY UPDATE
), changed AS (
    UPDATE ingresses i SET state = newest.ingress_state, state_at = newest.at, reported_at = newest.at,
                           error = newest.ingress_error
    FROM newest JOIN locked USING (ingress_id)
    WHERE i.ingress_id = newest.ingress_id AND i.project = newest.project AND i.state IN ({_REPORTABLE})
      -- A report is as new as LiveKit's clock says, which is not ours.
      AND (i.reported_at IS NULL OR i.reported_at < newest.at)
)
SELECT pg_notify('butai_livekit', hint)::text FROM (
    SELECT DISTINCT json_build_object(
        'project', project, 'event', event, 'room_id', room, 'subject', subject, 'identity', detail ->> 'identity'
    )::text
    FROM located
) hints (hint)
UNION ALL
-- A participant who has joined a room whose tokens were revoked may have a revoked one.
SELECT {_LOOK}::text
FROM (
    SELECT DISTINCT located.room FROM located JOIN known ON known.room_id = located.room
    WHERE located.event = 'participant_joined' AND known.removal_until IS NOT NULL
) joined (room)
"""


@dataclass(frozen=True, slots=True)
class VerifiedWebhook:
    """A webhook of a known project. `sealed_body` is empty without a sealing key."""

    project: str
    event: WebhookEvent
    sealed_body: bytes


def parameters(batch: Sequence[VerifiedWebhook]) -> list[list[Any]]:
    """One list for each column of `given`, without duplicate ids."""
    once = {one.event.id: one for one in reversed(batch)}
    rows = [_row(one) for one in reversed(once.values())]
    return [list(column) for column in zip(*rows, strict=True)]


def _row(one: VerifiedWebhook) -> tuple[Any, ...]:
    event, ingress = one.event, one.event.ingress
    return (
        event.id,
        one.project,
        event.event,
        event.room_id,
        event.subject,
        event.created_at,
        one.sealed_body,
        event.timeline_event,
        msgspec.json.encode(event.detail).decode(),
        event.egress_id,
        ingress and ingress.ingress_id,
        ingress and ingress.state,
        ingress and ingress.at,
        ingress and ingress.error,
    )
