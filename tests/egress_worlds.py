"""The two engines, each with all that it needs to be real, behind one interface: for the suite that both must pass."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import UUID

from livekit import api
from pydantic import SecretStr

from butai.config import DatabaseSettings, LiveKitSettings, LiveSettings
from butai.database import Database
from butai.embedded.livekit import EmbeddedLiveKit
from butai.live.egress.livekit.livekit import LiveKitEgress
from butai.live.egress.livekit.poller import Pace
from butai.live.egress.relay.egress import RelayEgress
from butai.live.projects import Projects
from butai.live.reconcile.port import Egress, Engine
from butai.live.reconcile.reports import EngineGone, EngineReport, OutputReport, SourceReport
from butai.live.reconcile.rows import BroadcastRow
from tests.fakes.livekit_egress import Refuse, StandIn, Unreachable
from tests.livekit_shows import SECRET, LiveKitShows
from tests.platforms import Platform
from tests.processes import free_port
from tests.studio_host import HostProcess
from tests.waiting import until

NAMES = ("a", "b")


@dataclass
class Ear:
    """The reports that one holder of an engine is given."""

    heard: list[EngineReport] = field(default_factory=list)
    lost: int = 0

    def reports(self, output_id: UUID, attempt: int | None = None) -> list[OutputReport]:
        """The attempts of an output, in their order."""
        found = [one for one in self.heard if isinstance(one, OutputReport) and one.output_id == output_id]
        return [one for one in found if attempt is None or one.attempt == attempt]

    async def phase(
        self, output_id: UUID, *phases: str, attempt: int | None = None, seconds: float = 30
    ) -> OutputReport:
        """Waits until the newest report of an output has one of these phases, and returns it."""

        def newest() -> OutputReport | None:
            found = self.reports(output_id, attempt)
            return found[-1] if found and found[-1].phase in phases else None

        await until(newest, f"{phases}, heard {self.heard[-12:]}", seconds)
        found = newest()
        assert found is not None
        return found

    async def source(self, phase: str, seconds: float = 30) -> SourceReport:
        """Waits for a report that the host's media is in this phase, and returns it."""

        def newest() -> SourceReport | None:
            found = [one for one in self.heard if isinstance(one, SourceReport)]
            return found[-1] if found and found[-1].phase == phase else None

        await until(newest, f"source {phase}, heard {self.heard[-12:]}", seconds)
        found = newest()
        assert found is not None
        return found

    async def gone(self, seconds: float = 15) -> EngineGone:
        """Until the engine has ended."""
        await until(lambda: [one for one in self.heard if isinstance(one, EngineGone)], "gone", seconds)
        return next(one for one in self.heard if isinstance(one, EngineGone))


class World(Protocol):
    """One broadcast with two outputs, `a` and `b`. Keys are canaries."""

    name: str
    mends_itself: bool
    """Whether the engine reconnects by itself after a drop: LiveKit does, and says so as an interruption."""
    tells_at_once: bool
    """Whether `follow` has told where everything stands when it returns: a relay's welcome holds it; LiveKit's rows are
    read a moment later, and whatever is ordered meanwhile is settled by the rows, too."""
    hangs_up: bool
    """Whether an older controller's engine is lost to it when a younger one finds it: a relay has one connection;
    LiveKit's rows go on to be read by whoever asks, and refuse the older one's starts."""
    kill_ends: bool
    """Whether `kill` alone ends the pushes. LiveKit can only be asked, which is `stop`: nobody kills without it."""
    speed: float
    """How much faster than ours the engine's clock runs."""
    kill_code: str
    """Of an engine that was killed: a relay's process is gone then; of LiveKit nobody knows, and its poller sees to the
    rest."""
    outputs: dict[str, UUID]
    keys: dict[str, str]

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def engine(self, epoch: int = 1) -> tuple[Engine, Ear]:
        """Found or started, followed and configured, by a controller of its own."""
        ...

    def start(self, engine: Engine, name: str, attempt: int = 1, *, nowhere: bool = False) -> None:
        """`nowhere`: an address without a server."""
        ...

    def refuse(self, name: str) -> None: ...

    def drop(self, name: str) -> None: ...

    def pushes(self, name: str) -> int:
        """The publishes that the platform sees now."""
        ...

    def begun(self, name: str) -> int:
        """Pushes that ever began there."""
        ...

    def door(self, name: str) -> str:
        """Its address, without the key."""
        ...

    def kill(self, name: str) -> None:
        """The platform dies."""
        ...

    def heal(self, name: str) -> None:
        """And is there again."""
        ...

    async def host_leaves(self) -> None: ...

    async def host_returns(self) -> None: ...


