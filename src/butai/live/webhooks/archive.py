"""Stored webhooks for operators: opened, with all values that look like secrets redacted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import select

from butai.database import Database
from butai.live.models import LiveKitWebhook
from butai.live.stream_keys import SealBroken, Sealer
from butai.live.webhooks.intake import sealed_for
from butai.log import REDACTED, Redactor

# turnPassword, streamKey, accessKey, sharedKey, secret, accessToken, credentials, sasUrl, participantToken, … but
# neither keyFrameInterval nor roomKeyframe.
_SECRET_NAMES = re.compile(
    r"(?i)(secret|passw|token|credential|signature|authorization|account|sas|key(?!_?frame))|^(metadata|attributes)$"
)
"""Names whose values are redacted. Metadata and attributes are set by the studio and may hold anything."""

_PIECES = re.compile(r"\{[^{}/\s]*\.\.\.[^{}/\s]*\}")
"""LiveKit's own redaction of a stream key, which leaves six of its characters."""


async def newest(database: Database, sealer: Sealer, room_id: str | None, limit: int) -> list[dict[str, Any]]:
    """The `limit` newest webhooks, of one room or of all. `body` is an explanation where it cannot be opened."""
    query = select(LiveKitWebhook).order_by(LiveKitWebhook.received_at.desc()).limit(limit)
    if room_id is not None:
        query = query.where(LiveKitWebhook.room_id == room_id)
    async with database.transaction() as session:
        rows: Sequence[LiveKitWebhook] = (await session.scalars(query)).all()
    return [
        {
            "id": row.id,
            "project": row.project,
            "event": row.event,
            "room_id": row.room_id,
            "subject": row.subject,
            "created_at": row.created_at,
            "received_at": row.received_at,
            "body": _opened(row, sealer),
        }
        for row in rows
    ]


def _opened(row: LiveKitWebhook, sealer: Sealer) -> Any:
    if not row.sealed_body:
        return "not stored: there was no BUTAI_SECRET_KEY to seal it with"
    try:
        text = sealer.open(row.sealed_body, sealed_for(row.id))
    except SealBroken as error:
        return f"not opened: {error}"
    return blanked(msgspec.json.decode(text))


def blanked(value: Any) -> Any:
    """`value` with secrets redacted at any depth: by name, by form, where repeated elsewhere, and pieces of stream
    keys."""
    return _blanked(value, Redactor(_secrets(value)))


def _blanked(value: Any, redact: Redactor) -> Any:
    if isinstance(value, dict):
        return {
            name: REDACTED if one and _SECRET_NAMES.search(name) else _blanked(one, redact)
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [_blanked(one, redact) for one in value]
    if isinstance(value, str):
        return _PIECES.sub(REDACTED, redact(value))
    return value


def _secrets(value: Any) -> Iterator[str]:
    """The values under secret names, which error texts may repeat."""
    if isinstance(value, list):
        for one in value:
            yield from _secrets(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if isinstance(one, str) and _SECRET_NAMES.search(name):
                yield one
            else:
                yield from _secrets(one)
