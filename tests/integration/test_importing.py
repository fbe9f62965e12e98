"""Moving in: a bucket that was filled by somebody else, and what the index knows of it afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import aiohttp
import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from yarl import URL

from butai.assets import keys
from butai.assets.imports.bucket_listing import BucketListing, ListingDenied
from butai.assets.imports.importer import BATCH, Importer
from butai.assets.imports.listing_formats import ListedObject, ListingFormat
from butai.assets.imports.listings import FileListing, Listing
from butai.assets.imports.outcomes import ImportOptions, ImportStopped, ImportVerdict, Outcome, Tally
from butai.assets.storage import sigv4
from butai.assets.storage.client import Store
from butai.config import Settings
from butai.database import Database
from butai.embedded.seaweed import EmbeddedSeaweed
from tests import files
from tests.conftest import Api
from tests.fakes.store_proxy import StoreProxy
from tests.forked import command
from tests.processes import environment, process
from tests.unit.test_listings import write_report

ODD = {
    "vrm/plain.vrm": files.vrm(1),
    "vrm/with space.vrm": files.vrm(2),
    "vrm/a+b.vrm": files.vrm(3),
    "vrm/100%.vrm": files.vrm(4),
    "vrm/a%20b.vrm": files.vrm(5),
    "vrm/舞台/アバター (1).vrm": files.vrm(6),
    "vrm/e\u0301 in two characters.vrm": files.vrm(7),
    "vrm/'quotes' & \"more\", <tags>.vrm": files.vrm(8),
    "AvatarSample_A.vrm": files.vrm(9),
    "models/b.glb": files.glb(),
    "animations/wave.bvh": files.BVH,
    "fbx/walk.fbx": files.FBX,
    "bgm/song #1?.mp3": files.MP3,
    "hdr/sky.hdr": files.HDR,
    "scene/room.png": files.png(),
}
"""Public keys, as they stand in the bucket behind the test's prefix, and their bytes."""

Fill = Callable[[dict[str, bytes]], Any]


async def _put(seaweed: EmbeddedSeaweed, prefix: str, objects: dict[str, bytes]) -> None:
    """Puts objects into the bucket as its administrator: nothing of the service is involved."""
    store, gate = seaweed.store, asyncio.Semaphore(32)
    async with aiohttp.ClientSession() as http:

        async def one(key: str, body: bytes) -> None:
            path = sigv4.encode_path(prefix + key)
            url = sigv4.presign("PUT", f"{store.endpoint}/{store.bucket}/{path}", store.admin, store.region, expires=60)
            async with gate, http.put(URL(url, encoded=True), data=body) as answer:
                assert answer.status == 200, await answer.text()

        await asyncio.gather(*(one(key, body) for key, body in objects.items()))


@pytest.fixture
def fill(seaweed: EmbeddedSeaweed, settings: Settings) -> Fill:
    """Puts objects behind the test's prefix."""
    return partial(_put, seaweed, settings.store.prefix)


@pytest.fixture(scope="module")
def stock(seaweed: EmbeddedSeaweed) -> str:
    """The prefix of the objects of `_many`, which tests share that leave them as they are."""
    prefix = f"{uuid.uuid4().hex}/"
    asyncio.run(_put(seaweed, prefix, _many()))
    return prefix


@pytest.fixture
def settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """As in all modules, but with the prefix of `stock` for a test that has it."""
    if "stock" not in request.fixturenames:
        return settings
    prefix = request.getfixturevalue("stock")
    return replace(settings, store=settings.store.model_copy(update={"prefix": prefix}))


class Names:
    """A listing in memory, with lines of the test's choice."""

    def __init__(self, settings: Settings, names: Iterable[str]) -> None:
        self._lines = [ListedObject(settings.store.prefix + name) for name in names]

    async def batches(self, size: int) -> AsyncIterator[list[ListedObject]]:
        for start in range(0, len(self._lines), size):
            yield self._lines[start : start + size]

    def progress(self) -> tuple[int, int | None]:
        return 0, None


async def import_(
    settings: Settings, listing: Listing | Iterable[str], **chosen: Any
) -> tuple[Tally, list[ImportVerdict]]:
    """One run; every verdict in order."""
    chosen = {"visibility": "public", "strip_prefix": settings.store.prefix} | chosen
    verdicts: list[ImportVerdict] = []
    source = listing if not isinstance(listing, Iterable) or isinstance(listing, FileListing) else None
    async with Database(settings.database) as database, Store(settings.store) as store:
        importer = Importer(database, store, ImportOptions(**chosen), verdicts.append)
        if source is None:
            source = Names(settings, listing)  # pyright: ignore[reportArgumentType]
        tally = await importer.run(source.batches(BATCH), lambda _tally: None)
    assert tally.scanned == len(verdicts) == sum(tally.counts.values())
    return tally, verdicts