def row(broadcast_id: UUID, room_id: str, grace: float) -> BroadcastRow:
    return BroadcastRow(
        id=broadcast_id,
        room_id=room_id,
        host_identity="host",
        wanted="on_air",
        preset="720p30",
        video_source="any",
        video_name="",
        source_grace=grace,
        on_source_lost="end",
        outputs=(),
    )


class Room:
    """A room of a real LiveKit, with a host in it. Broadcasts may share it: each relay is a guest of its own."""

    def __init__(self, server: EmbeddedLiveKit) -> None:
        self.livekit, self.room_id = server.livekit, f"room-{uuid.uuid4()}"
        self._host: HostProcess | None = None

    async def host_joins(self) -> None:
        """Unless the host is there."""
        if self._host is None:
            grants = api.VideoGrants(room_join=True, room=self.room_id)
            token = api.AccessToken(self.livekit.api_key, self.livekit.api_secret)
            token = token.with_identity("host").with_grants(grants)
            size = ("--width=320", "--height=180", "--kbps=400")
            self._host = await HostProcess.start(self.livekit.url, token.to_jwt(), *size)

    async def host_leaves(self) -> None:
        """With a goodbye."""
        if self._host is not None:
            await self._host.stop()
            self._host = None

    async def close(self) -> None:
        if self._host is not None:
            await self._host.kill()


class RelayWorld:
    """A real livekit-server, a real publisher, real relays, two real RTMP servers."""

    name = "relay"
    mends_itself = False
    tells_at_once = True
    hangs_up = True
    kill_ends = True
    kill_code = "egress_crashed"
    speed = 1.0

    def __init__(self, room: Room, platforms: dict[str, Platform]) -> None:
        self.room, self.platforms = room, platforms
        self.folder = Path(tempfile.mkdtemp(prefix="worlds-", dir="/tmp"))
        self.outputs = {name: uuid.uuid4() for name in NAMES}
        self.keys = {name: f"canary-{uuid.uuid4().hex}" for name in NAMES}
        self.broadcast = row(uuid.uuid4(), room.room_id, 3.0)
        self.egresses: list[Egress] = []
        self.engines: list[Engine] = []

    async def open(self) -> None:
        await self.room.host_joins()

    async def host_returns(self) -> None:
        await self.room.host_joins()

    async def close(self) -> None:
        for engine in self.engines:
            with contextlib.suppress(OSError):
                engine.kill()
        for egress in self.egresses:
            await egress.close()
        for platform in self.platforms.values():
            if not platform.alive:
                platform.start()
        # Relays tidy up in it, too.
        shutil.rmtree(self.folder, ignore_errors=True)

    async def engine(self, epoch: int = 1) -> tuple[Engine, Ear]:
        livekit = self.room.livekit
        settings = LiveKitSettings(url=livekit.url, api_key=livekit.api_key, api_secret=SecretStr(livekit.api_secret))
        projects = Projects(settings, LiveSettings())
        egress = RelayEgress(self.folder, projects, bytes.decode, controller=f"c{epoch}", allow_private=True)
        self.egresses.append(egress)
        found = await egress.find(self.broadcast.id, epoch) or await egress.start(self.broadcast.id, epoch)
        return found, _attach(self, found)

    def start(self, engine: Engine, name: str, attempt: int = 1, *, nowhere: bool = False) -> None:
        url = f"rtmp://127.0.0.1:{free_port()}/live" if nowhere else self.door(name)
        engine.start_output(self.outputs[name], attempt, url, self.keys[name].encode())

    def refuse(self, name: str) -> None:
        self.platforms[name].refuse.add(self.keys[name])

    def drop(self, name: str) -> None:
        self.platforms[name].drop(self.keys[name])

    def pushes(self, name: str) -> int:
        platform = self.platforms[name]
        return int(platform.alive and platform.bytes_in(self.keys[name]) > 0)

    def begun(self, name: str) -> int:
        return len(self.platforms[name].published(self.keys[name]))

    def door(self, name: str) -> str:
        return self.platforms[name].url

    def kill(self, name: str) -> None:
        self.platforms[name].kill()

    def heal(self, name: str) -> None:
        self.platforms[name].start()

    async def host_leaves(self) -> None:
        await self.room.host_leaves()


