"""What a test may do to the stand-in while it runs; the same names work over `POST /control`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.fakes.livekit_egress.clock import Clock
from tests.fakes.livekit_egress.ingresses import Ingresses
from tests.fakes.livekit_egress.records import Records
from tests.fakes.livekit_egress.rooms import Rooms
from tests.fakes.livekit_egress.twirp import TwirpServer
from tests.fakes.livekit_egress.webhooks import Webhooks
from tests.fakes.livekit_egress.worker import WORKER_MISSED_AFTER, Egress, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator


class Commands:
    """The half of `StandIn` that a test drives. Each returns how many egresses or streams it touched where that says
    something, so that a fault test can assert that its fault happened."""

    clock: Clock
    rooms: Rooms
    records: Records
    webhooks: Webhooks
    ingresses: Ingresses
    server: TwirpServer
    keys: dict[str, str]
    egresses: dict[str, Egress]

    def _set_defaults(self) -> None:
        self._no_workers = False
        self._slow = 0.0
        self._slow_pick: float | None = None
        self._absent_rooms: set[str] = set()
        self._forgotten: set[str] = set()
        self._gone: set[str] = set()
        self._stop_hangs: tuple[asyncio.Event, bool] | None = None

    # Platforms

    def _streaming(self, url: str) -> Iterator[tuple[Egress, Stream]]:
        for egress in list(self.egresses.values()):
            stream = egress.streaming(url)
            if stream is not None:
                yield egress, stream

    def drop(self, url: str) -> int:
        """The platform cuts a stream's connection; LiveKit reconnects by itself: `retries` + 1."""
        found = list(self._streaming(url))
        for egress, stream in found:
            egress.drop(stream)
        return len(found)

    def stall(self, url: str) -> int:
        """The platform stops reading: nothing shows for 31 s, then `retries`. `heal(url)` ends it."""
        found = list(self._streaming(url))
        for egress, stream in found:
            egress.stall(stream)
        return len(found)

    def platform_gone(self, url: str) -> int:
        """Nothing listens at the URL any more: a stream younger than 4.5 s is FAILED at once, an older one retried for
        30 s; new attempts are refused. `heal(url)` ends it."""
        self._gone.add(url)
        found = list(self._streaming(url))
        for egress, stream in found:
            egress.platform_gone(stream)
        return len(found)

    def heal(self, url: str) -> None:
        self._gone.discard(url)
        for egress in self.egresses.values():
            egress.heal(url)

    # Egresses and workers

    def fail(self, target: str, error: str = "Connection error: connection closed remotely", code: int = 500) -> int:
        """`target` a full URL: that stream FAILs with `error` (and the egress with it, 503, when it was the last). An
        egress id: the whole egress ends with `error` and `code` (412 aborted, 413 limit reached, 403 killed, …)."""
        egress = self.egresses.get(target)
        if egress is not None:
            egress.fail(error, code)
            return 1
        return sum(one.fail_url(target, error) for one in list(self.egresses.values()))

    def kill_worker(self, egress_id: str, leaves_after: float = WORKER_MISSED_AFTER) -> bool:
        """SIGKILL of the worker: its record stays as it is, its participant leaves `leaves_after` seconds later."""
        egress = self.egresses.get(egress_id)
        if egress is None or not egress.alive:
            return False
        egress.kill(leaves_after)
        return True

    def freeze(self, egress_id: str, frozen: bool = True) -> bool:
        """The worker's reports are lost from now on: its record and `updated_at` stand still, whatever happens."""
        egress = self.egresses.get(egress_id)
        if egress is not None:
            egress.frozen = frozen
        return egress is not None

    def forget(self, egress_id: str) -> bool:
        """Deletes the record, as after a flushed Redis; a worker that carries it continues."""
        self._forgotten.add(egress_id)
        known = self.records.get(egress_id) is not None
        self.records.forget(egress_id)
        return known

    def expire(self) -> int:
        """Every ended record is gone, as 24 h after its end; says how many."""
        return self.records.expire()

    def no_workers(self, none: bool = True) -> None:
        """StartEgress: 503 after 22 s."""
        self._no_workers = none

    def slow_start(self, seconds: float, appears_after: float | None = None) -> None:
        """StartEgress answers after `seconds` from now on (0: as usual), but the egress is made all the same,
        `appears_after` seconds (default 0.5) behind the request."""
        self._slow = seconds
        self._slow_pick = appears_after if seconds else None

    def stop_hangs(self, hangs: bool = True, takes_effect: bool = False) -> None:
        """StopEgress does not answer until `stop_hangs(False)`; with `takes_effect` it stops the egress all the
        same."""
        if self._stop_hangs is not None:
            self._stop_hangs[0].set()
        self._stop_hangs = (asyncio.Event(), takes_effect) if hangs else None

    # The server

    async def down(self, down: bool = True, how: str = "refuse") -> None:
        """`how`: `refuse` (connections refused, open ones cut), `hang` (never answered), `error` (500 to every
        call)."""
        await self.server.set_mode(how if down else "up")

    def add_key(self, key: str, secret: str) -> None:
        self.keys[key] = secret

    def remove_key(self, key: str) -> None:
        del self.keys[key]

    # Rooms

    def room_absent(self, room: str, absent: bool = True) -> None:
        """StartEgress for the room: 404 at once, also with `auto_rooms`."""
        if absent:
            self._absent_rooms.add(room)
        else:
            self._absent_rooms.discard(room)

    def host_joins(self, room: str, identity: str = "host") -> None:
        self.rooms.join(room, identity)

    def host_leaves(self, room: str, identity: str = "host", reason: str = "CLIENT_INITIATED") -> None:
        """`reason` one of LiveKit's DisconnectReason (CLIENT_INITIATED, PARTICIPANT_REMOVED, CONNECTION_TIMEOUT, …)."""
        self.rooms.leave(room, identity, reason)

    def close_source(self, room: str) -> None:
        """The room is deleted: `Source closed`, COMPLETE within 0.1 s."""
        self.rooms.close(room, "ROOM_DELETED")

    def ingress_starts(self, ingress_id: str) -> None:
        self.ingresses.begin(ingress_id)

    def ingress_ends(self, ingress_id: str, error: str = "") -> None:
        self.ingresses.end(ingress_id, error)

    def webhook_policy(
        self,
        on: bool = True,
        delay: float = 0.0,
        reorder: float = 0.0,
        loss: float = 0.0,
        doubled: float = 0.0,
    ) -> None:
        """Replace the whole policy; see `webhooks.Policy`."""
        policy = self.webhooks.policy
        policy.on, policy.delay, policy.reorder, policy.loss, policy.doubled = on, delay, reorder, loss, doubled