def counts(tally: Tally) -> dict[str, int]:
    """`added`, and `outcome reason` for the rest."""
    return {f"{outcome} {reason}".strip(): count for (outcome, reason), count in tally.counts.items()}


async def snapshot(database: Database) -> list[tuple[Any, ...]]:
    """The whole index, without what differs from run to run."""
    async with database.transaction() as session:
        rows = await session.execute(
            text(
                """SELECT a.s3_key, a.wanted_key, a.type, a.sidecar, a.status, a.visibility, a.owner_user_id, a.size_bytes,
                          a.etag, a.mime_type, a.thumbnail_key, a.meta::text, a.tags, a.object_key, o.origin, o.state,
                          o.asset_id = a.id
                   FROM assets a LEFT JOIN asset_objects o ON o.object_key = a.object_key ORDER BY a.s3_key"""
            )
        )
        return [tuple(row) for row in rows]


async def scalar(database: Database, statement: str) -> Any:
    async with database.transaction() as session:
        return await session.scalar(text(statement))


# Every kind of listing


def _lines(settings: Settings) -> list[str]:
    return [settings.store.prefix + key for key in ODD]


def _quoted(*values: str) -> str:
    return ",".join('"' + value.replace('"', '""') + '"' for value in values)


def _inventory(settings: Settings, folder: Path) -> Path:
    rows = [_quoted("studio", quote_plus(key, safe="/"), "1") for key in _lines(settings)]
    return write_report(folder, ["\n".join(rows[:4]), "\n".join(rows[4:])], "Bucket, Key, Size")


def _inventory_csv(settings: Settings, folder: Path) -> Path:
    path = folder / "part.csv"
    path.write_text("\n".join(_quoted("studio", quote(key, safe="/"), "1") for key in _lines(settings)))
    return path


def _aws_ls(settings: Settings, folder: Path) -> Path:
    path = folder / "ls.txt"
    path.write_text("".join(f"2024-05-01 12:00:00 {1:>10} {key}\n" for key in _lines(settings)))
    return path


def _rclone(settings: Settings, folder: Path) -> Path:
    path = folder / "ls.json"
    path.write_text(json.dumps([{"Path": key, "IsDir": False} for key in _lines(settings)]))
    return path


def _csv(settings: Settings, folder: Path) -> Path:
    path = folder / "list.csv"
    path.write_text("\n".join(["size,key", *(_quoted("1", key) for key in _lines(settings))]))
    return path


@pytest.mark.parametrize("write", [_inventory, _inventory_csv, _aws_ls, _rclone, _csv])
async def test_every_kind_of_listing_ends_in_the_same_library(
    api: Api,
    database: Database,
    settings: Settings,
    fill: Fill,
    tmp_path: Path,
    write: Callable[[Settings, Path], Path],
) -> None:
    await fill(ODD)
    tally, _ = await import_(settings, FileListing(write(settings, tmp_path)))
    assert counts(tally) == {"added": len(ODD)}
    found = {row[0]: row for row in await snapshot(database)}
    # é in two characters is the same name in one; the object keeps its own.
    assert set(found) == {unicodedata.normalize("NFC", key) for key in ODD}
    for key, body in ODD.items():
        public = unicodedata.normalize("NFC", key)
        row = found[public]
        assert (row[4], row[7], row[13]) == ("ready", len(body), settings.store.prefix + key)
        assert row[14:] == ("import", "current", True)
        status, read, _ = await api.read(keys.read_url(public))
        assert (status, read) == (200, body), public
        assert (await api.read(keys.read_url(key)))[1] == body
    listed = [item for kind in ("vrm", "animation", "bgm", "hdr", "scene") for item in await api.items("anyone", kind)]
    assert {item["s3Key"] for item in listed} == set(found)
    for item in listed:
        assert (await api.read(item["url"]))[0] == 200


def straight(settings: Settings, seaweed: EmbeddedSeaweed, credentials: sigv4.Credentials) -> Settings:
    """The same service, not behind the proxy, which fails the suite for every List request."""
    mine = settings.store.model_copy(
        update={
            "endpoint": seaweed.store.endpoint,
            "access_key_id": SecretStr(credentials.access_key_id),
            "secret_access_key": SecretStr(credentials.secret_access_key),
        }
    )
    return replace(settings, store=mine)


