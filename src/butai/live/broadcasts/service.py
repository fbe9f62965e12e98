"""The acts of hosts on broadcasts: start, stop, retry an output, stop an output, add outputs.

Only the *wanted* state is written here; a controller brings the broadcast to it (`butai.live.reconcile`). Hence
stopping is idempotent, and a crash between the two delays the change and loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from butai.audit import Origin
from butai.errors import (
    AlreadyLive,
    BroadcastNotFound,
    Code,
    DestinationNotFound,
    InvalidRequest,
    NoDestination,
    NotHost,
    NotLive,
    RoomClosed,
)
from butai.identity import Caller
from butai.identity.suspensions import check_not_suspended
from butai.live import audit
from butai.live.access import active, hosted_broadcast, hosted_room, operator_detail, outputs_of
from butai.live.broadcasts import idempotency
from butai.live.broadcasts.full import check_capacity
from butai.live.broadcasts.wanted import (
    aim,
    awaits_attempt,
    can_be_retried,
    is_wanted,
    new_output,
    output_without_destination,
    want_output_stopped,
    want_retry,
    want_stopped,
)
from butai.live.destinations.service import OutputTarget, targets_of
from butai.live.models import Broadcast, Output, Room
from butai.live.reconcile.newest import CHANGED, changed_fields
from butai.live.stage import Stage
from butai.live.states import BroadcastWanted, OutputState

MOST_OUTPUTS = 10
"""Outputs of one broadcast that have not ended; each costs bandwidth."""


@dataclass(frozen=True, slots=True)
class Start:
    """A host's request to go live. `platforms`: `youtube`, `twitch`; `destination_ids`: saved destinations. At least
    one."""

    room_id: str
    platforms: Sequence[str] = ()
    destination_ids: Sequence[UUID] = ()
    preset: str | None = None
    source_grace: float | None = None
    on_source_lost: Literal["end", "stay"] | None = None
    video_source: str = "any"
    video_name: str = ""
    hold_until_media: bool | None = None
    sound_only: bool = False

    @property
    def audit_platforms(self) -> list[str]:
        """The platforms that an audit entry names before the destinations have been looked up."""
        return [*self.platforms, *(["by destination"] if self.destination_ids else [])]


async def start(stage: Stage, caller: Caller, origin: Origin, wanted: Start, key: str | None) -> tuple[UUID, bool]:
    """Starts a broadcast. Returns its id, and False when an earlier request with the same `key` had started it.

    Raises `NotHost`, `RoomNotFound`, `RoomClosed`, `UserSuspended`, `AlreadyLive`, `NoDestination`, `DestinationNotFound`,
    `IdempotencyMismatch`, `InvalidRequest` beyond `MOST_OUTPUTS`, `NoCapacity`.
    """
    async with (
        audit.refusal(stage.database, origin, "live.start", wanted.room_id, wanted.audit_platforms),
        stage.database.transaction() as session,
    ):
        # The lock makes two starts in one room take turns.
        room = await hosted_room(session, caller, wanted.room_id, lock=True)
        reserved = None if key is None else idempotency.Key(room.room_id, origin.actor or "", key)
        if reserved is not None:
            before = await idempotency.earlier(session, reserved, _as_request(wanted))
            if before is not None:
                return UUID(before["session_id"]), False
        if room.closed_at is not None:
            raise RoomClosed
        await check_not_suspended(session, room.owner_user_id)
        running = await active(session, room.room_id)
        if running is not None:
            raise AlreadyLive(session_id=str(running.id))
        broadcast = await _begin(session, stage, caller, origin, room, wanted)
        if reserved is not None:
            await idempotency.keep(session, reserved, {"session_id": str(broadcast.id)})
        return broadcast.id, True


async def stop(
    stage: Stage, caller: Caller, origin: Origin, session_id: UUID | None, room_id: str | None
) -> UUID | None:
    """Requests the end of a broadcast, by its id or as the newest of a room. Idempotent.

    Returns its id; None for a room that had no broadcast yet. Raises `NotHost`, `RoomNotFound`, `InvalidRequest`.
    """
    if session_id is None and room_id is None:
        raise InvalidRequest("session_id or room_id is required")
    about = room_id if session_id is None else await _room_of(stage, session_id)
    async with audit.refusal(stage.database, origin, "live.stop", about), stage.database.transaction() as session:
        if session_id is not None:
            broadcast = await session.get(Broadcast, session_id, with_for_update=True)
            room = await hosted_broadcast(session, caller, broadcast)
            if room_id not in (None, room.room_id):
                raise InvalidRequest("This session_id belongs to another room; send only one of the two")
        else:
            assert room_id is not None
            room = await hosted_room(session, caller, room_id)
            broadcast = await session.scalar(
                select(Broadcast)
                .where(Broadcast.room_id == room_id)
                .order_by(Broadcast.ended_at.is_(None).desc(), Broadcast.created_at.desc())
                .limit(1)
                .with_for_update()
            )
        if broadcast is None:
            return None
        found = await outputs_of(session, broadcast)
        if want_stopped(broadcast, found):
            audit.add_event(session, broadcast, "broadcast.stop_asked", origin)
            audit.record(
                session,
                origin,
                "live.stop",
                broadcast.room_id,
                session_id=broadcast.id,
                platforms=_platforms(found),
                **operator_detail(caller, room),
            )
        return broadcast.id


async def retry_output(stage: Stage, caller: Caller, origin: Origin, output_id: UUID) -> UUID:
    """Requests an attempt now, of an output that failed or waits for its next attempt. Returns the broadcast's id.

    An output that had the environment's default takes the destination that its host has saved since, or the default's
    present key. All others take what their destination has as the attempt begins (`reconcile.newest`).

    Raises `NotHost`, `NotLive`, and `NoDestination` when its platform still has no destination.
    """
    about = await _room_of(stage, None, output_id)
    async with (
        audit.refusal(stage.database, origin, "live.output_retry", about),
        stage.database.transaction() as session,
    ):
        broadcast, room, output = await _locked(session, caller, output_id)
        if not can_be_retried(broadcast, output):
            raise NotLive
        if output.error_code == Code.NO_DESTINATION:
            await _find_target(session, stage, room, broadcast, output)
        elif output.destination_id is None and awaits_attempt(output):
            await _take_saved(session, stage, origin, room, broadcast, output)
        want_retry(output)
        audit.add_event(session, broadcast, "output.retry_asked", origin, output=output)
        _record(session, origin, "live.output_retry", broadcast, output, **operator_detail(caller, room))
        return broadcast.id


async def stop_output(stage: Stage, caller: Caller, origin: Origin, output_id: UUID) -> UUID:
    """Requests the end of one output; the others continue. Idempotent. Returns the broadcast's id. Raises `NotHost`."""
    about = await _room_of(stage, None, output_id)
    async with (
        audit.refusal(stage.database, origin, "live.output_stop", about),
        stage.database.transaction() as session,
    ):
        broadcast, room, output = await _locked(session, caller, output_id)
        if want_output_stopped(broadcast, output):
            audit.add_event(session, broadcast, "output.stop_asked", origin, output=output)
            _record(session, origin, "live.output_stop", broadcast, output, **operator_detail(caller, room))
        return broadcast.id


