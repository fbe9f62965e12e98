"""Files that are read through nginx: the API decides, nginx carries the bodies.

Whatever a client can see must be what the API alone would have answered, so most tests ask both and compare.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psycopg
import pytest

from butai.assets.storage import sigv4
from butai.assets.storage.client import Store
from butai.config import Settings
from butai.embedded.seaweed import EmbeddedSeaweed
from tests import files
from tests.e2e.fronts import BODY, PASSING, STUDIO, Front, compared, stored, watch
from tests.fakes.store_proxy import StoreProxy


async def test_a_whole_file_is_carried_by_nginx_and_looks_as_if_the_api_had(front: Front, proxy: StoreProxy) -> None:
    data = await stored(front)
    _, asset = await front.nginx.call("GET", f"/api/assets/{data['id']}", "alice")
    seen = watch(proxy)
    status, body, headers = await front.nginx.read(asset["public_url"])
    assert (status, body) == (200, BODY)
    assert [(request.method, request.headers.get("Range")) for request in seen] == [("GET", None)]
    assert headers["content-type"] == "model/gltf-binary"
    assert headers["cache-control"] == "public, max-age=3600, no-transform"
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    await front.same(data["url"] + "&proxy=1&v=7")
    await front.same(data["url"], "bob", headers={"Origin": STUDIO})


async def test_a_single_range_is_what_nginx_asks_the_store_for(front: Front, proxy: StoreProxy) -> None:
    data = await stored(front)
    seen = watch(proxy)
    for asked in ("bytes=0-0", "bytes=10-99", "bytes=-7", "bytes=299000-", "bytes=5-99999999"):
        seen.clear()
        status, body, _ = await front.same(data["url"], headers={"Range": asked})
        assert status == 206, asked
        assert len(body) < len(BODY)
        from_nginx, from_api = (request.headers["Range"] for request in seen)
        assert from_nginx == from_api


CONDITIONS = (
    ({"Range": "bytes=999999999-"}, 416),
    ({"Range": "bytes=-0"}, 416),
    ({"Range": "bytes=0-1,5-6"}, 200),
    ({"Range": "lines=0-1"}, 200),
    ({"Range": "bytes=0-4", "If-Range": '"an older one"'}, 200),
    ({"If-None-Match": '"an older one"'}, 200),
    ({"If-None-Match": "*"}, 304),
    ({"If-None-Match": "*", "Range": "bytes=0-4"}, 304),
    ({"If-Modified-Since": "Sat, 29 Oct 2033 19:43:31 GMT"}, 200),
    ({"If-Match": '"an older one"'}, 200),
    ({"Accept-Encoding": "gzip, br, zstd"}, 200),
)


async def test_conditions_and_odd_ranges_are_judged_by_the_api_alone(front: Front) -> None:
    data = await stored(front)
    for sent, status in CONDITIONS:
        answer = await front.same(data["url"], headers=sent)
        assert answer[0] == status, sent
        assert status != 200 or answer[1] == BODY, sent


async def test_a_known_etag_is_304_and_a_fresh_if_range_a_part(front: Front) -> None:
    data = await stored(front)
    etag = (await front.nginx.read(data["url"]))[2]["etag"]
    assert (await front.same(data["url"], headers={"If-None-Match": etag}))[:2] == (304, b"")
    status, body, _ = await front.same(data["url"], headers={"If-Range": etag, "Range": "bytes=3-8"})
    assert (status, body) == (206, BODY[3:9])


async def test_head_tells_the_length_without_asking_the_store(front: Front, proxy: StoreProxy) -> None:
    data = await stored(front)
    seen = watch(proxy)
    for sent in ({}, {"Range": "bytes=10-19"}):
        status, body, headers = await front.same(data["url"], method="HEAD", headers=sent)
        assert (status, body) == ((206, b"") if sent else (200, b""))
        assert headers["content-length"] == ("10" if sent else str(len(BODY)))
    assert seen == []


async def test_private_files_stay_private(front: Front) -> None:
    data = await stored(front, public=False)
    status, body, headers = await front.same(data["url"], "alice")
    assert (status, body) == (200, BODY)
    assert headers["cache-control"] == "private, no-cache, no-transform"
    assert headers["cross-origin-resource-policy"] == "same-site"
    assert (await front.same(data["url"], "bob"))[0] == 404
    assert (await front.same(data["url"]))[0] == 401
    path = f"/api/assets/{data['id']}"
    assert (await front.nginx.call("PATCH", path, "alice", json={"visibility": "public"}))[0] == 200
    assert (await front.same(data["url"]))[1] == BODY
    assert (await front.nginx.call("PATCH", path, "alice", json={"visibility": "private"}))[0] == 200
    assert (await front.same(data["url"]))[0] == 401


async def test_the_store_hears_nothing_of_the_client_and_the_client_nothing_of_the_store(
    front: Front, proxy: StoreProxy
) -> None:
    data = await stored(front, public=False)
    seen = watch(proxy)
    sent = {"X-Api-Key-Of-Mine": "canary", "Origin": STUDIO, "Accept-Encoding": "gzip", "User-Agent": "canary"}
    status, body, headers = await front.nginx.read(data["url"], "alice", headers=sent)
    assert (status, body) == (200, BODY)
    (request,) = seen
    assert {name.lower() for name in request.headers} <= {"host", "range"}
    leaked = [name for name in headers if re.match(r"x-amz|seaweed|x-butai|x-accel|last-modified", name)]
    assert leaked == []
    # Nor what the store's own answer would have said.
    assert headers["access-control-allow-origin"] == STUDIO
    assert "Amz" not in str(headers)


async def test_the_stores_place_in_nginx_cannot_be_reached_from_outside(front: Front, settings: Settings) -> None:
    data = await stored(front)
    with psycopg.connect(settings.database.url.get_secret_value()) as connection:
        row = connection.execute("SELECT object_key FROM assets WHERE id = %s", (data["id"],)).fetchone()
    assert row is not None
    async with Store(settings.store) as store:
        signed = urlsplit(store.sign("GET", row[0]))
    for path in (
        f"/_butai_store{signed.path}?{signed.query}",
        f"/_butai_store/{settings.store.bucket}/",
        "/_butai_store/",
        "/_butai_store",
        "/%5fbutai_store/",
        "//_butai_store/",
        f"/x/..%2f_butai_store{signed.path}?{signed.query}",
    ):
        status, body, _ = await front.nginx.read(path, "alice")
        assert status == 404, path
        assert BODY not in body


async def test_a_client_cannot_tell_nginx_what_to_fetch(front: Front) -> None:
    data = await stored(front)
    sent = {"X-Accel-Redirect": "/_butai_store/media/", "X-Butai-Range": "bytes=0-0"}
    assert (await front.same(data["url"], headers=sent))[1] == BODY


REFUSALS: tuple[tuple[dict[str, Any], int, bytes], ...] = (
    ({"status": 404, "code": "NoSuchKey"}, 410, b"asset_missing"),
    ({"status": 416, "code": "InvalidRange"}, 410, b"asset_missing"),
    ({"status": 403, "code": "AccessDenied"}, 503, b"store_"),
    ({"status": 500}, 503, b"store_unavailable"),
    ({"status": 503, "code": "SlowDown"}, 503, b"store_unavailable"),
    ({"status": 307, "code": "TemporaryRedirect"}, 503, b"store_unavailable"),
)


async def test_what_the_store_refuses_is_said_as_the_api_says_it_and_kept_by_no_cache(
    front: Front, proxy: StoreProxy
) -> None:
    data = await stored(front)
    for fault, status, code in REFUSALS:
        met = proxy.fault("GET", **fault)
        # As it came over the wire: a client's library would join two headers of one name.
        url, headers = front.nginx.url + data["url"], {"Origin": STUDIO}
        async with front.nginx.client.get(url, headers=headers, allow_redirects=False) as answer:
            said = await answer.read()
            shown = {(name.lower(), value) for name, value in answer.headers.items()}
            assert answer.status == status, fault
        through = met.met
        alone = await front.straight.read(data["url"], headers=headers)
        assert 0 < through < met.met
        assert alone[0] == status
        assert code in said
        assert code in alone[1]
        assert {value for name, value in shown if name == "cache-control"} == {"no-store"}
        assert ("content-type", "application/json") in shown
        # nginx keeps Accept-Ranges of the answer that it had from the API first; that says nothing wrong.
        assert {name for name, _ in shown} - PASSING - {"accept-ranges"} == set(compared(alone[2]))
        proxy.heal()
    assert (await front.same(data["url"]))[1] == BODY


async def test_a_store_that_breaks_off_never_gives_half_a_file_for_a_whole_one(front: Front, proxy: StoreProxy) -> None:
    body = files.vrm(1, 3_000_000)
    data = await stored(front, body=body)
    fault = proxy.fault("GET", cut_answer=1_000_000)
    with pytest.raises(aiohttp.ClientPayloadError):
        await front.nginx.read(data["url"])
    assert fault.met == 1


async def test_a_reader_who_leaves_is_not_read_for(front: Front, proxy: StoreProxy) -> None:
    body = files.vrm(1, 60 * 1024**2)
    data = await stored(front, body=body)
    async with front.nginx.client.get(front.nginx.url + data["url"]) as answer:
        await answer.content.readexactly(100_000)
        answer.close()
    async with asyncio.timeout(60):
        while not proxy.cut:
            await asyncio.sleep(0.02)
    assert proxy.cut[-1] < len(body)


NAMES = (
        "two words.bvh", "a+b.bvh", "100%.bvh", "%2541.bvh", "舞台 é.bvh", "a&b=c;d.bvh", "what?.bvh", "#1.bvh",
        "a'b(c)[d]{e}|f^g`h~i!j$k*l,m:n@o\"p<q>.bvh", "..a...bvh", "X-Amz-Date=1.bvh",
)  # fmt: skip


async def test_objects_that_were_there_before_us_are_read_by_whatever_name(
    front: Front, settings: Settings, proxy: StoreProxy
) -> None:
    # Butai's own objects have plain names; those that `butai import` finds in a bucket are kept where they are.
    data = await stored(front, "animations/plain.bvh", files.BVH)
    for name in NAMES:
        await _move(settings, data["id"], f"{settings.store.prefix}old bucket/{name}")
        proxy.heal()
        seen = watch(proxy)
        status, body, _ = await front.same(data["url"])
        assert (status, body) == (200, files.BVH), name
        # Spelled as it was signed: AWS takes a bare + for a space.
        from_nginx, from_api = (request.raw_path.partition("?")[0] for request in seen)
        assert from_nginx == from_api, name


async def _move(settings: Settings, asset_id: str, object_key: str) -> None:
    """Gives an asset's object another name in the store, and in the index."""
    async with Store(settings.store) as store:
        with psycopg.connect(settings.database.url.get_secret_value(), autocommit=True) as connection:
            row = connection.execute("SELECT object_key FROM assets WHERE id = %s", (asset_id,)).fetchone()
            assert row is not None
            await store.copy(row[0], object_key)
            await store.delete(row[0])
            connection.execute("UPDATE assets SET object_key = %s WHERE id = %s", (object_key, asset_id))


async def test_what_others_wrote_on_their_objects_does_not_change_the_answer(
    front: Front, settings: Settings, seaweed: EmbeddedSeaweed
) -> None:
    data = await stored(front)
    key = f"{settings.store.prefix}theirs"
    said = {
        "content-type": "text/html",
        "content-disposition": "attachment; filename=evil.html",
        "cache-control": "public, max-age=31536000",
        "content-encoding": "gzip",
        "content-language": "tlh",
        "expires": "Wed, 21 Oct 2065 07:28:00 GMT",
    }
    store = seaweed.store
    url = sigv4.presign(
        "PUT", f"{store.endpoint}/{store.bucket}/{sigv4.encode_path(key)}", store.credentials, store.region, expires=60
    )
    async with front.nginx.client.put(url, data=BODY, headers=said) as answer:
        assert answer.status == 200, await answer.text()
    with psycopg.connect(settings.database.url.get_secret_value(), autocommit=True) as connection:
        connection.execute("UPDATE assets SET object_key = %s WHERE id = %s", (key, data["id"]))
    assert (await front.same(data["url"]))[1] == BODY