@pytest.mark.slow
async def test_the_bucket_itself_is_asked_where_that_is_allowed(
    database: Database, settings: Settings, seaweed: EmbeddedSeaweed, fill: Fill
) -> None:
    many = {f"vrm/many {number:04}.vrm": b"x" for number in range(1100)}
    await fill(ODD | many)
    admin = straight(settings, seaweed, seaweed.store.admin)
    async with Store(admin.store) as store:
        tally, _ = await import_(admin, BucketListing(store, admin.store.prefix))
    assert counts(tally) == {"added": len(ODD) + 1100}
    assert await scalar(database, "SELECT count(*) FROM assets WHERE created_at < now()") == len(ODD) + 1100


async def test_an_identity_that_may_not_list_is_told_what_to_do_instead(
    settings: Settings, seaweed: EmbeddedSeaweed
) -> None:
    own = straight(settings, seaweed, seaweed.store.credentials)
    async with Store(own.store) as store:
        with pytest.raises(ListingDenied, match="provide a listing instead") as caught:
            await import_(own, BucketListing(store, own.store.prefix))
    assert "\n" not in str(caught.value)


# Runs, and runs again


def _many(count: int = 1200) -> dict[str, bytes]:
    """`count` objects: odd names among plain ones, sidecars, and what does not belong into a library."""
    made = dict(ODD)
    made["vrm/plain_thumb.png"] = files.png()
    made["vrm/plain_meta.json"] = b'{"gender": "female", "styleTags": ["cool", "dark"]}'
    made["backup/dump.sql"] = b"x"
    made["vrm/notes.txt"] = b"x"
    made["vrm/empty.vrm"] = b""
    for number in range(count - len(made)):
        name = ("avatar {} 舞", "avatar+{}", "avatar%{}", "avatar {:05}")[number % 4].format(number)
        made[f"vrm/{number % 7}/{name}.vrm"] = b"glTF" + number.to_bytes(4, "big")
    return made


@pytest.mark.slow
async def test_1200_objects_are_imported_and_a_second_run_changes_nothing(
    api: Api, database: Database, settings: Settings, fill: Fill, stock: str
) -> None:
    objects = _many()
    names = [*objects, "vrm/not there.vrm", "vrm/"]
    began = time.monotonic()
    tally, verdicts = await import_(settings, names)
    print(f"{len(names) / (time.monotonic() - began):.0f} objects/s")
    rest = {"skipped key_invalid": 1, "skipped type_unsupported": 1, "skipped empty": 1, "failed absent": 1}
    # `vrm/` is no key; a real listing's reader would have said `folder`.
    assert counts(tally) == {"added": 1197} | rest | {"skipped key_invalid": 2}
    assert [verdict.entry.key for verdict in verdicts if verdict.reason == "absent"] == [
        settings.store.prefix + "vrm/not there.vrm"
    ]
    first = await snapshot(database)
    assert len(first) == 1197
    events = await scalar(database, "SELECT count(*) FROM asset_events")

    tally, _ = await import_(settings, names)
    assert counts(tally) == {"skipped unchanged": 1197} | rest | {"skipped key_invalid": 2}
    assert await snapshot(database) == first
    assert await scalar(database, "SELECT count(*) FROM asset_events") == events
    assert await scalar(database, "SELECT count(*) FROM assets WHERE sha256 IS NOT NULL") == 0

    await fill({"vrm/plain.vrm": files.vrm(77, 5000)})
    try:
        tally, _ = await import_(settings, names)
        assert (await api.read(keys.read_url("vrm/plain.vrm")))[1] == files.vrm(77, 5000)
    finally:
        await fill({"vrm/plain.vrm": objects["vrm/plain.vrm"]})
    assert counts(tally) == {"skipped unchanged": 1196, "updated changed": 1} | rest | {"skipped key_invalid": 2}
    assert await scalar(database, "SELECT count(*) FROM audit WHERE action = 'asset.import'") == 7