async def add_outputs(
    stage: Stage,
    caller: Caller,
    origin: Origin,
    session_id: UUID,
    platforms: Sequence[str],
    destination_ids: Sequence[UUID],
) -> UUID:
    """Adds outputs to a broadcast on air, except for destinations that have one. Returns the broadcast's id.

    Raises `NotHost`, `NotLive`, `NoDestination`, `DestinationNotFound`, `InvalidRequest` beyond `MOST_OUTPUTS`.
    """
    about = await _room_of(stage, session_id)
    async with (
        audit.refusal(stage.database, origin, "live.output_added", about),
        stage.database.transaction() as session,
    ):
        broadcast = await session.get(Broadcast, session_id, with_for_update=True)
        room = await hosted_broadcast(session, caller, broadcast)
        assert broadcast is not None
        if not is_wanted(broadcast):
            raise NotLive
        found = await targets_of(session, stage, room.owner_user_id, platforms, destination_ids)
        _all_known(found, destination_ids)
        wanted = [target for target in found.values() if target is not None]
        if not wanted:
            raise NoDestination(platform=platforms[0])
        going = [output for output in await outputs_of(session, broadcast) if output.state != OutputState.ENDED]
        new = [target for target in _once(wanted) if not any(_same(target, output) for output in going)]
        if len(going) + len(new) > MOST_OUTPUTS:
            raise InvalidRequest(f"A broadcast has at most {MOST_OUTPUTS} outputs")
        for target in new:
            output = new_output(broadcast, target)
            session.add(output)
            await session.flush()
            audit.add_event(session, broadcast, "output.added", origin, output=output)
            _record(session, origin, "live.output_added", broadcast, output, **operator_detail(caller, room))
        return broadcast.id


async def _room_of(stage: Stage, session_id: UUID | None, output_id: UUID | None = None) -> str | None:
    """The room of a broadcast or output, for the audit entry of a refusal. None if there is none."""
    async with stage.database.transaction() as session:
        if output_id is not None:
            session_id = await session.scalar(select(Output.broadcast_id).where(Output.id == output_id))
        return await session.scalar(select(Broadcast.room_id).where(Broadcast.id == session_id))


