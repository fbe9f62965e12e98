"""Bodies of requests: who calls is asked before the first byte, and the bytes have to come in time."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from butai.api import document
from butai.assets.uploads import multipart_form
from butai.config import Settings
from butai.web import bodies
from tests import files
from tests.conftest import Api, serving
from tests.live_api import SECRET
from tests.slow_clients import drip
from tests.webhooks import sign

PROVED_BY_THE_BODY = {"watch", "sign_in"}
"""Operations whose caller proves with the body itself that it may ask: an invitation, a code."""


def with_bodies() -> Iterator[tuple[str, str, str, list[str]]]:
    """Each operation with a body: its id, method and path, and the headers that it requires."""
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            if "requestBody" in operation:
                filled = re.sub(r"\{(\w*_id)\}", "0190aaaa-0000-7000-8000-000000000000", path)
                headers = [
                    f"{one['name']}: {one['example']}"
                    for one in operation.get("parameters", ())
                    if one["in"] == "header" and one["required"]
                ]
                kind = next(iter(operation["requestBody"]["content"]))
                yield (
                    operation["operationId"],
                    method.upper(),
                    filled,
                    [*headers, f"Content-Type: {kind}; boundary=f" if "form" in kind else f"Content-Type: {kind}"],
                )


async def heard(api: Api, method: str, path: str, headers: list[str], body: bytes = b"") -> bytes:
    """What the service says to a request of which no more than `body` ever comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 100", "Connection: close", *headers]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_an_unknown_caller_is_told_so_before_any_byte_of_the_body(api: Api) -> None:
    """With the limit of time as it is: 408 would come after ten seconds, and is no answer to this."""
    operations = list(with_bodies())
    assert len(operations) >= 18
    asked = [one for one in operations if one[0] not in PROVED_BY_THE_BODY]
    assert len(operations) - len(asked) == len(PROVED_BY_THE_BODY)
    said = await asyncio.gather(*(heard(api, method, path, headers) for _, method, path, headers in asked))
    status = {name: answer[9:12] for (name, *_), answer in zip(asked, said, strict=True)}
    assert status == dict.fromkeys(status, b"401")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.5)


@pytest.mark.usefixtures("hurried")
async def test_a_small_body_that_does_not_end_in_time_is_408(settings: Settings) -> None:
    """Of a caller who may send one. Forms, tus and LiveKit's webhooks have tests of their own."""
    elsewhere = {"upload_file", "create_upload", "continue_upload", "webhook"}
    settings = replace(settings, identity=settings.identity.model_copy(update={"operators": ("operator",)}))
    async with serving(settings) as api:
        own = [f"{name}: {value}" for name, value in api.cookie("operator").items()]
        asked = [one for one in with_bodies() if one[0] not in elsewhere]
        said = await asyncio.gather(
            *(heard(api, method, path, [*headers, *own], b"{") for _, method, path, headers in asked)
        )
    found = {
        name: (answer[9:12], b'"request_timeout"' in answer) for (name, *_), answer in zip(asked, said, strict=True)
    }
    assert found == dict.fromkeys(found, (b"408", True))