@pytest.mark.slow
async def test_a_run_that_is_killed_goes_on_where_it_was(
    database: Database, settings: Settings, stock: str, tmp_path: Path, as_owner: Callable[[str], None]
) -> None:
    objects = _many(600)
    path = tmp_path / "list.csv"
    path.write_text("key\n" + "\n".join(_quoted(settings.store.prefix + name) for name in objects))
    said = tmp_path / "said.txt"
    with process(settings, said, "import", "--listing", str(path), "--rate", "60") as child:
        async with asyncio.timeout(60):
            while not await scalar(database, "SELECT count(*) FROM assets") > 0:
                assert child.poll() is None, said.read_text()
                await asyncio.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
    before = len(await snapshot(database))
    assert 0 < before < 597
    assert before % BATCH == await scalar(database, "SELECT count(*) FROM asset_objects") % BATCH

    tally, _ = await import_(settings, objects)
    assert counts(tally)["skipped unchanged"] == before
    killed = await snapshot(database)
    as_owner("TRUNCATE assets, asset_objects, asset_events CASCADE")
    await import_(settings, objects)
    assert killed == await snapshot(database)
    (row,) = [row for row in killed if row[0] == "vrm/plain.vrm"]
    assert row[10] == "vrm/plain_thumb.png" and json.loads(row[11])["gender"] == "female"


@pytest.mark.slow
async def test_two_runs_at_once_make_one_library(database: Database, settings: Settings, stock: str) -> None:
    objects = _many(500)
    (one, _), (two, _) = await asyncio.gather(
        import_(settings, objects), import_(settings, list(reversed(list(objects))))
    )
    assert one.of(Outcome.ADDED) + two.of(Outcome.ADDED) == 497
    assert one.of(Outcome.FAILED) == two.of(Outcome.FAILED) == 0
    assert await scalar(database, "SELECT count(*) FROM assets") == 497
    (row,) = [row for row in await snapshot(database) if row[0] == "vrm/plain.vrm"]
    assert row[10] == "vrm/plain_thumb.png"


async def test_a_listing_that_names_a_thing_twice_is_no_trouble(
    database: Database, settings: Settings, fill: Fill
) -> None:
    # One name, spelled in two ways: two objects, one public key.
    objects = {"vrm/\u00e9.vrm": files.vrm(1), "vrm/e\u0301.vrm": files.vrm(2), "vrm/a.vrm": files.vrm(3)}
    await fill(objects)
    tally, _ = await import_(settings, [*objects, "vrm/a.vrm"])
    assert counts(tally) == {"added": 2, "skipped key_taken": 1, "skipped duplicate": 1}
    tally, _ = await import_(settings, [*objects, "vrm/a.vrm"])
    assert counts(tally) == {"skipped unchanged": 3, "skipped key_taken": 1}
    # The first of them is gone: the other one has the name.
    tally, _ = await import_(settings, ["vrm/\u00f6.vrm", "vrm/o\u0308.vrm"])
    assert counts(tally) == {"failed absent": 2}
    await fill({"vrm/o\u0308.vrm": files.vrm(4)})
    tally, _ = await import_(settings, ["vrm/\u00f6.vrm", "vrm/o\u0308.vrm"])
    assert counts(tally) == {"failed absent": 1, "added": 1}


# Sidecars


async def test_sidecars_are_taken_over_whichever_comes_first(
    api: Api, database: Database, settings: Settings, fill: Fill
) -> None:
    meta = json.dumps({"gender": "female", "styleTags": ["cool"], "description": "A singer", "name": "no"}).encode()
    objects: dict[str, bytes] = {}
    for name in ("together", "before", "after"):
        objects[f"vrm/{name}.vrm"] = files.vrm(1)
        objects[f"vrm/{name}_thumb.png"] = files.png()
        objects[f"vrm/{name}_meta.json"] = meta
    await fill(objects)
    main, beside = "vrm/{}.vrm", ("vrm/{}_thumb.png", "vrm/{}_meta.json")
    await import_(settings, [each.format("together") for each in (main, *beside)])
    await import_(settings, [main.format("before")])
    await import_(settings, [each.format("before") for each in beside])
    await import_(settings, [each.format("after") for each in beside])
    await import_(settings, [main.format("after")])
    items = await api.items("anyone")
    assert {item["name"] for item in items} == {"together", "before", "after"}
    for item in items:
        assert item["hasThumbnail"] is True, item
        assert item["gender"] == "female" and "cool" in item["tags"] and item["description"] == "A singer"
        assert (await api.read(item["thumbnail"]))[1] == files.png()
    # New words in a sidecar reach its asset.
    await fill({"vrm/after_meta.json": b'{"gender": "male"}'})
    tally, _ = await import_(settings, objects)
    assert counts(tally) == {"skipped unchanged": 8, "updated changed": 1}
    (after,) = [item for item in await api.items("anyone") if item["name"] == "after"]
    assert after["gender"] == "male" and "cool" not in after["tags"]


