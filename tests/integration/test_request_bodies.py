"""Bodies of requests: who calls is asked before the first byte, and the bytes have to come in time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from butai.api import document
from butai.config import Settings
from butai.web import bodies
from tests.conftest import Api, serving

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


async def drip(writer: asyncio.StreamWriter, seconds: float) -> None:
    while not writer.is_closing():
        writer.write(b" ")
        await asyncio.sleep(seconds)


@pytest.mark.usefixtures("hurried")
async def test_the_time_of_a_small_body_does_not_begin_anew_with_each_byte(settings: Settings) -> None:
    async with serving(settings) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
        head = "POST /api/live/watch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\nConnection: close\r\n"
        writer.write((head + "Content-Type: application/json\r\n\r\n{").encode())
        dripping = asyncio.create_task(drip(writer, 0.05))
        try:
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        finally:
            dripping.cancel()
            writer.close()