async def heard_while_dripping(api: Api, head: list[str], begin: bytes) -> bytes:
    """What the service says to a body that begins with `begin` and goes on in single bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
    lines = [head[0], "Host: 127.0.0.1", "Connection: close", *head[1:], "", ""]
    writer.write("\r\n".join(lines).encode() + begin)
    dripping = asyncio.create_task(drip(writer))
    try:
        return await reader.readuntil(b"}")
    finally:
        dripping.cancel()
        writer.close()


@pytest.mark.usefixtures("hurried")
async def test_the_time_of_a_small_body_does_not_begin_anew_with_each_byte(settings: Settings) -> None:
    async with serving(settings) as api:
        head = ["POST /api/live/watch HTTP/1.1", "Content-Length: 100000", "Content-Type: application/json"]
        said = await heard_while_dripping(api, head, b"{")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in said


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("signed", [True, False])
async def test_a_webhook_that_does_not_end_in_time_is_408_and_one_that_is_not_signed_401(
    live_settings: Settings, signed: bool
) -> None:
    async with serving(live_settings) as api:
        head = ["POST /api/live/webhook HTTP/1.1", "Content-Length: 1000", "Content-Type: application/webhook+json"]
        said = await heard_while_dripping(
            api, head + [f"Authorization: {sign(b'{}', 'devkey', SECRET)}"] * signed, b"{"
        )
    assert said.startswith(b"HTTP/1.1 408 " if signed else b"HTTP/1.1 401 ")


FIELDS = b'--f\r\nContent-Disposition: form-data; name="fileName"\r\n\r\nvrm/a.vrm\r\n'
KIND = b'--f\r\nContent-Disposition: form-data; name="fileType"\r\n\r\nmodel/vrm\r\n'
FILE = b'--f\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("limit", "begin"),
    [
        ("FIELD_SECONDS", FIELDS[:-10]),
        ("FIELD_SECONDS", FIELDS + KIND + FILE + files.vrm(1, 300) + b"\r\n--f\r\n"),
        ("SLOW_SECONDS", FIELDS + KIND + FILE + b"glTF"),
    ],
    ids=["fields before the file", "fields after the file", "the file"],
)
async def test_a_form_that_comes_too_slowly_is_408(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, limit: str, begin: bytes
) -> None:
    monkeypatch.setattr(multipart_form, limit, 0.5)
    async with serving(settings) as api:
        head = ["POST /api/s3/upload HTTP/1.1", "Content-Length: 1000000", f"Cookie: {api.cookie('alice')['Cookie']}"]
        said = await heard_while_dripping(api, [*head, "Content-Type: multipart/form-data; boundary=f"], begin)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in said


async def test_a_piece_of_a_resumable_upload_that_comes_too_slowly_is_408_and_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart_form, "SLOW_SECONDS", 0.5)
    tus = {"Tus-Resumable": "1.0.0"}
    name = base64.b64encode(b"vrm/a.vrm").decode()
    async with serving(settings) as api:
        begin = api.cookie("alice") | tus | {"Upload-Length": "1000000", "Upload-Metadata": f"filename {name}"}
        async with api.client.post(f"{api.url}/api/assets/uploads", headers=begin) as answer:
            assert answer.status == 201
            path = answer.headers["Location"]
        head = [f"PATCH {path} HTTP/1.1", "Content-Length: 1000000", f"Cookie: {api.cookie('alice')['Cookie']}"]
        head += ["Tus-Resumable: 1.0.0", "Upload-Offset: 0", "Content-Type: application/offset+octet-stream"]
        said = await heard_while_dripping(api, head, b"glTF")
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b'"request_timeout"' in said
        async with api.client.head(api.url + path, headers=api.cookie("alice") | tus) as answer:
            assert int(answer.headers["Upload-Offset"]) >= 4


@pytest.mark.parametrize("each", [0.01, 1, 29])
def test_a_body_at_the_least_rate_goes_on_and_one_below_it_ends_within_a_minute_or_two(each: float) -> None:
    def lasts(rate: float) -> float:
        """Seconds until a client is cut off that sends what it has at `rate` each time, two hours at most."""
        left, seconds = multipart_form.SLOW_SECONDS, 0.0
        while each < left and seconds < 7200:
            left = multipart_form.seconds_left(left, each, int(each * rate))
            seconds += each
        return seconds + left

    assert lasts(multipart_form.SLOWEST * 1.1) > 7200
    assert lasts(1 / 29) <= multipart_form.SLOW_SECONDS + 1
    assert lasts(multipart_form.SLOWEST / 2) <= 2 * multipart_form.SLOW_SECONDS + 30
    # A fast beginning buys no more than the minute.
    assert multipart_form.seconds_left(multipart_form.SLOW_SECONDS, 0, 10**9) == multipart_form.SLOW_SECONDS
