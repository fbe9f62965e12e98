"""Moving in: a bucket that was filled by somebody else, and what the index knows of it afterwards."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from butai.assets import keys, names
from butai.assets.imports.bucket_listing import BucketListing, ListingDenied
from butai.assets.imports.listing_formats import ListingFormat
from butai.assets.imports.listings import FileListing
from butai.assets.storage.client import Store
from butai.config import Settings
from butai.database import Database
from butai.embedded.seaweed import EmbeddedSeaweed
from tests import files
from tests.conftest import Api
from tests.fakes.store_proxy import StoreProxy
from tests.imports import ODD, Fill, aws_ls, counts, import_, odd_keys, quoted, scalar, snapshot, straight
from tests.unit.test_listings import write_report

# Every kind of listing


def _inventory(settings: Settings, folder: Path) -> Path:
    rows = [quoted("studio", quote_plus(key, safe="/"), "1") for key in odd_keys(settings)]
    return write_report(folder, ["\n".join(rows[:4]), "\n".join(rows[4:])], "Bucket, Key, Size")


def _inventory_csv(settings: Settings, folder: Path) -> Path:
    path = folder / "part.csv"
    path.write_text("\n".join(quoted("studio", quote(key, safe="/"), "1") for key in odd_keys(settings)))
    return path


def _rclone(settings: Settings, folder: Path) -> Path:
    path = folder / "ls.json"
    path.write_text(json.dumps([{"Path": key, "IsDir": False} for key in odd_keys(settings)]))
    return path


def _csv(settings: Settings, folder: Path) -> Path:
    path = folder / "list.csv"
    path.write_text("\n".join(["size,key", *(quoted("1", key) for key in odd_keys(settings))]))
    return path


@pytest.mark.parametrize("write", [_inventory, _inventory_csv, aws_ls, _rclone, _csv])
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
    assert {names.plain(item["s3Key"]) for item in listed} == set(found)
    assert all(names.is_public(item["s3Key"]) for item in listed)
    for item in listed:
        assert (await api.read(item["url"]))[0] == 200


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
    assert {names.plain(item["s3Key"]) for item in items} == {
        main.format(one) for one in ("together", "before", "after")
    }
    for item in items:
        assert item["name"] == "no"
        assert item["hasThumbnail"] is True, item
        assert item["gender"] == "female" and "cool" in item["tags"] and item["description"] == "A singer"
        assert (await api.read(item["thumbnail"]))[1] == files.png()
    # New words in a sidecar reach its asset.
    await fill({"vrm/after_meta.json": b'{"gender": "male"}'})
    tally, _ = await import_(settings, objects)
    assert counts(tally) == {"skipped unchanged": 8, "updated changed": 1}
    # Without a name in it, it is called by its key again.
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
