"""Which encoders may publish, and for how long. Postgres's tables decide; while it is unreachable, those that publish go on."""

from __future__ import annotations

import asyncio
import contextlib
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

import structlog

from butai.database import Database
from butai.errors import Code, DatabaseUnavailable
from butai.ingest.connection import KeyRefused, Publication
from butai.ingest.publishers import Publisher, Publishers, Source
from butai.live.encoders import connections, keys
from butai.live.encoders.connections import Standing

log = structlog.get_logger(__name__)

CHECK_WITHIN = 5.0
"""Seconds for Postgres to say whether a key is good; the ingest gives a connection ten until then."""
LOOK_EVERY = 5.0
"""Seconds between two looks at whether the keys in use are still good, which rows of rooms and users decide as well. A key that
is revoked, a broadcast that begins, and a newer connection are notified at once."""
_WANTED = "butai_wanted"
"""The channel of broadcasts that begin or end."""


class EncoderAdmission:
    """Admits the encoders of one process, and looks after their keys, rows and broadcasts."""

    def __init__(self, database: Database, publishers: Publishers, name: str) -> None:
        """`name`: that of the process in the rows. `left` is to be called with each publisher that ends."""
        self._database, self._publishers, self._name = database, publishers, name
        self._turns: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()
        self._over: list[tuple[UUID, UUID]] = []
        self._look_now = asyncio.Event()
        self._away = False

    async def admit(self, candidates: tuple[str, ...], publication: Publication) -> Publisher:
        """The publisher of an encoder whose key is among these texts. Raises `KeyRefused`."""
        try:
            async with asyncio.timeout(CHECK_WITHIN):
                accepted = await keys.accepted(self._database, candidates, publication.address)
                if accepted is None:
                    raise KeyRefused(
                        Code.ENCODER_KEY_REFUSED, "No encoder has this key: copy server and stream key again"
                    )
                source = Source(accepted.id, accepted.room_id, accepted.label, accepted.fingerprint)
                async with self._turns.setdefault(source.id, asyncio.Lock()):
                    self._publishers.check(source.id)
                    connection_id = uuid4()
                    try:
                        # Before the older connection is ended: its ingest, which may be another process, reads the row.
                        await connections.begin(
                            self._database, source.id, connection_id, self._name, publication.address
                        )
                        publisher = self._publishers.admit(source, publication, connection_id)
                    except BaseException:
                        # The row may be written, as when the encoder has left meanwhile.
                        self._over.append((source.id, connection_id))
                        raise
        except (DatabaseUnavailable, TimeoutError):
            raise KeyRefused(
                Code.DATABASE_UNAVAILABLE, "The key cannot be checked now: try again in a moment"
            ) from None
        except KeyRefused as refused:
            log.info("ingest.refused", code=refused.code, address=publication.address)
            raise
        self._look_now.set()
        return publisher

    def left(self, publisher: Publisher) -> None:
        """Takes note of a publisher whose publish is over: its row is deleted."""
        self._over.append((publisher.source.id, publisher.connection_id))
        self._look_now.set()

    async def run(self) -> None:
        """Looks after those who publish, until it is cancelled."""
        listening = asyncio.create_task(self._database.listen([keys.CHANGED, _WANTED], self._heard, self._look_now.set))
        try:
            while True:
                self._look_now.clear()
                try:
                    async with asyncio.timeout(CHECK_WITHIN):
                        await self.look()
                    self._note(away=False)
                except (DatabaseUnavailable, TimeoutError):
                    self._note(away=True)
                except Exception:
                    # Those who publish do not pay for it.
                    log.exception("ingest.look_failed")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY):
                        await self._look_now.wait()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def look(self) -> None:
        """Ends those whose key is good no longer or has a newer connection, tells the others their broadcast, and writes their
        rows. Raises `DatabaseUnavailable`, and then has ended none."""
        over, there = list(self._over), self._publishers.all()
        if over:
            await connections.end(self._database, over)
            del self._over[: len(over)]
        if not there:
            return
        found = await connections.standing(self._database, [one.source.id for one in there])
        for publisher in there:
            self._judge(publisher, found.get(publisher.source.id))
        left = [
            (one.source.id, one.connection_id, UUID(one.broadcast_id) if one.broadcast_id else None, one.figures())
            for one in self._publishers.all()
        ]
        if left:
            await connections.seen(self._database, left)

    async def say_goodbye(self) -> None:
        """Deletes the rows of those that have left, if Postgres answers soon; rows that stay are seen to be old."""
        with contextlib.suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(1):
                await self.look()

    def _judge(self, publisher: Publisher, standing: Standing | None) -> None:
        if standing is None or standing.key_fingerprint != publisher.source.key_fingerprint:
            publisher.end(Code.ENCODER_KEY_ENDED, "The key was replaced or revoked, or its room was closed")
        elif standing.connection_id not in (None, publisher.connection_id):
            publisher.end(Code.ENCODER_REPLACED, "A newer connection publishes with this key")
        else:
            publisher.assign(str(standing.broadcast_id) if standing.broadcast_id else None)

    def _heard(self, channel: str, payload: str) -> None:
        mine = {str(one.source.id) for one in self._publishers.all()}
        if mine and (channel == _WANTED or payload in mine):
            self._look_now.set()

    def _note(self, *, away: bool) -> None:
        if away is not self._away:
            self._away = away
            log.warning(
                "ingest.database_away" if away else "ingest.database_back", encoders=len(self._publishers.all())
            )