class LiveKitWorld:
    """The stand-in for LiveKit's egress fleet, five times as fast, and real rows."""

    name = "livekit"
    mends_itself = True
    tells_at_once = False
    hangs_up = False
    kill_ends = False
    kill_code = "stop_unconfirmed"
    speed = 5.0

    def __init__(self, url: str) -> None:
        self.database_url = url
        self.keys = {name: f"canary-{uuid.uuid4().hex}" for name in NAMES}
        self.doors = {name: f"rtmp://platform-{name}/app" for name in NAMES}
        self.outputs: dict[str, UUID] = {}
        self.egresses: list[tuple[LiveKitEgress, Database]] = []
        self.engines: list[Engine] = []

    async def open(self) -> None:
        self.standin = StandIn(key="devkey", secret=SECRET, speed=self.speed)
        await self.standin.start()
        self.shows = LiveKitShows(self.database_url, Path("/nonexistent"))
        self.shows.standin, self.shows.speed = self.standin, self.speed
        keys = {self.doors[name]: self.keys[name] for name in NAMES}
        broadcast_id = await self.shows.begin(*self.doors.values(), keys=keys, grace=15)
        rows = await self.shows.outputs(broadcast_id)
        self.outputs = {name: rows[door]["id"] for name, door in self.doors.items()}
        self.broadcast = row(broadcast_id, f"room-{broadcast_id}", 15 / self.speed)

    async def close(self) -> None:
        for egress, database in self.egresses:
            await egress.close()
            await database.__aexit__()
        await self.standin.close()

    async def engine(self, epoch: int = 1) -> tuple[Engine, Ear]:
        await self.shows.do(
            "UPDATE broadcasts SET lease_holder = %s, lease_epoch = %s, lease_until = now() + interval '1 hour' WHERE id = %s",
            f"c{epoch}",
            epoch,
            self.broadcast.id,
        )
        settings = LiveKitSettings(url=self.standin.url, api_key="devkey", api_secret=SecretStr(SECRET))
        live = LiveSettings(egress="livekit")
        database = Database(DatabaseSettings(url=SecretStr(self.database_url)))
        await database.__aenter__()
        pace = Pace().faster(self.speed)
        projects = Projects(settings, live)
        egress = LiveKitEgress(live, projects, database, bytes.decode, controller=f"c{epoch}", pace=pace)
        self.egresses.append((egress, database))
        await egress.open()
        found = await egress.find(self.broadcast.id, epoch)
        assert found is not None
        return found, _attach(self, found)

    def start(self, engine: Engine, name: str, attempt: int = 1, *, nowhere: bool = False) -> None:
        if nowhere:
            self.standin.platforms[self._url(name)] = Unreachable()
        elif isinstance(self.standin.platforms.get(self._url(name)), Unreachable):
            del self.standin.platforms[self._url(name)]
        engine.start_output(self.outputs[name], attempt, self.doors[name], self.keys[name].encode())

    def refuse(self, name: str) -> None:
        self.standin.platforms[self._url(name)] = Refuse()

    def drop(self, name: str) -> None:
        assert self.standin.drop(self._url(name)) == 1

    def pushes(self, name: str) -> int:
        return len(self.standin.running.get(self._url(name), []))

    def begun(self, name: str) -> int:
        return sum(self._url(name) in start.urls for start in self.standin.starts)

    def door(self, name: str) -> str:
        return self.doors[name]

    def kill(self, name: str) -> None:
        assert self.standin.platform_gone(self._url(name)) == 1

    def heal(self, name: str) -> None:
        self.standin.heal(self._url(name))

    async def host_leaves(self) -> None:
        room = self.standin.rooms.get(self.broadcast.room_id)
        assert room is not None
        # As rooms of Butai's are made.
        room.info.departure_timeout = 90
        self.standin.host_leaves(self.broadcast.room_id, "host")

    async def host_returns(self) -> None:
        self.standin.host_joins(self.broadcast.room_id, "host")

    def _url(self, name: str) -> str:
        return f"{self.doors[name]}/{self.keys[name]}"


def _attach(world: RelayWorld | LiveKitWorld, engine: Engine) -> Ear:
    ear = Ear()

    def lost() -> None:
        ear.lost += 1

    engine.follow(ear.heard.append, lost)
    engine.configure(world.broadcast)
    world.engines.append(engine)
    return ear
