"""Ends ingresses at LiveKit that have no row, rows that were never filled, and ingresses of closed rooms and of
revoked host tokens.

Between the row and LiveKit's answer the process may die, or the answer be lost. An ingress at LiveKit is then open,
with a key that was never shown, and counts against LiveKit's limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import structlog
from livekit import api
from sqlalchemy import func, or_, select

from butai.audit import Origin, actors
from butai.database import Database
from butai.errors import LiveKitNotConfigured
from butai.identity.suspensions import SuspendedUser
from butai.live import audit
from butai.live.ingresses.states import REPORTS, IngressTrigger
from butai.live.ingresses.transitions import locked, move
from butai.live.livekit_client import LIVEKIT_ERRORS, livekit_client
from butai.live.models import Ingress, Room
from butai.live.projects import Projects
from butai.live.states import IngressState

log = structlog.get_logger(__name__)

PREFIX = "butai-"
"""The prefix of our ingresses' names at LiveKit; others are left alone."""

GIVEN_UP_AFTER = timedelta(seconds=60)
"""The age from which a row in state `making` counts as left by a dead process, and from which LiveKit no longer makes
an ingress for an unanswered request: requests end after 10 s, and transactions after 10 s of waiting for locks."""

_TIMEOUT = 10.0
_BATCH = 100


def name_of(row: Ingress) -> str:
    """The name at LiveKit: `butai-ROW_ID-NAME`."""
    return f"{PREFIX}{row.id.hex}-{row.name or row.kind}"


async def end_unknown(database: Database, livekit: api.LiveKitAPI, room_id: str) -> None:
    """Ends the ingresses of a room at LiveKit that have our prefix and neither an open row nor one in state `making`.

    Raises `LIVEKIT_ERRORS`.
    """
    answer = await livekit.ingress.list_ingress(api.ListIngressRequest(room_name=room_id))
    ours = [one for one in answer.items if one.name.startswith(PREFIX)]
    if not ours:
        return
    open_states = (IngressState.MAKING, *REPORTS)
    # Read after the list: every ingress in it was made for a committed row.
    async with database.transaction() as session:
        query = select(Ingress.id, Ingress.ingress_id).where(Ingress.room_id == room_id)
        rows = (await session.execute(query.where(Ingress.state.in_(open_states)))).all()
    row_ids, ingress_ids = {row.id for row in rows}, {row.ingress_id for row in rows}
    for one in ours:
        if one.ingress_id in ingress_ids or _row_id(one.name) in row_ids:
            continue
        log.warning("ingress.unknown_ended", ingress_id=one.ingress_id, room_id=room_id)
        await delete_at_livekit(livekit, one.ingress_id)


async def sweep(database: Database, projects: Projects) -> int:
    """Brings rows that were never filled to `failed`, after ending their ingresses at LiveKit. Returns their number.

    A room whose LiveKit does not answer is left for the next time. Several processes may do this at the same time.
    """
    old = Ingress.created_at < func.now() - GIVEN_UP_AFTER
    async with database.transaction() as session:
        query = select(Ingress.id).where(Ingress.state == IngressState.MAKING, old).order_by(Ingress.id).limit(_BATCH)
        for row_id in (await session.scalars(query)).all():
            row = await locked(session, row_id)
            if row is not None and row.state == IngressState.MAKING:
                await move(session, row, IngressTrigger.UNANSWERED)
    async with database.transaction() as session:
        query = select(Ingress.room_id, Ingress.project).where(Ingress.state == IngressState.ABANDONED, old)
        rooms = (await session.execute(query.distinct().limit(_BATCH))).all()
    cleared = 0
    for room_id, project in rooms:
        async with database.transaction() as session:
            query = select(Ingress.id).where(Ingress.room_id == room_id, Ingress.state == IngressState.ABANDONED, old)
            abandoned = (await session.scalars(query.order_by(Ingress.id))).all()
        try:
            async with livekit_client(projects, project, _TIMEOUT) as livekit:
                await end_unknown(database, livekit, room_id)
        except (LiveKitNotConfigured, *LIVEKIT_ERRORS) as error:
            log.info("ingress.not_swept", room_id=room_id, reason=type(error).__name__)
            continue
        cleared += await _clear(database, abandoned)
    return cleared


async def end_revoked(database: Database, projects: Projects, room_id: str | None = None) -> int:
    """Deletes the ingresses of closed rooms and of suspended users, and those that were made with a host
    token which was revoked since; of one room or of all. Returns their number.

    One whose LiveKit does not answer is left for the next time.
    """
    query = (
        select(Ingress.id, Ingress.ingress_id, Ingress.project)
        .join(Room, Room.room_id == Ingress.room_id)
        .where(
            Ingress.state.in_(REPORTS),
            or_(
                Room.closed_at.is_not(None),
                Ingress.token_generation < Room.token_generation,
                Room.owner_user_id.in_(select(SuspendedUser.user_id)),
            ),
        )
        .order_by(Ingress.id)
    )
    async with database.transaction() as session:
        found = (await session.execute(query if room_id is None else query.where(Room.room_id == room_id))).all()
    ended = 0
    away: set[str] = set()
    for row_id, ingress_id, project in found:
        assert ingress_id is not None, "LiveKit reports only what it has made"
        if project in away:
            continue
        try:
            async with livekit_client(projects, project, _TIMEOUT) as livekit:
                await delete_at_livekit(livekit, ingress_id)
        except (LiveKitNotConfigured, *LIVEKIT_ERRORS) as error:
            log.info("ingress.not_ended", ingress_id=ingress_id, reason=type(error).__name__)
            # The next ones of its project would only wait as long.
            away.add(project)
            continue
        async with database.transaction() as session:
            row = await locked(session, row_id)
            if row is None or row.state not in REPORTS:
                continue
            await move(
                session,
                row,
                IngressTrigger.DELETED,
                event="ingress.deleted",
                actor=actors.WORKER,
                deleted_at=func.now(),
            )
            audit.record(
                session,
                Origin(actors.WORKER),
                "live.ingress_deleted",
                row.room_id,
                ingress_id=ingress_id,
            )
            ended += 1
    return ended


async def delete_at_livekit(livekit: api.LiveKitAPI, ingress_id: str) -> None:
    """Deletes an ingress, which disconnects its encoder; one that is gone already is no error. Raises
    `LIVEKIT_ERRORS`."""
    try:
        await livekit.ingress.delete_ingress(api.DeleteIngressRequest(ingress_id=ingress_id))
    except api.TwirpError as error:
        if error.status != 404:
            raise


async def _clear(database: Database, abandoned: Sequence[UUID]) -> int:
    cleared = 0
    async with database.transaction() as session:
        for row_id in abandoned:
            row = await locked(session, row_id)
            if row is not None and row.state == IngressState.ABANDONED:
                await move(session, row, IngressTrigger.CLEARED)
                cleared += 1
    return cleared


def _row_id(name: str) -> UUID | None:
    try:
        return UUID(hex=name.removeprefix(PREFIX).partition("-")[0])
    except ValueError:
        return None
