"""Lists: who sees what, order, pages, search, sidecars."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets import keys
from butai.assets.contents import thumbnails
from butai.assets.models import Asset
from butai.database import Database
from tests import files
from tests.conftest import Api

SEED = """
INSERT INTO assets (id, type, s3_key, wanted_key, stem, display_name, mime_type, size_bytes, status, owner_user_id,
                    visibility, ever_public, object_key, change_seq, created_at, updated_at)
SELECT gen_random_uuid(), 'vrm', 'vrm/seed ' || n || '.vrm', 'vrm/seed ' || n || '.vrm', 'vrm/seed ' || n,
       'Seed ' || n, 'model/gltf-binary', n % 7 + 1, 'ready', CASE WHEN n % 3 = 0 THEN 'alice' ELSE 'bob' END,
       CASE WHEN n % 2 = 0 THEN 'public' ELSE 'private' END, n % 2 = 0, 'object/' || n, n,
       timestamptz '2026-01-01' + n % 50 * interval '1 second', now()
FROM generate_series(1, :count) AS n
"""


async def seed(database: Database, count: int = 200) -> None:
    async with database.transaction() as session:
        await session.execute(text(SEED), {"count": count})


def visible_to_alice(count: int) -> set[str]:
    return {f"Seed {n}" for n in range(1, count + 1) if n % 2 == 0 or n % 3 == 0}


async def pages(api: Api, query: str) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = []
    cursor = ""
    while True:
        path = f"/api/s3/resources?type=vrm{query}" + (f"&cursor={cursor}" if cursor else "")
        status, body = await api.call("GET", path, "alice")
        assert status == 200, body
        found.append(body["data"])
        assert body["pagination"]["page"] == len(found)
        cursor = body["pagination"]["nextCursor"]
        assert body["pagination"]["hasMore"] is bool(cursor)
        if not cursor:
            return found


async def test_a_caller_without_paging_gets_everything_public_or_their_own(api: Api, database: Database) -> None:
    await seed(database)
    status, body = await api.call("GET", "/api/s3/resources?type=vrm&checkThumbs=true", "alice")
    assert status == 200
    assert {item["name"] for item in body["data"]} == visible_to_alice(200)
    assert body["pagination"]["total"] == len(body["data"])
    assert body["pagination"]["hasMore"] is False
    assert len({item["id"] for item in body["data"]}) == len(body["data"])


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("created_at", lambda item: (item["createdAt"], item["id"])),
        ("updated_at", lambda item: (item["updatedAt"], item["id"])),
        ("display_name", lambda item: (item["name"].lower(), item["id"])),
        ("size_bytes", lambda item: (item["size"], item["id"])),
    ],
)
@pytest.mark.parametrize("down", [True, False])
async def test_pages_by_cursor_hold_each_item_once_in_order(
    api: Api, database: Database, sort: str, key: Callable[[dict[str, Any]], Any], down: bool
) -> None:
    await seed(database)
    found = await pages(api, f"&pageSize=17&sort={'-' if down else ''}{sort}")
    assert [len(page) for page in found[:-1]] == [17] * (len(found) - 1)
    items = [item for page in found for item in page]
    assert items == sorted(items, key=key, reverse=down)
    assert {item["name"] for item in items} == visible_to_alice(200)


async def test_pages_by_number_equal_pages_by_cursor(api: Api, database: Database) -> None:
    await seed(database)
    by_cursor = await pages(api, "&pageSize=50")
    for number, page in enumerate(by_cursor, start=1):
        _, body = await api.call("GET", f"/api/s3/resources?type=vrm&pageSize=50&page={number}", "alice")
        assert body["data"] == page
        assert body["pagination"]["total"] == len(visible_to_alice(200))
    _, body = await api.call("GET", "/api/s3/resources?type=vrm&pageSize=50&page=99", "alice")
    assert (body["data"], body["pagination"]["total"]) == ([], len(visible_to_alice(200)))


async def test_search_takes_its_text_literally(api: Api, database: Database) -> None:
    await seed(database, 30)
    for name in ("100% Aoi", "a_b", "back\\slash", "舞台 Übung", "it's {x} %(y)s"):
        status, _ = await api.upload("alice", f"vrm/{name.replace(chr(92), '-')}.vrm", files.vrm(1))
        assert status == 200
    for q, expected in {
        "100%": {"100% Aoi"},
        "%": {"100% Aoi", "it's {x} %(y)s"},
        "A_B": {"a_b"},
        "übung": {"舞台 Übung"},
        "舞台": {"舞台 Übung"},
        "it's {x}": {"it's {x} %(y)s"},
        "eed 2": {f"Seed {n}" for n in (2, 20, 21, 22, 24, 26, 27, 28)},
        "nothing like it": set(),
    }.items():
        found = await api.items("alice", query=f"&q={quote(q)}")
        assert {item["name"] for item in found} == expected, q
        _, body = await api.call("GET", f"/api/s3/resources?type=vrm&pageSize=1&q={quote(q)}", "alice")
        assert body["pagination"]["total"] == len(expected)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "filter_invalid"),
        ("?type=nonsense", "filter_invalid"),
        ("?type=vrm&pageSize=0", "filter_invalid"),
        ("?type=vrm&pageSize=1001", "filter_invalid"),
        ("?type=vrm&pageSize=ten", "filter_invalid"),
        ("?type=vrm&page=0", "filter_invalid"),
        ("?type=vrm&page=-1", "filter_invalid"),
        ("?type=vrm&page=99999999999999999999", "filter_invalid"),
        ("?type=vrm&sort=owner", "sort_invalid"),
        ("?type=vrm&sort=-size_bytes:asc", "sort_invalid"),
        ("?type=vrm&cursor=nonsense", "cursor_invalid"),
        ("?type=vrm&cursor=W10", "cursor_invalid"),
        ("?type=vrm&total=maybe", "filter_invalid"),
        ("?type=vrm&q=%00", "filter_invalid"),
        ("?type=vrm&q=" + "a" * 201, "filter_invalid"),
    ],
)
async def test_what_cannot_be_asked_is_400(api: Api, query: str, code: str) -> None:
    status, body = await api.call("GET", f"/api/s3/resources{query}", "alice")
    assert (status, body["error"]["code"]) == (400, code)
    assert body["success"] is False
    assert body["message"]


async def test_a_cursor_of_another_order_is_refused(api: Api, database: Database) -> None:
    await seed(database, 20)
    _, body = await api.call("GET", "/api/s3/resources?type=vrm&pageSize=2&sort=size_bytes", "alice")
    cursor = body["pagination"]["nextCursor"]
    status, body = await api.call("GET", f"/api/s3/resources?type=vrm&pageSize=2&cursor={cursor}", "alice")
    assert (status, body["error"]["code"]) == (400, "cursor_invalid")


async def test_lists_are_for_those_who_are_signed_in(api: Api) -> None:
    for headers in ({}, {"Cookie": "next-auth.session-token=broken"}, {"Authorization": "Bearer broken"}):
        status, body = await api.call("GET", "/api/s3/resources?type=vrm", headers=headers)
        assert status == 401
        assert body["success"] is False
        assert body["message"]


async def test_items_have_the_shape_that_front_ends_know(api: Api) -> None:
    await api.upload("alice", "animations/Walk.fbx", files.FBX)
    await api.upload("alice", "animations/Run.vrma", files.glb())
    await api.upload("alice", "bgm/Song.mp3", files.MP3)
    await api.upload("alice", "hdr/Sky.hdr", files.HDR)
    await api.upload("alice", "scene/Room.glb", files.glb())
    walk, run = sorted(await api.items("alice", "animations"), key=lambda item: item["name"], reverse=True)
    assert (walk["type"], run["type"]) == ("fbx", "vrma")
    assert walk["category"] == "animation"
    assert walk["duration"] == 0
    assert walk["thumbnail"] is None
    assert walk["mimeType"]
    for kind in ("bgm", "hdr", "scene"):
        (item,) = await api.items("alice", kind)
        assert item["category"] == kind
        assert item["url"].startswith("/api/s3/read-object?key=")
    await api.upload("alice", "models/Aoi.vrm", files.vrm())
    (item,) = await api.items("alice", "models")
    assert item["type"] == "model/vrm"
    assert item["category"] == "vrm"
    assert item["hasThumbnail"] is False
    assert "thumbnail" not in item
    assert item["url"].endswith(".vrm")
    assert item["createdAt"].endswith("Z")


META = {
    "gender": "female",
    "identity": "singer",
    "styleTags": ["cyber", "blue"],
    "attributes": {"hair": "long", "age": 17},
    "suggestedVoice": "soft",
    "description": "She sings.",
    "id": "mine",
    "thumbnail": "https://evil.example/x.png",
    "url": "https://evil.example/",
    "size": "huge",
}


@pytest.mark.parametrize("sidecars_first", [True, False])
async def test_sidecars_say_something_about_their_asset_and_are_no_items(api: Api, sidecars_first: bool) -> None:
    thumb = files.png()
    uploads = [
        ("vrm/Aoi.vrm", files.vrm()),
        ("vrm/Aoi_thumb.png", thumb),
        ("vrm/Aoi_meta.json", json.dumps(META).encode()),
    ]
    for key, body in reversed(uploads) if sidecars_first else uploads:
        status, answer = await api.upload("alice", key, body)
        assert status == 200, answer
    (item,) = await api.items("alice")
    assert item["hasThumbnail"] is True
    assert item["gender"] == "female"
    assert item["attributes"] == {"hair": "long", "age": 17}
    assert item["description"] == "She sings."
    assert set(item["tags"]) == {"gender:female", "identity:singer", "cyber", "blue", "long", "voice:soft"}
    assert item["id"] != "mine"
    assert item["url"] == "/api/s3/read-object?key=vrm%2FAoi.vrm"
    assert item["size"] == len(files.vrm())
    status, body, headers = await api.read(item["thumbnail"], "alice")
    assert (status, body) == (200, thumb)
    assert headers["cache-control"] == "no-store, no-transform"
    assert headers["content-type"] == "image/png"
    # A sidecar follows the rule of its asset.
    assert (await api.read(item["thumbnail"]))[0] == 401
    assert (await api.read(item["thumbnail"], "bob"))[0] == 404
    await api.call("PATCH", f"/api/assets/{item['id']}", "alice", json={"visibility": "public"})
    assert (await api.read(item["thumbnail"]))[:2] == (200, thumb)
    assert (await api.read(keys_meta := "/api/s3/read-object?key=vrm%2FAoi_meta.json"))[0] == 200
    await api.call("DELETE", f"/api/assets/{item['id']}", "alice")
    assert (await api.read(item["thumbnail"]))[0] == 401
    assert (await api.read(keys_meta))[0] == 401


async def test_a_second_users_sidecar_belongs_to_their_own_asset(api: Api) -> None:
    await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    _, early = await api.upload("bob", "vrm/a_thumb.png", files.png(3, 3))
    shown = keys.read_url("vrm/a_thumb.png")
    assert (await api.read(shown, "bob"))[1] == files.png(3, 3) and early["success"]
    assert (await api.read(shown, "alice"))[0] == 404, "a stranger's picture under her avatar's name"
    await api.upload("bob", "vrm/a.vrm", files.vrm(2))
    await api.upload("alice", "vrm/a_thumb.png", files.png(4, 4))
    (hers,) = await api.items("alice")
    (his,) = await api.items("bob")
    assert (await api.read(hers["thumbnail"], "alice"))[1] == files.png(4, 4)
    assert (await api.read(his["thumbnail"], "bob"))[1] == files.png(3, 3)


async def test_a_trashed_sidecar_leaves_its_asset(api: Api) -> None:
    await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    _, meta = await api.upload("alice", "vrm/a_meta.json", b'{"gender": "male"}')
    (item,) = await api.items("alice")
    assert item["tags"] == ["gender:male"]
    await api.call("DELETE", f"/api/assets/{meta['data']['id']}", "alice")
    (item,) = await api.items("alice")
    assert item["tags"] == []
    assert "gender" not in item


@pytest.mark.parametrize("version", ["0.0", "1.0"])
async def test_the_picture_inside_a_vrm(api: Api, version: str, run_jobs: Any) -> None:
    picture = files.png(16, 16)
    _, answer = await api.upload("alice", "vrm/With Picture.vrm", files.vrm(1, 40_000, picture, version))
    url = answer["data"]["url"]
    path = f"/api/vrm-thumbnail?url={quote(url, safe='')}"
    status, early = await api.call("GET", path, "alice")
    assert (status, early["code"]) == (404, "asset_not_found"), "a picture before inspection: the API has read the file"
    await run_jobs()
    status, body, headers = await api.read(path, "alice")
    assert (status, body) == (200, picture)
    assert headers["content-type"] == "image/png"
    status, body, _ = await api.read(f"/api/vrm-thumbnail?url={quote(api.url + url, safe='')}", "alice")
    assert (status, body) == (200, picture)
    assert (await api.read(path, "alice", headers={"If-None-Match": headers["etag"]}))[0] == 304
    assert (await api.read(path, "bob"))[0] == 404
    assert (await api.read(path))[0] == 401


async def test_a_picture_is_of_its_own_avatar_or_of_its_owners_choice(api: Api, run_jobs: Any) -> None:
    """Two files of one name share a thumbnail's key: what was found inside one is never given out as the other's."""
    inside, chosen = files.png(16, 16), files.png(9, 9)
    first = "/api/vrm-thumbnail?url=" + quote("/api/s3/read-object?key=vrm/a.vrm", safe="")
    await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    await api.upload("alice", "vrm/a.glb", files.vrm(1, 40_000, inside))
    await run_jobs()
    assert (await api.items("alice"))[0]["hasThumbnail"]
    assert (await api.read(first, "alice"))[0] == 404
    await api.upload("alice", "vrm/a_thumb.png", chosen)
    assert (await api.read(first, "alice"))[:2] == (200, chosen)
    await api.upload("alice", "vrm/a.vrm", files.vrm(2))
    assert (await api.read(first, "alice"))[:2] == (200, chosen), "before the new version was inspected"


async def test_a_picture_that_is_uploaded_at_the_same_moment_stays(
    api: Api, run_jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inspection looked for thumbnails before the upload's row was committed."""
    chosen = files.png(9, 9)
    await api.upload("alice", "vrm/a.vrm", files.vrm(1, 40_000, files.png(16, 16)))
    await api.upload("alice", "vrm/a_thumb.png", chosen)
    looked: list[Asset] = []

    async def too_early(_session: AsyncSession, asset: Asset) -> list[Asset]:
        looked.append(asset)
        return []

    monkeypatch.setattr(thumbnails, "_thumbnails", too_early)
    await run_jobs()
    assert looked
    path = "/api/vrm-thumbnail?url=" + quote("/api/s3/read-object?key=vrm/a.vrm", safe="")
    assert (await api.read(path, "alice"))[:2] == (200, chosen)


async def test_a_vrm_without_a_picture_is_404(api: Api, run_jobs: Any) -> None:
    await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    await run_jobs()
    status, body = await api.call("GET", "/api/vrm-thumbnail?url=/api/s3/read-object%3Fkey%3Dvrm/a.vrm", "alice")
    assert status == 404
    assert isinstance(body["error"], str)


@pytest.mark.parametrize(
    "url",
    [
        "", "https://evil.example/a.vrm", "http://169.254.169.254/latest", "//evil.example/api/s3/read-object?key=vrm/a.vrm",
        "/api/s3/read-object?key=hdr/a.hdr", "/api/s3/read-object", "/etc/passwd", "file:///etc/passwd",
        "/api/s3/read-object?key=../../a.vrm", "http://[", "https://evil.example/api/s3/read-object?key=vrm/a.vrm",
    ],
)  # fmt: skip
async def test_other_urls_are_400_and_nobody_is_asked(api: Api, url: str) -> None:
    status, body = await api.call("GET", f"/api/vrm-thumbnail?url={quote(url, safe='')}", "alice")
    assert status == 400
    assert isinstance(body["error"], str)