async def _begin(
    session: AsyncSession, stage: Stage, caller: Caller, origin: Origin, room: Room, wanted: Start
) -> Broadcast:
    found = await targets_of(session, stage, room.owner_user_id, wanted.platforms, wanted.destination_ids)
    _all_known(found, wanted.destination_ids)
    targets = _once([target for target in found.values() if target is not None])
    missing = [str(name) for name, target in found.items() if target is None]
    if not targets:
        raise NoDestination(
            f"No destination is saved for {', '.join(missing) or 'this broadcast'}", platform=missing[0]
        )
    if len(targets) > MOST_OUTPUTS:
        raise InvalidRequest(f"A broadcast has at most {MOST_OUTPUTS} outputs")
    settings = stage.settings
    preset = wanted.preset or settings.preset
    await check_capacity(session, settings.egress, preset)
    broadcast = Broadcast(
        id=uuid7(),
        room_id=room.room_id,
        started_by=origin.actor,
        host_identity=room.host_identity,
        wanted=BroadcastWanted.ON_AIR,
        preset=preset,
        video_source=wanted.video_source,
        video_name=wanted.video_name,
        source_grace=settings.source_grace if wanted.source_grace is None else wanted.source_grace,
        on_source_lost=wanted.on_source_lost or settings.on_source_lost,
        # LiveKit Egress publishes nothing before it has a track.
        hold_until_media=settings.egress == "relay"
        and (settings.hold_until_media if wanted.hold_until_media is None else wanted.hold_until_media),
        sound_only=wanted.sound_only,
        egress=settings.egress,
        livekit_project=room.livekit_project,
        room_made=room.origin == "made",
    )
    session.add(broadcast)
    await session.flush()
    outputs = [new_output(broadcast, target) for target in targets] + [
        output_without_destination(broadcast, name) for name in missing
    ]
    session.add_all(outputs)
    await session.flush()
    audit.add_event(
        session, broadcast, "broadcast.started", origin, platforms=_platforms(outputs), preset=broadcast.preset
    )
    audit.record(
        session,
        origin,
        "live.start",
        room.room_id,
        session_id=broadcast.id,
        platforms=_platforms(outputs),
        missing=missing,
        **operator_detail(caller, room),
    )
    return broadcast


async def _find_target(session: AsyncSession, stage: Stage, room: Room, broadcast: Broadcast, output: Output) -> None:
    """Gives an output the destination that was saved since. Raises `NoDestination`; `NotLive` when another output has
    that destination already."""
    found = (await targets_of(session, stage, room.owner_user_id, [output.platform], []))[output.platform]
    if found is None:
        raise NoDestination(platform=output.platform)
    others = [
        one for one in await outputs_of(session, broadcast) if one.id != output.id and one.state != OutputState.ENDED
    ]
    if any(_same(found, one) for one in others):
        raise NotLive("Another output of this broadcast has this destination already")
    aim(output, found)
    output.error_code = None


async def _take_saved(
    session: AsyncSession, stage: Stage, origin: Origin, room: Room, broadcast: Broadcast, output: Output
) -> None:
    """Gives an output of the environment's default what that platform has now, if no other output has it."""
    found = (await targets_of(session, stage, room.owner_user_id, [output.platform], []))[output.platform]
    changed = [] if found is None else changed_fields(output, found)
    if found is None or not changed:
        return
    others = [
        one for one in await outputs_of(session, broadcast) if one.id != output.id and one.state != OutputState.ENDED
    ]
    if not any(_same(found, one) for one in others):
        aim(output, found)
        audit.add_event(session, broadcast, CHANGED, origin, output=output, changed=changed)


async def _locked(session: AsyncSession, caller: Caller, output_id: UUID) -> tuple[Broadcast, Room, Output]:
    """An output with its broadcast and room; both rows are locked, the broadcast first. Raises `NotHost`, also for an
    unknown id."""
    broadcast_id = await session.scalar(select(Output.broadcast_id).where(Output.id == output_id))
    if broadcast_id is None:
        raise NotHost
    broadcast = await session.get(Broadcast, broadcast_id, with_for_update=True)
    room = await hosted_broadcast(session, caller, broadcast)
    output = await session.get(Output, output_id, with_for_update=True)
    if broadcast is None or output is None:
        raise BroadcastNotFound
    return broadcast, room, output


def _all_known(found: dict[str | UUID, OutputTarget | None], ids: Sequence[UUID]) -> None:
    if any(found[one] is None for one in ids):
        raise DestinationNotFound


def _once(wanted: Sequence[OutputTarget]) -> list[OutputTarget]:
    """Removes duplicates: a platform's destination may have been named by its id as well."""
    return list({target.destination_id or target.platform: target for target in wanted}.values())


def _same(target: OutputTarget, output: Output) -> bool:
    if target.destination_id is None:
        return output.destination_id is None and output.platform == target.platform and bool(output.ingest_url)
    return output.destination_id == target.destination_id


def _platforms(outputs: Sequence[Output]) -> list[str]:
    return list(dict.fromkeys(output.platform for output in outputs))


def _record(
    session: AsyncSession, origin: Origin, action: str, broadcast: Broadcast, output: Output, **detail: Any
) -> None:
    audit.record(
        session,
        origin,
        action,
        broadcast.room_id,
        session_id=broadcast.id,
        platforms=[output.platform],
        output_id=str(output.id),
        **detail,
    )


def _as_request(wanted: Start) -> dict[str, Any]:
    return {name: getattr(wanted, name) for name in Start.__dataclass_fields__}