async def test_a_sidecar_that_cannot_be_read_fails_alone(settings: Settings, fill: Fill) -> None:
    objects = {
        "vrm/a.vrm": files.vrm(1),
        "vrm/a_meta.json": b"{nonsense",
        "vrm/b_meta.json": b"[1]",
        "vrm/c_meta.json": b'{"a": "' + b"x" * 1024**2 + b'"}',
    }
    await fill(objects)
    tally, _ = await import_(settings, objects)
    assert counts(tally) == {"added": 1, "failed signature_mismatch": 2, "failed file_too_large": 1}


# What belongs to somebody


async def test_what_was_uploaded_through_the_api_is_never_touched(
    api: Api, database: Database, settings: Settings, fill: Fill, store_keys: Callable[[], list[str]]
) -> None:
    await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    await api.upload("alice", "vrm/broken.vrm", b"nonsense" * 20)
    before = await snapshot(database)
    await fill({"vrm/a.vrm": files.vrm(2), "vrm/broken.vrm": files.vrm(3)})
    uploaded = [key.removeprefix(settings.store.prefix) for key in store_keys() if "/butai/" in key]
    assert uploaded
    tally, _ = await import_(settings, ["vrm/a.vrm", "vrm/broken.vrm", *uploaded])
    assert counts(tally) == {"skipped key_taken": 2, "skipped own_object": len(uploaded)}
    tally, _ = await import_(settings, ["vrm/a.vrm", "vrm/broken.vrm"], owner="alice")
    assert counts(tally) == {"skipped key_taken": 2}
    assert await snapshot(database) == before


async def test_an_owner_gets_their_files_under_their_own_name(
    api: Api, database: Database, settings: Settings, fill: Fill
) -> None:
    await fill({"vrm/a.vrm": files.vrm(1), "vrm/a_thumb.png": files.png()})
    await import_(settings, ["vrm/a.vrm", "vrm/a_thumb.png"], owner="alice", visibility="private")
    (item,) = await api.items("alice")
    assert item["hasThumbnail"] is True
    assert await api.items("bob") == []
    assert (await api.read(item["url"], "alice"))[1] == files.vrm(1)
    assert (await api.read(item["url"], "bob"))[0] == 404
    assert (await api.read(item["thumbnail"], "bob"))[0] == 404
    status, _ = await api.call("PATCH", f"/api/assets/{item['id']}", "alice", json={"visibility": "public"})
    assert status == 200
    # A later run leaves what the owner decided.
    tally, _ = await import_(settings, ["vrm/a.vrm"], owner="alice", visibility="private")
    assert counts(tally) == {"skipped unchanged": 1}
    assert len(await api.items("bob")) == 1


async def test_what_is_in_the_trash_stays_there(api: Api, settings: Settings, fill: Fill) -> None:
    await fill({"vrm/a.vrm": files.vrm(1)})
    await import_(settings, ["vrm/a.vrm"], owner="alice")
    (item,) = await api.items("alice")
    assert (await api.call("DELETE", f"/api/assets/{item['id']}", "alice"))[0] in (200, 202, 204)
    tally, _ = await import_(settings, ["vrm/a.vrm"], owner="alice")
    assert counts(tally) == {"skipped trashed": 1}
    assert await api.items("alice") == []


async def test_a_purged_asset_takes_its_object_along_and_may_come_again(
    api: Api,
    database: Database,
    settings: Settings,
    fill: Fill,
    run_jobs: Callable[..., Any],
    store_keys: Callable[[], list[str]],
) -> None:
    await fill({"vrm/a.vrm": files.vrm(1), "vrm/b.vrm": files.vrm(2)})
    await import_(settings, ["vrm/a.vrm", "vrm/b.vrm"], owner="alice")
    (item,) = [item for item in await api.items("alice") if item["name"] == "a"]
    await api.call("DELETE", f"/api/assets/{item['id']}", "alice")
    async with database.transaction() as session:
        await session.execute(
            text("UPDATE assets SET deleted_at = now() - interval '1 year' WHERE deleted_at IS NOT NULL")
        )
    await run_jobs("assets.purge_trash")
    # Its row is gone, its object waits for those who are reading it: nothing may point at it again.
    tally, _ = await import_(settings, ["vrm/a.vrm"], owner="alice")
    assert counts(tally) == {"skipped being_removed": 1}
    async with database.transaction() as session:
        await session.execute(text("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE status = 'todo'"))
    await run_jobs()
    assert store_keys() == [settings.store.prefix + "vrm/b.vrm"]
    tally, _ = await import_(settings, ["vrm/a.vrm", "vrm/b.vrm"], owner="alice")
    assert counts(tally) == {"skipped removed": 1, "skipped unchanged": 1}
    await fill({"vrm/a.vrm": files.vrm(3)})
    tally, _ = await import_(settings, ["vrm/a.vrm"], owner="alice")
    assert counts(tally) == {"added": 1}
    assert (await api.read(keys.read_url("vrm/a.vrm"), "alice"))[1] == files.vrm(3)


