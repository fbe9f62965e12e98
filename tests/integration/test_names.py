"""What a key names: for every listed file and every caller its address reads it, its key writes it for who may, and sidecars
that are named after either are put beside it. And a name that was given out leads to no other file."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets import keys, listing, purge, queries, service
from butai.assets.kinds import AssetType
from butai.assets.library import Library, assemble
from butai.assets.models import Asset
from butai.assets.queries import ListRequest
from butai.assets.reading import lookup
from butai.assets.reading.lookup import ReadableAsset
from butai.assets.service import Edit
from butai.assets.storage.client import Store
from butai.assets.uploads.attempts import StoredObject, UploadAttempt, finish
from butai.assets.uploads.opening import Source, open_upload
from butai.audit import Origin
from butai.config import Settings
from butai.database import Database
from butai.errors import Forbidden
from butai.identity import Caller

NAMES = ("a", "b c", "b+c", "b%20c", "100%", "é (1)!*'~", "舞台", "a~abcdefgh", "a\u200bb")
USERS = ("alice", "bob", "operator")
READ = "/api/s3/read-object?key="


@pytest.fixture
def library(settings: Settings, database: Database) -> Library:
    return assemble(database, Store(settings.store), settings.assets, settings.http)


class _Undone(Exception):
    """Ends a transaction that is to leave nothing."""


@dataclass
class Studio:
    """Files of some users in a folder of their own. `holders`: whose file each plain name is, from its first publishing on."""

    library: Library
    folder: str = field(default_factory=lambda: f"vrm/{uuid.uuid4().hex}")
    holders: dict[tuple[str, bool], str] = field(default_factory=dict)

    @property
    def database(self) -> Database:
        return self.library.database

    async def open(self, session: AsyncSession, user: str, key: str) -> UploadAttempt:
        source = Source("upload", timedelta(minutes=1), size=10)
        attempt, _ = await open_upload(
            session,
            self.library.uploads,
            user,
            Origin(user),
            keys.parse(key),
            source,
            operator=user == "operator",
        )
        return attempt

    async def put(self, user: str, key: str) -> Asset:
        async with self.database.transaction() as session:
            attempt = await self.open(session, user, key)
        async with self.database.transaction() as session:
            return await finish(session, attempt, StoredObject(10, None, "etag", b""), actor=user)

    async def upload(self, user: str, name: str) -> None:
        await self.put(user, f"{self.folder}/{name}.vrm")
        await self.note()

    async def twin(self, user: str, name: str) -> None:
        await self.put(user, f"{self.folder}/{name}.glb")
        await self.note()

    async def thumb(self, user: str, name: str) -> None:
        try:
            await self.put(user, f"{self.folder}/{name}_thumb.png")
        except Forbidden:
            assert await self.of(user, name) == [], "a sidecar of one's own file is refused"

    async def of(self, user: str, name: str) -> list[Asset]:
        stems = {f"{self.folder}/{one}" for one in (name, keys.parse(f"vrm/{name}.vrm").stem.removeprefix("vrm/"))}
        async with self.database.transaction() as session:
            found = select(Asset).where(Asset.owner_user_id == user, Asset.stem.in_(stems), Asset.sidecar.is_(None))
            return list(await session.scalars(found.order_by(Asset.id)))

    async def edit(self, user: str, name: str, act: Callable[[Caller, Origin, Asset], Any]) -> None:
        for asset in await self.of(user, name):
            await act(caller_of(user), Origin(user), asset)
        await self.note()

    async def publish(self, user: str, name: str) -> None:
        await self.edit(
            user,
            name,
            lambda who, origin, one: service.edit(self.database, who, origin, one.id, Edit(visibility="public")),
        )

    async def hide(self, user: str, name: str) -> None:
        await self.edit(
            user,
            name,
            lambda who, origin, one: service.edit(self.database, who, origin, one.id, Edit(visibility="private")),
        )

    async def trash(self, user: str, name: str) -> None:
        await self.edit(user, name, lambda who, origin, one: service.trash(self.database, who, origin, one.id))

    async def restore(self, user: str, name: str) -> None:
        await self.edit(user, name, lambda who, origin, one: service.restore(self.database, who, origin, one.id))

    async def purge(self, user: str, name: str) -> None:
        async def act(who: Caller, origin: Origin, one: Asset) -> None:
            if one.deleted_at is not None:
                await purge.purge_now(self.database, who, origin, one.id)

        await self.edit(user, name, act)

    async def rows(self) -> list[Asset]:
        async with self.database.transaction() as session:
            found = select(Asset).where(Asset.wanted_key.startswith(self.folder, autoescape=True))
            return list(await session.scalars(found.order_by(Asset.id)))

    async def note(self) -> None:
        for row in await self.rows():
            if row.sidecar is None and row.visibility == "public" and row.status == "ready" and row.deleted_at is None:
                assert row.owner_user_id is not None
                self.holders.setdefault((row.wanted_key, row.owner_user_id == "operator"), row.owner_user_id)

    async def read(self, user: str | None, raw: str) -> ReadableAsset | None:
        return await lookup.find_readable(self.database, keys.readings(raw), user, operator=user == "operator")

    async def listed(self, user: str | None) -> list[dict[str, Any]]:
        wanted = ListRequest(AssetType.VRM, user, listing.parse_sort(None), limit=1000)
        page = await queries.list_page(self.database, wanted)
        items: list[dict[str, Any]] = msgspec.json.decode(b"[" + page.items + b"]")
        return [item for item in items if item["s3Key"].startswith(self.folder)]

    async def goes_to(self, user: str, key: str) -> tuple[Any, Any]:
        """The ids of the row that an upload under a key would write, and of the file that it belongs to; undone again."""
        found = None, None
        try:
            async with self.database.transaction() as session:
                attempt = await self.open(session, user, key)
                asset = await session.get(Asset, attempt.asset_id)
                assert asset is not None
                found = asset.id, asset.main_id
                raise _Undone
        except _Undone:
            return found

    async def check(self) -> None:
        rows = {str(row.id): row for row in await self.rows()}
        for user in (*USERS, None):
            for item in await self.listed(user):
                row = rows[item["id"]]
                assert item["url"] == READ + quote(item["s3Key"], safe="!*'()")
                read = await self.read(user, item["url"].removeprefix(READ))
                assert read is not None and str(read.id) == item["id"], f"{user}: {item['url']} reads another file"
                assert read.by_public_key == (row.owner_user_id != user)
                if "thumbnail" in item:
                    picture = await self.read(user, item["thumbnail"].removeprefix(READ))
                    assert picture is not None and rows[str(picture.id)].main_id == row.id
                if user is None:
                    continue
                stem = item["s3Key"].rpartition(".")[0]
                if row.owner_user_id != user:
                    with pytest.raises(Forbidden):
                        await self.goes_to(user, f"{stem}_thumb.png")
                    continue
                for key in (item["s3Key"], row.s3_key):
                    written, _ = await self.goes_to(user, key)
                    assert written == row.id, f"{user}: {key} writes another file"
                alone = sum(
                    one.stem == row.stem and one.sidecar is None for one in rows.values() if one.owner_user_id == user
                )
                for key in (row.s3_key.rpartition(".")[0], *([stem] if alone == 1 else ())):
                    for suffix in ("_thumb.png", "_meta.json"):
                        _, beside = await self.goes_to(user, key + suffix)
                        assert beside == row.id, f"{user}: {key} is beside another file"
        await self.check_plain_names(rows)

    async def check_plain_names(self, rows: dict[str, Asset]) -> None:
        for name in {name for name, _ in self.holders}:
            holder = self.holders.get((name, True)) or self.holders[name, False]
            read = await self.read("carol", quote(name, safe=""))
            assert read is None or rows[str(read.id)].owner_user_id == holder, f"{name} was given to another user"
            shown = [
                row
                for row in rows.values()
                if (row.wanted_key, row.owner_user_id, row.visibility, row.deleted_at) == (name, holder, "public", None)
            ]
            assert (read is not None) == bool(shown)


def caller_of(user: str) -> Caller:
    return Caller(user, "session", frozenset({"operator"}) if user == "operator" else frozenset())


ACTS = (
    Studio.upload,
    Studio.publish,
    Studio.thumb,
    Studio.hide,
    Studio.trash,
    Studio.restore,
    Studio.purge,
    Studio.twin,
)
STEPS = st.lists(st.tuples(st.sampled_from(ACTS), st.sampled_from(USERS), st.sampled_from(NAMES)), max_size=10)


@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
@example(
    steps=[
        (act, user, name)
        for user in USERS
        for name in ("b c", "b+c")
        for act in (Studio.upload, Studio.publish, Studio.thumb)
    ]
)
@example(
    steps=[
        (Studio.upload, "alice", "a"),
        (Studio.publish, "alice", "a"),
        (Studio.trash, "alice", "a"),
        (Studio.purge, "alice", "a"),
        (Studio.upload, "bob", "a"),
        (Studio.publish, "bob", "a"),
        (Studio.upload, "alice", "a"),
        (Studio.twin, "bob", "a"),
        (Studio.thumb, "bob", "a"),
    ]
)
async def test_a_listed_address_reads_the_listed_file_and_its_key_writes_it(library: Library, steps: list[Any]) -> None:
    studio = Studio(library)
    for act, user, name in steps:
        await act(studio, user, name)
    await studio.check()
