"""What became of a project's egresses: LiveKit asked again and again, since its webhooks may be lost and its records lie.

One for each LiveKit project, in the controller that holds the project's lease; made by `livekit`. Each two seconds one
request for all egresses that are not over. What is not settled is asked for by its id, each half second and whenever a
webhook says that there is something new. The participants of a room tell whether the worker behind an egress lives; after
a webhook about the room, and, where webhooks do not come, of each room every eight seconds.

Its findings go to the rows (`ledger`), from which the controllers that hold the broadcasts learn. It ends what nobody
wants: egresses whose stop was not confirmed, and orphans of starts whose answer was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from uuid import UUID

import msgspec
import structlog
from livekit.protocol.egress import EgressInfo, EgressStatus

from butai.errors import Code, DatabaseUnavailable
from butai.live.egress.livekit import evidence
from butai.live.egress.livekit.evidence import Rules, Seen
from butai.live.egress.livekit.gateway import Gateway, GatewayError, Patience, Refused, Unauthorized
from butai.live.egress.livekit.ledger import Address, Attempt, Ledger, Note
from butai.live.egress.livekit.stopping import OpenKey, all_shown, stop_attempt

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Pace:
    """Times in seconds. Tests divide them all by one number."""

    look_every: float = 2.0
    """Between two looks at all egresses of a project."""
    unsettled_every: float = 0.5
    room_every: float = 8.0
    """Between two looks at a room whose webhooks do not come: with two looks a dead worker is found within ten."""
    room_again: float = 1.0
    """Until the second look at a room that missed somebody."""
    trusted: float = 60.0
    """For so long after its last webhook a project's webhooks are taken to come."""
    doubt: float = 25.0
    """Until a start without an answer counts as never done: LiveKit itself gives up after 22."""
    stop_again: float = 4.0
    """Between two tries to stop what goes on."""
    ending: float = 15.0
    """That an egress may take for its end, until its worker counts as dead."""
    probe: float = 5.0
    """That others wait while one tries whether a worker is there again; LiveKit takes 22 to say that none is."""
    worker_base: float = 5.0
    """Between two tries of a project whose egress workers are all away or busy, shared by all broadcasts: the first."""
    worker_cap: float = 60.0
    """The longest."""
    hint: float = 0.02
    """In which hints are gathered."""
    rules: Rules = field(default_factory=Rules)
    patience: Patience = field(default_factory=Patience)

    def faster(self, times: float) -> Pace:
        """All of them divided."""
        rules = Rules(self.rules.settles / times, self.rules.heals / times)
        plain = [name for name in self.__dataclass_fields__ if name not in ("rules", "patience")]
        numbers = {name: getattr(self, name) / times for name in plain}
        return Pace(**numbers, rules=rules, patience=self.patience.faster(times))


AT_ONCE = 16
"""Requests to LiveKit at the same time."""

SLOW_ROOMS = 1.0
"""Rooms a second that are looked at though their webhooks come: one may be lost."""


_Look = tuple[Attempt, EgressInfo, float]
"""A row, LiveKit's word about it, and when LiveKit was asked (seconds since 1970)."""


class _Hint(msgspec.Struct):
    project: str
    event: str = ""
    room_id: str | None = None
    subject: str | None = None
    identity: str | None = None
    """Of the participant, where it speaks of one or of a track."""