async def test_a_replaced_object_is_not_taken_back_from_an_old_listing(
    api: Api, settings: Settings, fill: Fill
) -> None:
    await fill({"vrm/a.vrm": files.vrm(1)})
    await import_(settings, ["vrm/a.vrm"], owner="alice")
    assert (await api.upload("alice", "vrm/a.vrm", files.vrm(2)))[0] == 200
    tally, _ = await import_(settings, ["vrm/a.vrm"], owner="alice")
    assert counts(tally) == {"skipped being_removed": 1}
    assert (await api.read(keys.read_url("vrm/a.vrm"), "alice"))[1] == files.vrm(2)


async def test_an_object_serves_one_asset_only(settings: Settings, fill: Fill) -> None:
    await fill({"vrm/vrm/a.vrm": files.vrm(1)})
    await import_(settings, ["vrm/vrm/a.vrm"])
    tally, _ = await import_(settings, ["vrm/vrm/a.vrm"], strip_prefix=settings.store.prefix + "vrm/")
    assert counts(tally) == {"skipped already_in_use": 1}


async def test_a_missing_asset_that_is_there_again_is_ready(
    api: Api, database: Database, settings: Settings, fill: Fill
) -> None:
    await fill({"vrm/a.vrm": files.vrm(1)})
    await import_(settings, ["vrm/a.vrm"])
    async with database.transaction() as session:
        await session.execute(text("UPDATE assets SET status = 'missing', missing_since = now()"))
    tally, _ = await import_(settings, ["vrm/a.vrm"])
    assert counts(tally) == {"updated recovered": 1}
    assert len(await api.items("anyone")) == 1


# Options


async def test_content_is_looked_at_only_when_asked(settings: Settings, fill: Fill, proxy: StoreProxy) -> None:
    objects = {"vrm/a.vrm": files.vrm(1, 100_000), "vrm/b.vrm": b"no avatar at all" * 10, "vrm/c.vrm": files.glb()[:-4]}
    await fill(objects)
    proxy.seen.clear()
    tally, _ = await import_(settings, objects, dry_run=True)
    assert counts(tally) == {"added": 3}
    assert {seen.method for seen in proxy.seen} == {"HEAD"}
    tally, _ = await import_(settings, objects, check_content=True)
    assert counts(tally) == {"added": 1, "failed signature_mismatch": 1, "failed glb_invalid": 1}
    assert {(seen.method, seen.status) for seen in proxy.seen} == {("HEAD", 200), ("GET", 206)}


async def test_a_dry_run_writes_nothing(database: Database, settings: Settings, fill: Fill) -> None:
    await fill(ODD)
    tally, _ = await import_(settings, [*ODD, "vrm/none.vrm"], dry_run=True)
    assert counts(tally) == {"added": len(ODD), "failed absent": 1}
    for table in ("assets", "asset_objects", "asset_events", "audit"):
        assert await scalar(database, f"SELECT count(*) FROM {table}") == 0
    await import_(settings, ODD)
    await fill({"vrm/plain.vrm": files.vrm(99)})
    before = await snapshot(database)
    tally, _ = await import_(settings, ODD, dry_run=True)
    assert counts(tally) == {"skipped unchanged": len(ODD) - 1, "updated changed": 1}
    assert await snapshot(database) == before


async def test_prefixes_are_put_on_and_taken_off(database: Database, settings: Settings, fill: Fill) -> None:
    await fill({"old/studio/vrm/a.vrm": files.vrm(1), "old/other/vrm/b.vrm": files.vrm(2)})
    strip = settings.store.prefix + "old/studio/"
    tally, _ = await import_(settings, ["old/studio/vrm/a.vrm", "old/other/vrm/b.vrm"], strip_prefix=strip)
    assert counts(tally) == {"added": 1, "skipped outside_prefix": 1}
    short = replace(settings, store=settings.store.model_copy(update={"prefix": ""}))
    tally, _ = await import_(short, ["studio/vrm/a.vrm"], strip_prefix=strip, add_prefix=settings.store.prefix + "old/")
    assert counts(tally) == {"skipped unchanged": 1}
    assert [row[0] for row in await snapshot(database)] == ["vrm/a.vrm"]


