"""What a studio's front end sends, in its order, for two users with the same file names, and for operators.

Anonymous first screen, sign-in, list, upload, backfill of thumbnails, reload: its own spelling of keys and addresses.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import text

from butai.config import Settings
from butai.database import Database
from tests import files
from tests.conftest import Api, serving

READ = "/api/s3/read-object?key="
PRESET, IDLE = "AvatarSample_A.vrm", "animations/Idle.fbx"
FBX = b"Kaydara FBX Binary  \x00\x1a\x00" + bytes(100)


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    """With two operators."""
    identity = settings.identity.model_copy(update={"operators": ("op", "olga")})
    async with serving(replace(settings, identity=identity)) as running:
        yield running


def address(key: str) -> str:
    """As `encodeURIComponent` in the front end spells it."""
    return READ + quote(key, safe="!*'()")


async def put(api: Api, user: str, key: str, body: bytes, status: int = 200) -> Any:
    got, answer = await api.upload(user, key, body)
    assert got == status, answer
    return answer["data"] if status == 200 else answer["error"]["code"]


async def publish(api: Api, user: str, asset_id: str, visibility: str = "public") -> None:
    status, told = await api.call("PATCH", f"/api/assets/{asset_id}", user, json={"visibility": visibility})
    assert status == 200, told


async def body_of(api: Api, url: str, user: str | None = None) -> bytes | int:
    status, body, _ = await api.read(url, user)
    return body if status == 200 else status


async def backfill(api: Api, user: str, picture: bytes) -> list[int]:
    """Sends a thumbnail for each listed avatar that has none, named after its key. Returns the statuses."""
    sent: list[int] = []
    for item in await api.items(user):
        if not item["hasThumbnail"]:
            status, _ = await api.upload(user, item["s3Key"].removesuffix(".vrm") + "_thumb.png", picture)
            sent.append(status)
    return sent


async def test_two_users_with_the_same_names_go_through_the_studio(api: Api) -> None:
    preset = await put(api, "op", PRESET, files.vrm(100))
    await publish(api, "op", preset["id"])
    # The first screen, before a sign-in.
    assert await body_of(api, address(PRESET) + "&proxy=1") == files.vrm(100)
    assert (await api.call("GET", "/api/s3/resources?type=models"))[0] == 401

    sent = {"alice": files.vrm(1), "bob": files.vrm(2)}
    pictures = {"alice": files.png(3, 3), "bob": files.png(4, 4)}
    ids: dict[str, str] = {}
    for user, body in sent.items():
        ids[user] = (await put(api, user, "vrm/same (1).vrm", body))["id"]
        await publish(api, user, ids[user])
        # The front end makes the address from the key that it sent.
        assert await body_of(api, address("vrm/same (1).vrm"), user) == body
    # Their own avatars, the preset, and for the first one the other user's.
    assert sorted(await backfill(api, "alice", pictures["alice"])) == [200, 403, 403]
    assert sorted(await backfill(api, "bob", pictures["bob"])) == [200, 403]
    for user, other in (("alice", "bob"), ("bob", "alice")):
        items = {item["id"]: item for item in await api.items(user)}
        assert set(items) == {*ids.values(), preset["id"]}, "the backfill made assets"
        own, others = items[ids[user]], items[ids[other]]
        assert (own["s3Key"], own["url"]) == ("vrm/same (1).vrm", address("vrm/same (1).vrm"))
        assert own["url"].endswith("vrm%2Fsame%20(1).vrm")
        for item, whose in ((own, user), (others, other)):
            assert item["url"] == address(item["s3Key"]) and item["url"].endswith(".vrm")
            assert await body_of(api, item["url"] + "&v=1", user) == sent[whose]
            assert await body_of(api, item["thumbnail"], user) == pictures[whose]
            picture = f"/api/vrm-thumbnail?url={quote(item['url'], safe='')}"
            assert await body_of(api, picture, user) == pictures[whose]
    # What a shared cache may keep means the same to every caller.
    for user in ("alice", "bob", None):
        for item in await api.items("carol"):
            _, body, headers = await api.read(item["url"], user)
            assert headers["cache-control"] == "public, max-age=3600, no-transform"
            assert body == (await api.read(item["url"], "carol"))[1]
        assert "public" not in (await api.read(address("vrm/same (1).vrm"), user))[2]["cache-control"]

    # The reload writes by the listed key: the same file, with new bytes, by each way.
    await put(api, "bob", (await api.items("bob"))[0]["s3Key"], files.vrm(3))
    _, asset = await api.call("GET", f"/api/assets/{ids['bob']}", "bob")
    public_key = next(item["s3Key"] for item in await api.items("alice") if item["id"] == ids["bob"])
    assert asset["public_url"] == address(public_key)
    signed = {"fileName": public_key, "fileType": "model/vrm"}
    assert (await api.call("POST", "/api/s3/presigned-url", "bob", json=signed))[1]["data"]["id"] == ids["bob"]
    assert (await put(api, "bob", public_key, files.vrm(4)))["id"] == ids["bob"]
    meta = json.dumps({"name": "Bobs", "gender": "male", "suggestedVoice": "deep"}).encode()
    await put(api, "bob", public_key.removesuffix(".vrm") + "_meta.json", meta)
    item = next(item for item in await api.items("alice") if item["id"] == ids["bob"])
    assert (item["name"], item["tags"]) == ("Bobs", ["gender:male", "voice:deep"])
    assert await body_of(api, item["url"], "alice") == files.vrm(4)
    # A person's name goes before it.
    await api.call("PATCH", f"/api/assets/{ids['bob']}", "bob", json={"display_name": "Bob's own"})
    await put(api, "bob", "vrm/same (1)_meta.json", b'{"name": "Other"}')
    assert [item["name"] for item in await api.items("bob") if item["id"] == ids["bob"]] == ["Bob's own"]


async def test_a_name_stays_with_who_published_it_first(api: Api) -> None:
    key, sent = "vrm/Aoi.vrm", {user: files.vrm(number) for number, user in enumerate(("alice", "bob", "op"))}
    ids = {user: (await put(api, user, key, body))["id"] for user, body in sent.items()}
    await publish(api, "bob", ids["bob"])
    await publish(api, "alice", ids["alice"])
    assert await body_of(api, address(key), "carol") == sent["bob"]
    assert await body_of(api, address(key), "alice") == sent["alice"]
    # Hidden, in the trash, purged: alice's file does not take its place.
    await publish(api, "bob", ids["bob"], "private")
    assert [await body_of(api, address(key), user) for user in ("carol", None)] == [404, 401]
    await api.call("DELETE", f"/api/assets/{ids['bob']}", "bob")
    # A trashed file of one's own hides another user's as well.
    assert [await body_of(api, address(key), user) for user in ("carol", "bob")] == [404, 404]
    assert (await api.call("POST", f"/api/assets/{ids['bob']}/purge", "bob"))[0] == 204
    assert [await body_of(api, address(key), user) for user in ("carol", "olga")] == [404, 404]
    again = await put(api, "bob", key, files.vrm(9))
    await publish(api, "bob", again["id"])
    assert await body_of(api, address(key), "carol") == files.vrm(9)
    # The studio's own goes first.
    await publish(api, "op", ids["op"])
    assert await body_of(api, address(key), "carol") == sent["op"]


async def test_reserved_names_are_the_studios_alone(api: Api) -> None:
    squatted = await put(api, "alice", PRESET, files.vrm(1))
    await publish(api, "alice", squatted["id"])
    assert await body_of(api, address(PRESET), "alice") == files.vrm(1)
    assert [await body_of(api, address(PRESET), user) for user in ("bob", None)] == [404, 401]
    preset = await put(api, "op", PRESET, files.vrm(2))
    await publish(api, "op", preset["id"])
    assert [await body_of(api, address(PRESET), user) for user in ("bob", None)] == [files.vrm(2)] * 2
    await put(api, "op", "AvatarSample_A_thumb.png", files.png(5, 5))
    assert await body_of(api, address("AvatarSample_A_thumb.png")) == files.png(5, 5)
    assert await put(api, "bob", "AvatarSample_A_thumb.png", files.png(6, 6), 403) == "forbidden"
    # One's own that is in the trash does not hide the studio's.
    await api.call("DELETE", f"/api/assets/{squatted['id']}", "alice")
    assert await body_of(api, address(PRESET), "alice") == files.vrm(2)


async def test_operators_write_what_has_no_owner(api: Api, database: Database) -> None:

    idle = await put(api, "op", IDLE, FBX)
    await publish(api, "op", idle["id"])
    async with database.transaction() as session:
        await session.execute(text("UPDATE assets SET owner_user_id = NULL"))
    other = FBX + b"new"
    for key in (IDLE, (await api.items("bob", "animation"))[0]["s3Key"]):
        assert (await put(api, "op", key, other))["id"] == idle["id"]
        assert await body_of(api, address(IDLE)) == other
    status, signed = await api.call("POST", "/api/s3/presigned-url", "op", json={"fileName": IDLE, "fileType": "x"})
    assert (status, signed["data"]["id"]) == (200, idle["id"])
    async with api.client.put(signed["data"]["url"], data=FBX) as answer:
        assert answer.status == 200, await answer.text()
    assert (await api.call("POST", signed["data"]["completeUrl"], "op"))[0] == 200
    assert await body_of(api, address(IDLE)) == FBX
    await put(api, "op", "animations/Idle_thumb.png", files.png(5, 5))
    assert await body_of(api, address("animations/Idle_thumb.png")) == files.png(5, 5)
    # A user's file of that name is the user's alone.
    assert (await put(api, "bob", IDLE, other))["id"] != idle["id"]
    assert await body_of(api, address(IDLE), "bob") == other
    assert await body_of(api, address(IDLE), "carol") == FBX


async def test_keys_with_a_tag_are_ones_own_or_lose_it(api: Api) -> None:
    made = await put(api, "alice", "vrm/x~abcdefgh.vrm", files.vrm(1))
    assert made["fileName"] == made["s3Key"] == "vrm/x.vrm"
    assert await body_of(api, address("vrm/x~abcdefgh.vrm"), "alice") == files.vrm(1), "what was sent is not read back"
    _, asset = await api.call("GET", f"/api/assets/{made['id']}", "alice")
    stolen = asset["public_url"].removeprefix(READ).replace("%2F", "/")
    his = await put(api, "bob", stolen, files.vrm(2))
    assert his["id"] != made["id"] and his["s3Key"] == "vrm/x.vrm"
    assert await body_of(api, asset["public_url"], "alice") == files.vrm(1)
    assert await body_of(api, asset["public_url"], "bob") == 404
    # A private file's sidecar is as if there were no such file; a public one's is refused.
    picture = stolen.removesuffix(".vrm") + "_thumb.png"
    await put(api, "bob", picture, files.png(3, 3))
    await publish(api, "alice", made["id"])
    assert await put(api, "carol", picture, files.png(3, 3), 403) == "forbidden"
    assert await put(api, "carol", "vrm/%2e%2e/x.vrm", files.vrm(1), 400) == "key_invalid"


async def test_a_picture_belongs_to_one_of_two_files_of_a_name(api: Api) -> None:
    await put(api, "alice", "vrm/X.vrm", files.vrm(1))
    await put(api, "alice", "vrm/X_thumb.png", files.png(3, 3))
    await put(api, "alice", "vrm/X_meta.json", b'{"gender": "female"}')
    glb = await put(api, "alice", "vrm/X.glb", files.vrm(2))
    await publish(api, "alice", glb["id"])
    assert [await body_of(api, address("vrm/X_thumb.png"), user) for user in ("alice", "bob", None)] == [
        files.png(3, 3),
        404,
        401,
    ]
    assert await body_of(api, address("vrm/X_meta.json")) == 401
    (item,) = await api.items("bob")
    assert (item["hasThumbnail"], item["tags"], "gender" in item) == (False, [], False)
    # The next one is for the file that has none; the private one keeps its own.
    await put(api, "alice", "vrm/X_thumb.png", files.png(4, 4))
    (item,) = await api.items("bob")
    assert await body_of(api, item["thumbnail"]) == files.png(4, 4)
    mine = {item["s3Key"]: item for item in await api.items("alice")}
    assert await body_of(api, mine["vrm/X.vrm"]["thumbnail"], "alice") == files.png(3, 3)
    assert await body_of(api, mine["vrm/X.glb"]["thumbnail"], "alice") == files.png(4, 4)


async def test_lists_are_sorted_by_asc_and_desc(api: Api) -> None:
    for name in ("a", "b", "c"):
        await put(api, "alice", f"vrm/{name}.vrm", files.vrm(1))
    for order, names in (("asc", "abc"), ("desc", "cba")):
        assert "".join(item["name"] for item in await api.items("alice", query=f"&sort={order}")) == names
