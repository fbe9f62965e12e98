"""Reading files by key: who may, which bytes, which headers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from urllib.parse import quote

import pytest

from butai.config import HttpSettings, Settings
from tests import files
from tests.conftest import Api, serving
from tests.fakes.store_proxy import StoreProxy

BODY = files.vrm(1, 10_000)


async def upload(
    api: Api, key: str = "vrm/a.vrm", body: bytes = BODY, user: str = "alice", *, public: bool = False
) -> dict[str, str]:
    status, answer = await api.upload(user, key, body)
    assert status == 200, answer
    if public:
        status, _ = await api.call("PATCH", f"/api/assets/{answer['data']['id']}", user, json={"visibility": "public"})
        assert status == 200
    return answer["data"]


def url(raw_key: str) -> str:
    return f"/api/s3/read-object?key={raw_key}"


async def test_private_files_are_for_their_owner(api: Api) -> None:
    data = await upload(api)
    assert (await api.read(data["url"], "alice"))[:2] == (200, BODY)
    assert (await api.read(data["url"], "bob"))[0] == 404
    for key in ("vrm/a.vrm", "vrm/none.vrm"):
        assert (await api.read(url(key)))[0] == 401


async def test_public_files_are_for_everyone_and_at_once_private_again(api: Api) -> None:
    data = await upload(api, public=True)
    status, body, headers = await api.read(data["url"])
    assert (status, body) == (200, BODY)
    # Of the same name another caller may have a file.
    assert (headers["cache-control"], headers["vary"]) == (
        "private, no-cache, no-transform",
        "Origin, Cookie, Authorization",
    )
    _, asset = await api.call("GET", f"/api/assets/{data['id']}", "alice")
    status, body, headers = await api.read(asset["public_url"])
    assert (status, body) == (200, BODY)
    assert (headers["cache-control"], headers["vary"]) == ("public, max-age=3600, no-transform", "Origin")
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    await api.call("PATCH", f"/api/assets/{data['id']}", "alice", json={"visibility": "private"})
    assert (await api.read(data["url"]))[0] == 401
    status, _, headers = await api.read(data["url"], "alice")
    assert status == 200
    assert "public" not in headers["cache-control"]
    assert headers["cross-origin-resource-policy"] == "same-site"


async def test_headers_say_what_the_file_is(api: Api) -> None:
    data = await upload(api, 'vrm/舞台 "x".vrm')
    _, _, headers = await api.read(data["url"], "alice")
    assert headers["content-type"] == "model/gltf-binary"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["accept-ranges"] == "bytes"
    assert headers["content-length"] == str(len(BODY))
    assert "Origin" in headers["vary"]
    assert headers["content-disposition"] == (
        "inline; filename=\"__ _x_.vrm\"; filename*=UTF-8''%E8%88%9E%E5%8F%B0%20%22x%22.vrm"
    )
    assert not any(name.startswith(("x-amz", "seaweed")) for name in headers)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=-7", len(BODY) - 7, len(BODY) - 1),
        ("bytes=100-", 100, len(BODY) - 1),
        ("bytes=5-99999999", 5, len(BODY) - 1),
        ("bytes=-99999999", 0, len(BODY) - 1),
    ],
)
async def test_single_ranges(api: Api, asked: str, first: int, last: int) -> None:
    data = await upload(api)
    status, body, headers = await api.read(data["url"], "alice", headers={"Range": asked})
    assert (status, body) == (206, BODY[first : last + 1])
    assert headers["content-range"] == f"bytes {first}-{last}/{len(BODY)}"
    assert headers["content-length"] == str(last - first + 1)


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=9-2", "items=0-1", "bytes=-", "bytes=a-b", "nonsense"])
async def test_ranges_that_are_not_single_ranges_give_the_whole(api: Api, asked: str) -> None:
    data = await upload(api)
    assert (await api.read(data["url"], "alice", headers={"Range": asked}))[:2] == (200, BODY)


@pytest.mark.parametrize("asked", [f"bytes={len(BODY)}-", "bytes=-0", "bytes=99999999999-99999999999"])
async def test_ranges_behind_the_end_are_416(api: Api, asked: str) -> None:
    data = await upload(api)
    status, body, _ = await api.read(data["url"], "alice", headers={"Range": asked})
    assert status == 416
    assert b"range_not_satisfiable" in body


async def test_conditions(api: Api, proxy: StoreProxy) -> None:
    data = await upload(api)
    _, _, headers = await api.read(data["url"], "alice")
    etag = headers["etag"]
    assert etag.startswith('"')
    gets = len(proxy.seen)
    for condition in (etag, f'"other", W/{etag}', "*"):
        status, body, headers = await api.read(data["url"], "alice", headers={"If-None-Match": condition})
        assert (status, body) == (304, b"")
        assert headers["etag"] == etag
    assert len(proxy.seen) == gets, "a 304 asked the store"
    ranged = {"Range": "bytes=0-4"}
    assert (await api.read(data["url"], "alice", headers=ranged | {"If-Range": etag}))[0] == 206
    assert (await api.read(data["url"], "alice", headers=ranged | {"If-Range": '"old"'}))[:2] == (200, BODY)
    await upload(api, body=files.vrm(2))
    assert (await api.read(data["url"], "alice", headers={"If-None-Match": etag}))[0] == 200


async def test_head_answers_as_get_would(api: Api, proxy: StoreProxy) -> None:
    data = await upload(api)
    seen = len(proxy.seen)
    status, body, headers = await api.read(data["url"], "alice", method="HEAD")
    assert (status, body, headers["content-length"]) == (200, b"", str(len(BODY)))
    status, _, headers = await api.read(data["url"], "alice", method="HEAD", headers={"Range": "bytes=0-9"})
    assert (status, headers["content-length"]) == (206, "10")
    assert len(proxy.seen) == seen


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("vrm/My Avatar.vrm", "vrm/My%20Avatar.vrm"),
        ("vrm/My Avatar.vrm", "vrm/My+Avatar.vrm"),
        ("vrm/My Avatar.vrm", "vrm%2FMy%2520Avatar.vrm"),
        ("vrm/My Avatar.vrm", "vrm%2FMy%20Avatar.vrm&proxy=1&v=123"),
        ("vrm/a+b.vrm", "vrm/a+b.vrm"),
        ("vrm/a+b.vrm", "vrm/a%2Bb.vrm"),
        ("vrm/a+b.vrm", "vrm/a%252Bb.vrm"),
        ("vrm/100%.vrm", "vrm/100%25.vrm"),
        ("vrm/100%.vrm", "vrm/100%.vrm"),
        ("vrm/舞台.vrm", quote("vrm/舞台.vrm", safe="")),
        ("vrm/舞台.vrm", quote(quote("vrm/舞台.vrm", safe=""), safe="")),
        ("vrm/é.vrm", quote("vrm/e\u0301.vrm", safe="")),
        ("vrm/a&b=c?d#e.vrm", quote("vrm/a&b=c?d#e.vrm", safe="")),
        ("AvatarSample_A.vrm", "AvatarSample_A.vrm"),
        ("fbx/deep/er/walk.bvh", "fbx/deep/er/walk.bvh"),
    ],
)
async def test_keys_as_browsers_spell_them(api: Api, stored: str, asked: str) -> None:
    body = files.BVH if stored.endswith("bvh") else BODY
    await upload(api, stored, body)
    assert (await api.read(url(asked), "alice"))[:2] == (200, body)


@pytest.mark.parametrize(
    "asked",
    [
        "", "vrm/../x.vrm", "vrm/%2e%2e/x.vrm", "vrm/%252e%252e/x.vrm", "vrm/..%5cx.vrm", "vrm/a%00.vrm", "vrm/a%2500.vrm",
        "/vrm/a.vrm", "vrm//a.vrm", "etc/passwd", "butai/00/00", "http://127.0.0.1/vrm/a.vrm", "vrm/%ff.vrm",
        "vrm/a%0d%0aSet-Cookie:x.vrm", "vrm/" + "a" * 10_000 + ".vrm", "AvatarSample_A/../b.vrm", "vrm", "vrm/",
    ],
)  # fmt: skip
async def test_keys_that_cannot_be_are_400(api: Api, asked: str) -> None:
    for user in ("alice", None):
        status, body, _ = await api.read(url(asked), user)
        assert status == 400, body
        assert b"key_invalid" in body


async def test_a_request_without_a_key_is_400(api: Api) -> None:
    assert (await api.read("/api/s3/read-object", "alice"))[0] == 400
    assert (await api.read("/api/s3/read-object?v=1", "alice"))[0] == 400


async def test_trashed_files_are_gone_until_restored(api: Api) -> None:
    data = await upload(api, public=True)
    status, _ = await api.call("DELETE", f"/api/assets/{data['id']}", "alice")
    assert status == 204
    assert (await api.read(data["url"]))[0] == 401
    assert (await api.read(data["url"], "alice"))[0] == 404
    assert await api.items("alice") == []
    assert (await api.call("POST", f"/api/assets/{data['id']}/restore", "alice"))[0] == 200
    assert (await api.read(data["url"]))[:2] == (200, BODY)


async def test_what_the_store_has_lost_is_410_and_never_a_redirect(api: Api, proxy: StoreProxy) -> None:
    data = await upload(api)
    fault = proxy.fault("GET", status=404, code="NoSuchKey")
    status, body, _ = await api.read(data["url"], "alice")
    assert fault.met == 1
    assert status == 410
    assert b"asset_missing" in body


async def test_a_store_that_denies_is_503_and_one_line_in_the_log(
    api: Api, proxy: StoreProxy, capfd: pytest.CaptureFixture[str]
) -> None:
    data = await upload(api)
    fault = proxy.fault("GET", status=403, code="AccessDenied")
    status, body, headers = await api.read(data["url"], "alice")
    assert fault.met == 1
    assert status == 503
    assert b"store_access_denied" in body
    assert headers["retry-after"] == "60"
    out = "".join(capfd.readouterr())
    assert out.count("store.access_denied") == 1
    assert "Traceback" not in out


async def test_a_store_that_breaks_off_breaks_the_connection_off(
    api: Api, proxy: StoreProxy, capfd: pytest.CaptureFixture[str]
) -> None:
    body = files.vrm(1, 3_000_000)
    data = await upload(api, body=body)
    fault = proxy.fault("GET", cut_answer=1_000_000)
    with pytest.raises(Exception, match=r"(?i)payload|disconnect|reset"):
        await api.read(data["url"], "alice")
    assert fault.met == 1
    assert "read.broke_off" in (said := "".join(capfd.readouterr()))
    assert "Traceback" not in said
    proxy.heal()
    assert (await api.read(data["url"], "alice"))[:2] == (200, body)


async def test_with_nginx_before_it_the_api_sends_no_bytes(settings: Settings) -> None:
    accel = replace(settings, http=HttpSettings(read_delivery="accel"))
    async with serving(accel) as api:
        data = await upload(api)
        status, body, headers = await api.read(data["url"], "alice", headers={"Range": "bytes=2-5"})
        assert (status, body) == (200, b"")
        assert headers["x-accel-redirect"].startswith(
            f"/_butai_store/{settings.store.bucket}/{settings.store.prefix}butai/"
        )
        assert headers["x-butai-range"] == "bytes=2-5"
        assert headers["content-type"] == "model/gltf-binary"


async def test_a_reader_who_leaves_is_not_read_for(api: Api, proxy: StoreProxy) -> None:
    body = files.vrm(1, 60 * 1024**2)
    data = await upload(api, body=body)
    before = len(proxy.seen)
    async with api.client.get(api.url + data["url"], headers=api.cookie("alice")) as answer:
        await answer.content.readexactly(100_000)
        answer.close()
    async with asyncio.timeout(60):
        while len(proxy.cut) == 0:
            await asyncio.sleep(0.02)
    assert len(proxy.seen) == before + 1
    assert proxy.cut[-1] < len(body), "the store was read to the end for nobody"