async def test_a_rate_is_kept(settings: Settings, proxy: StoreProxy) -> None:
    began = time.monotonic()
    tally, _ = await import_(settings, [f"vrm/{number}.vrm" for number in range(60)], rate=50)
    assert counts(tally) == {"failed absent": 60}
    assert time.monotonic() - began >= 59 / 50


async def test_a_library_that_moves_in_keeps_its_order(
    api: Api, settings: Settings, fill: Fill, tmp_path: Path
) -> None:
    objects = {f"vrm/{name}.vrm": files.vrm(1) for name in "abc"}
    await fill(objects)
    path = tmp_path / "list.csv"
    prefix = settings.store.prefix
    path.write_text(
        f"key,last_modified\n{prefix}vrm/a.vrm,2021-05-01T00:00:00Z\n{prefix}vrm/b.vrm,2023-05-01T00:00:00Z\n"
        f"{prefix}vrm/c.vrm,2022-05-01T00:00:00Z\n"
    )
    await import_(settings, FileListing(path, ListingFormat.CSV))
    items = await api.items("anyone")
    assert [item["name"] for item in items] == ["b", "c", "a"]
    assert items[2]["createdAt"].startswith("2021-05-01")


# Trouble


async def test_a_store_that_hides_absence_is_not_believed_to_have_lost_anything(
    settings: Settings, fill: Fill, proxy: StoreProxy, store_keys: Callable[[], list[str]]
) -> None:
    await fill(ODD)
    proxy.hide_absence = True
    # More absent ones at the beginning than a run takes for a refusal: our own object tells that all is well.
    names = [*(f"vrm/gone {number}.vrm" for number in range(400)), *ODD]
    tally, _ = await import_(settings, names)
    assert counts(tally) == {"failed denied_or_absent": 400, "added": len(ODD)}
    assert store_keys() and not any("/butai/import/" in key for key in store_keys())


async def test_credentials_that_are_refused_end_the_run_early(
    settings: Settings, seaweed: EmbeddedSeaweed, proxy: StoreProxy
) -> None:
    wrong = settings.store.model_copy(update={"secret_access_key": SecretStr("canary-wrong-secret")})
    proxy.seen.clear()
    with pytest.raises(ImportStopped, match="butai doctor"):
        await import_(replace(settings, store=wrong), [f"vrm/{number}.vrm" for number in range(5000)])
    assert Counter(seen.status for seen in proxy.seen)[403] >= 100
    assert len(proxy.seen) < 500


@pytest.mark.slow
async def test_a_store_that_stays_away_ends_the_run_and_a_later_one_completes_it(
    database: Database, settings: Settings, stock: str, proxy: StoreProxy
) -> None:
    objects = _many(600)
    await import_(settings, list(objects)[:20])
    fault = proxy.fault("HEAD", status=503)
    with pytest.raises(ImportStopped, match="run this again"):
        await import_(settings, objects)
    assert fault.met >= 100
    proxy.heal()
    await import_(settings, objects)
    assert await scalar(database, "SELECT count(*) FROM assets") == 597


async def test_a_throttled_object_is_tried_again(settings: Settings, fill: Fill, proxy: StoreProxy) -> None:
    await fill(ODD)
    fault = proxy.fault("HEAD", status=503, times=10)
    tally, _ = await import_(settings, ODD)
    assert fault.met == 10
    assert counts(tally) == {"added": len(ODD)}


@pytest.mark.slow
async def test_a_database_that_drops_its_connections_is_waited_for(
    database_url: str, database: Database, settings: Settings, stock: str
) -> None:
    objects = _many(800)
    run = asyncio.create_task(import_(settings, objects, rate=800))
    while not await scalar(database, "SELECT count(*) FROM assets"):
        await asyncio.sleep(0.02)
    with psycopg.connect(database_url, autocommit=True) as connection:
        killed = connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert killed is not None and killed[0] > 0
    tally, _ = await run
    assert tally.of(Outcome.ADDED) == 797


# The command