class Poller:
    """One project's. `run` until cancelled."""

    def __init__(
        self, project: str, gateway: Gateway, ledger: Ledger, holder: str, open_key: OpenKey, pace: Pace
    ) -> None:
        self.project, self._gateway, self._ledger = project, gateway, ledger
        self._holder, self._open_key, self._pace = holder, open_key, pace
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._woken = asyncio.Event()
        self._hinted_egresses: set[str] = set()
        self._hinted_rooms: set[str] = set()
        self._heard_at = float("-inf")
        self._looked_rooms: dict[str, float] = {}
        self._again_rooms: dict[str, float] = {}
        self._stopped: dict[str, float] = {}
        self._strangers: set[str] = set()
        self._shown: dict[UUID, list[str]] = {}
        self._watched: dict[str, set[str]] = {}
        self._holds = False
        self._failing: str | None = None

    def hint(self, payload: str) -> None:
        """LiveKit has sent a webhook: something to look at now."""
        try:
            said = msgspec.json.decode(payload, type=_Hint)
        except msgspec.MsgspecError:
            return
        if said.project != self.project:
            return
        self._heard_at = time.monotonic()
        if not self._holds:
            return
        if said.event.startswith("egress_") and said.subject:
            self._hinted_egresses.add(said.subject)
        elif said.room_id and said.event.startswith(("participant_", "track_")):
            # Viewers come and go all the time, and nothing hangs on them.
            if (said.identity or said.subject) not in self._watched.get(said.room_id, ()):
                return
            self._hinted_rooms.add(said.room_id)
        else:
            return
        self._woken.set()

    async def run(self) -> None:
        """Asks for the lease, and looks while it has it."""
        try:
            while True:
                try:
                    await self._hold()
                except DatabaseUnavailable:
                    await asyncio.sleep(self._pace.unsettled_every)
                except Exception:
                    log.exception("livekit.poller_crashed", project=self.project)
                    await asyncio.sleep(self._pace.look_every)
        finally:
            with contextlib.suppress(DatabaseUnavailable, TimeoutError):
                async with asyncio.timeout(2):
                    await self._ledger.leave_project(self.project, self._holder)

    async def _hold(self) -> None:
        """Until the lease is lost. Hints and what is unsettled come between two looks at everything."""
        bulk_at = unsettled_at = 0.0
        rows: list[Attempt] = []
        while True:
            now = time.monotonic()
            if now >= bulk_at:
                bulk_at = now + self._pace.look_every
                self._holds, self._failing = await self._ledger.lease_project(self.project, self._holder)
                if not self._holds:
                    await asyncio.sleep(self._pace.look_every)
                    continue
                rows = await self._look_at_all()
                unsettled_at = time.monotonic() + self._pace.unsettled_every
            elif self._woken.is_set():
                self._woken.clear()
                await asyncio.sleep(self._pace.hint)
                hinted, self._hinted_egresses = self._hinted_egresses, set()
                rooms, self._hinted_rooms = self._hinted_rooms, set()
                rows = await self._ledger.open_of(self.project)
                await self._look_by_id([row for row in rows if row.egress_id in hinted])
                await self._look_at_rooms(rooms, rows)
            elif now >= unsettled_at:
                unsettled_at = now + self._pace.unsettled_every
                if any(not row.seen.settled or row.stop_asked_at for row in rows) or self._again_rooms:
                    rows = await self._ledger.open_of(self.project)
                    await self._look_by_id([row for row in rows if row.egress_id and self._is_unsettled(row)])
                    await self._look_at_rooms(self._due_again(), rows)
            pause = max(min(bulk_at, unsettled_at) - time.monotonic(), 0.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    def _is_unsettled(self, row: Attempt) -> bool:
        """Something is expected of it that the next look at all would show late."""
        if row.stop_asked_at is not None or row.seen.status == "ending":
            return True
        due = evidence.due(row.seen, self._pace.rules)
        return not row.seen.settled and (due is None or due <= time.time())

    # All of them

    async def _look_at_all(self) -> list[Attempt]:
        await self._ledger.end_left_overs(self.project)
        rows = await self._ledger.open_of(self.project)
        self._watched = defaultdict(set)
        for row in rows:
            self._watched[row.room_id] |= {row.host_identity, row.egress_id or ""}
        if not rows and self._failing is None:
            # Nobody is on air here: LiveKit is left alone.
            self._looked_rooms.clear()
            return rows
        asked_at = time.time()
        try:
            infos = {info.egress_id: info for info in await self._gateway.active()}
        except GatewayError as error:
            await self._fails(error)
            return rows
        await self._answers()
        rows = await self._adopt(rows, infos)
        missing = [row for row in rows if row.egress_id and row.egress_id not in infos]
        await self._take([(row, infos[row.egress_id], asked_at) for row in rows if row.egress_id in infos])
        # Over, or forgotten: its own record tells which.
        await self._look_by_id(missing)
        await self._give_up_doubts(rows)
        await self._sweep(rows, infos)
        await self._look_at_rooms(self._due_rooms(rows), rows)
        return await self._ledger.open_of(self.project)

    async def _fails(self, error: GatewayError) -> None:
        """Nothing is known: what is on air stays as it was last seen."""
        code = Code.LIVEKIT_UNREACHABLE
        if isinstance(error, Unauthorized):
            code = Code.LIVEKIT_UNAUTHORIZED
        elif isinstance(error, Refused):
            # A LiveKit without Redis knows no egresses.
            code = Code.EGRESS_UNAVAILABLE
        if self._failing != code:
            self._failing = code
            log.error("livekit.failing", project=self.project, code=code, detail=str(error))
        await self._ledger.polled(self.project, code)

    async def _answers(self) -> None:
        if self._failing is not None:
            self._failing = None
            log.info("livekit.answers", project=self.project)
        await self._ledger.polled(self.project, None)

    async def _take(self, looks: list[_Look]) -> None:
        """LiveKit's words about rows, written where they change something. Each is as old as its question: what is not well
        any more when the answer comes was perhaps well then."""
        shared = _shared([row for row, _, _ in looks])
        urls = await self._addresses([row for row, info, _ in looks if len(info.stream_results) > 1])
        notes: list[Note] = []
        for row, info, asked_at in looks:
            nth = shared.get(row.id, 1)
            seen = evidence.heard(row.seen, info, urls.get(row.output_id, ()), asked_at, nth, self._pace.rules)
            if seen != row.seen:
                notes.append(Note(row.id, None, seen, seen.over))
        await self._ledger.note(notes)

    async def _addresses(self, rows: list[Attempt]) -> dict[UUID, list[str]]:
        """As LiveKit shows them, by output: only of rows that share an egress, for which keys must be opened."""
        wanted = {row.output_id for row in rows}
        self._shown = {output_id: urls for output_id, urls in self._shown.items() if output_id in wanted}
        if wanted - self._shown.keys():
            for address in await self._ledger.addresses(self.project, {row.room_id for row in rows}):
                self._shown[address.output_id] = self._show(address)
        return self._shown

    def _show(self, address: Address) -> list[str]:
        try:
            return all_shown(address, self._open_key)
        except Exception:  # noqa: BLE001 - whatever unsealing raises, nothing is shown
            # Sealed with a key that is no more.
            return []

    async def _look_by_id(self, rows: list[Attempt]) -> None:
        by_egress: dict[str, list[Attempt]] = defaultdict(list)
        for row in rows:
            by_egress[row.egress_id or ""].append(row)

        async def look(egress_id: str) -> list[tuple[Attempt, EgressInfo | None, float]]:
            async with self._turns:
                asked_at = time.time()
                try:
                    info = await self._gateway.one(egress_id)
                except GatewayError:
                    return []
            return [(row, info, asked_at) for row in by_egress[egress_id]]

        answers = await asyncio.gather(*(look(egress_id) for egress_id in by_egress))
        found = [one for answer in answers for one in answer]
        await self._take([(row, info, asked_at) for row, info, asked_at in found if info is not None])
        now = time.time()
        forgotten = [
            Note(row.id, None, evidence.lost(row.seen, "LiveKit knows it no more", now), over=True)
            for row, info, _ in found
            if info is None
        ]
        dead = [
            Note(row.id, None, evidence.lost(row.seen, "it never came to its end", now), over=True)
            for row, info, _ in found
            if info is not None
            and info.status == EgressStatus.EGRESS_ENDING
            and now - max(row.stop_asked_at or 0.0, info.updated_at / 1e9) > self._pace.ending
        ]
        await self._ledger.note([*forgotten, *dead])

    # What nobody knows of

    async def _adopt(self, rows: list[Attempt], infos: dict[str, EgressInfo]) -> list[Attempt]:
        """Egresses that no row knows. Of a room of ours, to an address of ours: the answer to a start that was lost, or an
        orphan, which is ended. All others are somebody else's."""
        known = {row.egress_id for row in rows}
        self._strangers &= infos.keys()
        unknown = [info for info in infos.values() if info.egress_id not in known | self._strangers]
        if not unknown:
            return rows
        # Read after the list: a row is written before its egress can be in one.
        rows = await self._ledger.open_of(self.project)
        known = await self._ledger.known({info.egress_id for info in unknown})
        rooms = {info.room_name for info in unknown}
        if "" in rooms:
            # One that shows a page is in no room.
            rooms |= {row.room_id for row in rows}
        addresses = await self._ledger.addresses(self.project, rooms)
        adopted: dict[UUID, str] = {}
        for info in unknown:
            outputs = self._outputs_of(info, addresses)
            if info.egress_id in known:
                # Over for us; a dead worker's record says ACTIVE for a day.
                if not any(row.egress_id == info.egress_id for row in rows):
                    self._strangers.add(info.egress_id)
                continue
            doubtful = [row for row in rows if row.egress_id is None and row.output_id in outputs]
            if doubtful:
                row = doubtful[-1]
                adopted[row.id] = info.egress_id
                log.warning("livekit.adopted", egress_id=info.egress_id, output_id=str(row.output_id))
                await self._ledger.note([Note(row.id, info.egress_id, row.seen, over=False)])
            elif outputs:
                await self._end_orphan(info)
            else:
                self._strangers.add(info.egress_id)
        return [replace(row, egress_id=adopted.get(row.id, row.egress_id)) for row in rows]

    def _outputs_of(self, info: EgressInfo, addresses: list[Address]) -> set[UUID]:
        """The outputs of this room that go where this egress goes."""
        shown = {stream.url for stream in info.stream_results}
        return {
            address.output_id
            for address in addresses
            if info.room_name in ("", address.room_id) and shown & set(self._show(address))
        }

    async def _end_orphan(self, info: EgressInfo) -> None:
        if time.monotonic() - self._stopped.get(info.egress_id, float("-inf")) < self._pace.stop_again:
            return
        self._stopped[info.egress_id] = time.monotonic()
        log.warning("livekit.orphan_ended", egress_id=info.egress_id, room_id=info.room_name)
        with contextlib.suppress(GatewayError):
            await self._gateway.stop(info.egress_id)

    async def _give_up_doubts(self, rows: list[Attempt]) -> None:
        """Starts without an answer, and without an egress in LiveKit's list for longer than it takes its time."""
        now = time.time()
        detail = "LiveKit did not say whether it started"
        await self._ledger.note(
            [
                Note(row.id, None, evidence.refused(Code.EGRESS_START_TIMEOUT, detail, now), over=True)
                for row in rows
                if row.egress_id is None and now - row.asked_at > self._pace.doubt
            ]
        )

    async def _sweep(self, rows: list[Attempt], infos: dict[str, EgressInfo]) -> None:
        """What was to end and goes on."""
        now = time.monotonic()
        self._stopped = {key: at for key, at in self._stopped.items() if now - at < 60}
        for row in rows:
            egress_id = row.egress_id
            if egress_id is None or row.stop_asked_at is None or egress_id not in infos:
                continue
            if time.time() - row.stop_asked_at < self._pace.stop_again:
                # Whoever asked is still at it.
                continue
            if now - self._stopped.get(egress_id, float("-inf")) >= self._pace.stop_again:
                self._stopped[egress_id] = now
                async with self._turns:
                    await stop_attempt(self._ledger, self._gateway, row, egress_id, self._open_key)

    # Rooms

    def _due_rooms(self, rows: list[Attempt]) -> set[str]:
        """Whose turn it is, without any hint."""
        now = time.monotonic()
        rooms = {row.room_id for row in rows if row.seen.started_at is not None}
        self._looked_rooms = {room: at for room, at in self._looked_rooms.items() if room in rooms}
        never = float("-inf")
        if now - self._heard_at > self._pace.trusted:
            # Half a look early: the next one would be late.
            due = now - self._pace.room_every + self._pace.look_every / 2
            return {room for room in rooms if self._looked_rooms.get(room, never) <= due}
        allowed = max(1, round(self._pace.look_every * SLOW_ROOMS))
        oldest = sorted(rooms, key=lambda room: self._looked_rooms.get(room, never))
        return {room for room in oldest[:allowed] if now - self._looked_rooms.get(room, never) > self._pace.room_every}

    def _due_again(self) -> set[str]:
        now = time.monotonic()
        due = {room for room, at in self._again_rooms.items() if at <= now}
        for room in due:
            del self._again_rooms[room]
        return due

    async def _look_at_rooms(self, rooms: Iterable[str], rows: list[Attempt]) -> None:
        of_room: dict[str, list[Attempt]] = defaultdict(list)
        for row in rows:
            of_room[row.room_id].append(row)
        wanted = [room for room in set(rooms) if any(row.egress_id for row in of_room[room])]
        notes = await asyncio.gather(*(self._look_at_room(room, of_room[room]) for room in wanted))
        await self._ledger.note([note for found in notes for note in found])

    async def _has_ended(self, egress_id: str) -> bool:
        """Whether LiveKit itself says so, or that it is about to: then its words count, not our guess. A LiveKit that does not
        answer says nothing."""
        try:
            info = await self._gateway.one(egress_id)
        except GatewayError:
            return True
        return info is not None and _ends(info)

    async def _look_at_room(self, room: str, rows: list[Attempt]) -> list[Note]:
        async with self._turns:
            try:
                there = await self._gateway.participants(room)
            except GatewayError as error:
                if not isinstance(error, Refused):
                    self._again_rooms[room] = time.monotonic() + self._pace.look_every
                return []
        now = time.time()
        self._looked_rooms[room] = time.monotonic()
        identities = {one.identity for one in there or ()}
        publish = {one.identity for one in there or () if any(not track.muted for track in one.tracks)}
        notes: list[Note] = []
        for row in rows:
            if row.egress_id is None:
                continue
            seen: Seen = row.seen
            # A room that is gone, or empty, ends its egresses itself, and they say so. So does one that ended by itself.
            missed = row.egress_id not in identities and seen.absent + 1 >= evidence.ABSENT_LOOKS
            if there and not (missed and await self._has_ended(row.egress_id)):
                seen = evidence.present(seen, now, there=row.egress_id in identities)
            seen = evidence.host_heard(seen, now, live=row.host_identity in publish)
            if seen.absent and not seen.over:
                self._again_rooms[room] = time.monotonic() + self._pace.room_again
            if seen != row.seen:
                notes.append(Note(row.id, None, seen, seen.over))
        return notes


def _ends(info: EgressInfo) -> bool:
    return info.status not in (EgressStatus.EGRESS_STARTING, EgressStatus.EGRESS_ACTIVE)


def _shared(rows: list[Attempt]) -> dict[UUID, int]:
    """Of rows that share an egress with earlier attempts of the same output: how many there are up to them."""
    counts: dict[tuple[UUID, str | None], int] = defaultdict(int)
    found: dict[UUID, int] = {}
    for row in sorted(rows, key=lambda row: row.attempt):
        counts[row.output_id, row.egress_id] += 1
        found[row.id] = counts[row.output_id, row.egress_id]
    return found
