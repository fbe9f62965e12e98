"""Files of before migration 0031: addresses that meant one file still do, and what shared a sidecar shares none any more."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from butai import database as database_module
from butai.assets import keys, listing, names, queries
from butai.assets.kinds import AssetType
from butai.assets.queries import ListRequest
from butai.assets.reading import lookup
from butai.config import DatabaseSettings
from butai.database import Database
from tests.databases import Databases
from tests.integration.test_migration_killed import empty_url

__all__ = ["empty_url"]

LONG = "vrm/" + "舞" * 251 + ".vrm"
META = {
    "gender": "female",
    "identity": "singer",
    "suggestedVoice": "soft",
    "name": "Aoi of the box",
    "description": "Hers",
}


def add(connection: psycopg.Connection[Any], key: str, owner: str | None, **more: Any) -> None:
    parsed = keys.parse(key)
    row: dict[str, Any] = {
        "id": uuid.uuid4(),
        "type": parsed.kind.value,
        "sidecar": parsed.sidecar.value if parsed.sidecar else None,
        "s3_key": key,
        "wanted_key": key,
        "stem": parsed.stem,
        "display_name": parsed.name,
        "mime_type": parsed.format.mime,
        "size_bytes": 10,
        "status": "ready",
        "owner_user_id": owner,
        "visibility": "private",
        "object_key": uuid.uuid4().hex,
        "change_seq": 1,
        **more,
    }
    row["ever_public"] = row["visibility"] == "public"
    columns = ", ".join(row)
    values = ", ".join(f"%({name})s" for name in row)
    connection.execute(f"INSERT INTO assets ({columns}) VALUES ({values})".encode(), row)


@pytest.fixture
async def database(databases: Databases, empty_url: str) -> Any:
    owners = databases.owners(empty_url)
    database_module.migrate(owners, "0030", service_url=empty_url)
    with psycopg.connect(owners) as connection:
        add(connection, "vrm/same.vrm", "alice", visibility="public")
        add(connection, "vrm/same.vrm", "bob", visibility="public", s3_key="vrm/same~k3v9q2ma.vrm")
        add(connection, "vrm/same_thumb.png", "bob", s3_key="vrm/same~zzzzzzzz_thumb.png")
        # As a front end named it after the list: a second row, beside no file.
        add(connection, "vrm/same~k3v9q2ma_meta.json", "bob", meta=Jsonb({}))
        # And another user's, under the very name that the owner's picture is given.
        add(connection, "vrm/same.vrm", "dora", s3_key="vrm/same~dddddddd.vrm")
        add(connection, "vrm/same~k3v9q2ma_thumb.png", "dora", s3_key="vrm/same~k3v9q2ma_thumb.png")
        add(connection, "AvatarSample_A.vrm", None, visibility="public")
        add(connection, "AvatarSample_A_thumb.png", None)
        add(connection, LONG, "alice")
        # Two files with one picture and one description, of which one is private.
        about: dict[str, Any] = {
            "meta": Jsonb(META),
            "tags": ["mine", "female", "singer", "soft"],
            "description": "Hers",
            "thumbnail_key": "vrm/Aoi_thumb.png",
        }
        add(connection, "vrm/Aoi.glb", "alice", visibility="public", **about)
        add(connection, "vrm/Aoi.vrm", "alice", **about)
        add(connection, "vrm/Aoi_thumb.png", "alice")
        add(connection, "vrm/Aoi_meta.json", "alice", meta=Jsonb(META))
        # A wanted key that has the form of a public one.
        add(connection, "vrm/odd~abcdefgh.vrm", "alice", visibility="public")
        add(connection, "vrm/odd.vrm", "alice")
        add(connection, "vrm/odd~abcdefgh_thumb.png", "alice")
    database_module.migrate(owners, service_url=empty_url)
    async with Database(DatabaseSettings(url=SecretStr(empty_url))) as opened:
        yield opened


async def reads(database: Database, key: str, user: str | None) -> tuple[str | None, str] | None:
    found = await lookup.find_readable(database, keys.readings(keys.encoded(key)), user)
    return None if found is None else (found.owner_user_id, found.wanted_key)


async def listed(database: Database, user: str) -> dict[str, dict[str, Any]]:
    page = await queries.list_page(database, ListRequest(AssetType.VRM, user, listing.parse_sort(None), limit=100))
    items: list[dict[str, Any]] = msgspec.json.decode(b"[" + page.items + b"]")
    return {item["s3Key"]: item for item in items}


async def test_addresses_lead_where_they_led_and_sidecars_belong_to_one_file(database: Database) -> None:
    assert await reads(database, "vrm/same.vrm", "carol") == ("alice", "vrm/same.vrm")
    assert await reads(database, "vrm/same.vrm", "bob") == ("bob", "vrm/same.vrm")
    assert await reads(database, "vrm/same~k3v9q2ma.vrm", None) == ("bob", "vrm/same.vrm")
    assert await reads(database, "vrm/same~k3v9q2ma_thumb.png", "alice") == ("bob", "vrm/same_thumb.png")
    assert await reads(database, "vrm/same_meta.json", "bob") == ("bob", "vrm/same_meta.json")
    assert await reads(database, "AvatarSample_A.vrm", None) == (None, "AvatarSample_A.vrm")
    assert await reads(database, "AvatarSample_A_thumb.png", None) == (None, "AvatarSample_A_thumb.png")
    assert await reads(database, LONG, "alice") == ("alice", LONG)
    assert await reads(database, LONG, "bob") is None
    assert await reads(database, "vrm/odd~abcdefgh.vrm", "carol") == ("alice", "vrm/odd (2).vrm")
    assert await reads(database, "vrm/odd.vrm", "alice") == ("alice", "vrm/odd.vrm")

    hers, his = await listed(database, "alice"), await listed(database, "bob")
    assert {"vrm/Aoi.vrm", "vrm/Aoi.glb", "vrm/odd (2).vrm", LONG} <= set(hers)
    for user, items in (("alice", hers), ("bob", his)):
        for key, item in items.items():
            found = await lookup.find_readable(database, keys.readings(item["url"].partition("=")[2]), user)
            assert found is not None and str(found.id) == item["id"], key
            assert item["url"] == keys.read_url(key)
            assert names.is_public(key) == (found.owner_user_id != user)
    # Nothing of the private one is beside the public one.
    private, public = hers["vrm/Aoi.vrm"], hers["vrm/Aoi.glb"]
    assert private["thumbnail"] == keys.read_url("vrm/Aoi_thumb.png") and private["gender"] == "female"
    assert set(private["tags"]) == {"mine", "gender:female", "identity:singer", "voice:soft"}
    assert private["name"] == "Aoi of the box"
    assert (public["hasThumbnail"], public["tags"], public["description"], public["name"]) == (
        False,
        ["mine"],
        "",
        "Aoi",
    )
    assert "gender" not in public
    assert await reads(database, "vrm/Aoi_thumb.png", None) is None
    assert await reads(database, "vrm/Aoi_thumb.png", "alice") == ("alice", "vrm/Aoi_thumb.png")


async def test_every_row_has_its_names(database: Database) -> None:
    async def ask(connection: Any) -> list[dict[str, Any]]:
        cursor = connection.cursor(row_factory=dict_row)
        await cursor.execute("SELECT * FROM assets")
        return await cursor.fetchall()

    for row in await database.query(ask):
        assert names.is_public(row["s3_key"]) and not names.is_public(row["wanted_key"]), row["s3_key"]
        assert keys.parse(row["wanted_key"]).stem == row["stem"]
        assert keys.parse(row["s3_key"]).text == row["s3_key"]
        # What was sent for another user's file belongs to none.
        alone = row["owner_user_id"] == "dora"
        assert (row["main_id"] is not None) == (row["sidecar"] is not None and not alone), row["wanted_key"]