@pytest.mark.slow
async def test_the_command_prints_a_table_and_writes_a_report(
    settings: Settings, fill: Fill, tmp_path: Path, database: Database
) -> None:
    await fill(ODD)
    listing = _aws_ls(settings, tmp_path)
    with listing.open("a") as file:
        file.write(f"2024-05-01 12:00:00          1 {settings.store.prefix}vrm/none.vrm\n\nTotal Objects: 16\n")
        file.write(f"2024-05-01 12:00:00          1 {settings.store.prefix}secret/none.vrm\n")
    report = tmp_path / "report.jsonl"
    done = await command("import", "--listing", str(listing), "--report", str(report), env=environment(settings))
    assert done.returncode == 1, done.stderr
    told = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    expected = {"scanned": "17", "added": "15", "updated": "0", "skipped": "1", "failed": "1"}
    assert told | expected | {"absent": "1", "key_invalid": "1"} == told
    assert "The store does not have it" in done.stdout
    assert "public" in done.stdout
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert {(line["key"].removeprefix(settings.store.prefix), line["outcome"], line["reason"]) for line in lines} == {
        ("vrm/none.vrm", "failed", "absent"),
        ("secret/none.vrm", "skipped", "key_invalid"),
    }
    assert "import.completed" in done.stderr and "Traceback" not in done.stderr
    again = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "butai.cli", "import", "--listing", "-"],
        env=environment(settings),
        input=_aws_ls(settings, tmp_path).read_text(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert again.returncode == 0, again.stderr
    assert "unchanged" in again.stdout
    assert await scalar(database, "SELECT count(*) FROM assets WHERE visibility = 'public'") == 15


@pytest.mark.slow
async def test_the_command_says_in_one_line_why_it_cannot_begin(
    settings: Settings, seaweed: EmbeddedSeaweed, tmp_path: Path
) -> None:
    async def refused(expected: str, *arguments: str, settings: Settings = settings, **env: str) -> None:
        done = await command("import", *arguments, env=environment(settings, **env))
        assert done.returncode == 1, done.stdout
        said = [line for line in done.stderr.splitlines() if line.startswith("butai: ")]
        assert len(said) == 1 and expected in said[0], done.stderr
        assert "Traceback" not in done.stderr
        for secret in ("canary", settings.store.secret_access_key.get_secret_value()):
            assert secret not in done.stdout + done.stderr

    listing = tmp_path / "list.csv"
    listing.write_text("key\nvrm/a.vrm\n")
    own = straight(settings, seaweed, seaweed.store.credentials)
    away = "postgresql://u:canary@127.0.0.1:9/x"
    await asyncio.gather(
        refused("--listing FILE, or --list"),
        refused("--listing FILE, or --list", "--list", "--listing", str(listing)),
        refused("No such file", "--listing", str(tmp_path / "none")),
        refused("cannot be written", "--listing", str(listing), "--report", str(tmp_path / "no" / "report")),
        refused("user's id", "--listing", str(listing), "--owner", ""),
        refused("butai migrate", "--listing", str(listing), BUTAI_DATABASE_URL=away),
        refused("provide a listing instead", "--list", settings=own),
    )


@pytest.mark.slow
async def test_the_command_lists_for_an_administrator(
    settings: Settings, seaweed: EmbeddedSeaweed, fill: Fill, database: Database
) -> None:
    await fill(ODD)
    admin = straight(settings, seaweed, seaweed.store.admin)
    done = await command("import", "--list", "--visibility", "private", env=environment(admin))
    assert done.returncode == 0, done.stderr
    assert await scalar(database, "SELECT count(*) FROM assets WHERE visibility = 'private'") == len(ODD)


@pytest.mark.slow
async def test_ctrl_c_shows_how_far_it_came(settings: Settings, stock: str, database: Database, tmp_path: Path) -> None:
    objects = _many(900)
    path = tmp_path / "list.csv"
    path.write_text("key\n" + "\n".join(_quoted(settings.store.prefix + name) for name in objects))
    argv = [sys.executable, "-m", "butai.cli", "import", "--listing", str(path), "--rate", "300"]
    child = subprocess.Popen(argv, env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    async with asyncio.timeout(60):
        while not await scalar(database, "SELECT count(*) FROM assets"):
            assert child.poll() is None
            await asyncio.sleep(0.02)
    os.kill(child.pid, signal.SIGINT)
    out, err = await asyncio.to_thread(child.communicate, timeout=20)
    assert child.returncode == 130, err
    assert "interrupted" in err and "Traceback" not in err
    assert "scanned" in out
