"""Answers reads: conditions and ranges, headers, and the body, streamed here or left to nginx.

`prepare` decides the answer from the row and the request's headers, before the store is called. `Delivery.send` writes
it as plain ASGI messages: a framework's response object would cost a copy for each chunk.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import structlog
from starlette.types import Receive, Scope, Send

from butai.assets.reading.lookup import ReadableAsset
from butai.assets.storage.client import ObjectAbsent, RangeRefused, Store
from butai.config import HttpSettings
from butai.errors import AssetMissing, BrokenOff, RangeNotSatisfiable, StoreTimeout, StoreUnavailable

log = structlog.get_logger(__name__)

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)
_ETAG_LIST = re.compile(r'(?:W/)?"[^"]*"')


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """An answer before its body. `length` is the body's, in bytes; `span` the first and last byte, both included, or
    None for the whole file."""

    status: Literal[200, 206, 304]
    headers: dict[str, str]
    length: int
    span: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """The request headers that decide an answer, by lower-case name."""

    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, scope: Scope) -> Conditions:
        """Takes them from an ASGI scope."""
        wanted = (b"range", b"if-range", b"if-none-match")
        return cls({name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in wanted})


def prepare(row: ReadableAsset, conditions: Conditions, *, download: bool = False) -> ReadPlan:
    """Decides the answer for a ready row. Raises `RangeNotSatisfiable`.

    RFC 9110: If-None-Match before Range (13.2.2), If-Range compares strongly (13.1.5), several ranges may be answered
    with the whole (14.2).
    """
    size = row.size_bytes or 0
    etag = _quoted(row.etag)
    headers = {
        # Next.js's rewrites and some CDNs would compress it, and the length, the ranges and the ETag would be another file's.
        "cache-control": f"{_cache_control(row)}, no-transform",
        "vary": "Origin" if row.for_all else "Origin, Cookie, Authorization",
        "cross-origin-resource-policy": "cross-origin" if row.public else "same-site",
    }
    if etag:
        headers["etag"] = etag
    given = conditions.headers
    if "if-none-match" in given and _matches(given["if-none-match"], etag):
        return ReadPlan(304, headers, 0)
    headers |= {
        "content-type": row.mime_type,
        "content-disposition": content_disposition(row, download=download),
        "accept-ranges": "bytes",
    }
    span = None
    # A weak ETag never stands for the same bytes (13.1.5).
    unchanged = "if-range" not in given or (given["if-range"] == etag and not etag.startswith("W/"))
    if "range" in given and unchanged:
        span = _span(given["range"], size)
    if span is None:
        return ReadPlan(200, headers, size)
    headers["content-range"] = f"bytes {span[0]}-{span[1]}/{size}"
    return ReadPlan(206, headers, span[1] - span[0] + 1, span)


def _quoted(etag: str | None) -> str:
    """The header for an ETag as `plain_etag` has it; empty for a store that gives none."""
    if not etag:
        return ""
    return f'W/"{etag[2:]}"' if etag.startswith("W/") else f'"{etag}"'


def _cache_control(row: ReadableAsset) -> str:
    """Applies the rules of the studio contract. A thumbnail is written again under the same name, so no cache may keep it; a
    key that means one's own file to each caller is kept by no shared cache."""
    if row.sidecar == "thumb":
        return "no-store"
    # Pictures too: the address stays when the bytes change.
    return "public, max-age=3600" if row.for_all else "private, no-cache"


def _matches(condition: str, etag: str) -> bool:
    if condition.strip() == "*":
        return True
    plain = etag.removeprefix("W/")
    return bool(plain) and any(one.removeprefix("W/") == plain for one in _ETAG_LIST.findall(condition))


def _span(header: str, size: int) -> tuple[int, int] | None:
    """Parses a range into first and last byte; None when the header is to be ignored. Raises `RangeNotSatisfiable`."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        return None  # several ranges, another unit, or not a range at all: the whole file
    if not match[1]:
        length = min(int(match[2]), size)
        if length == 0:
            raise RangeNotSatisfiable
        return size - length, size - 1
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None
    if first >= size:
        raise RangeNotSatisfiable
    return first, last


def content_disposition(row: ReadableAsset, *, download: bool = False) -> str:
    """Returns the header by RFC 6266: the name in Unicode (RFC 8187), and a plain one for old clients."""
    name = row.wanted_key.rpartition("/")[2]
    plain = re.sub(r'[^\x20-\x7e]|["\\%;]', "_", name)
    kind = "attachment" if download else "inline"
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """Sends bodies: streamed, or left to nginx by `X-Accel-Redirect`."""

    store: Store
    settings: HttpSettings

    async def send(self, row: ReadableAsset, plan: ReadPlan, scope: Scope, send: Send, receive: Receive) -> None:
        """Writes the whole answer. Raises `AssetMissing` and the store's errors only before its first byte. When the
        store fails later, raises `BrokenOff`: the connection is cut, so that a client never takes half a file for a
        whole one."""
        if scope["method"] == "HEAD" or plan.status == 304:
            await _start(send, plan, plan.length if plan.status != 304 else None)
            await send({"type": "http.response.body", "body": b""})
        elif self.settings.read_delivery == "accel":
            await self._leave_to_nginx(row, plan, send)
        else:
            await self._stream(row, plan, send, receive)

    async def _leave_to_nginx(self, row: ReadableAsset, plan: ReadPlan, send: Send) -> None:
        assert row.object_key is not None
        # Valid for a minute only: nginx uses it at once, and its error log shows the whole URL.
        url = urlsplit(self.store.sign("GET", row.object_key, expires=60))
        headers = plan.headers | {
            "x-accel-redirect": f"{self.settings.accel_prefix.rstrip('/')}{url.path}?{url.query}",
            # nginx must request the range that was decided here, not the client's: see docs/nginx.conf.
            "x-butai-range": f"bytes={plan.span[0]}-{plan.span[1]}" if plan.span else "",
        }
        headers.pop("content-range", None)
        for name in ("cache-control", "content-disposition"):
            # nginx would put these on the store's errors, too.
            headers[f"x-butai-{name}"] = headers.pop(name)
        await _start(send, ReadPlan(200, headers, 0), 0)
        await send({"type": "http.response.body", "body": b""})

    async def _stream(self, row: ReadableAsset, plan: ReadPlan, send: Send, receive: Receive) -> None:
        assert row.object_key is not None
        wanted = f"bytes={plan.span[0]}-{plan.span[1]}" if plan.span else None
        try:
            async with self.store.open(row.object_key, wanted) as body:
                if body.length != plan.length:
                    # The object is not the one in the index: better no answer than a wrong one.
                    log.error("read.size_differs", asset_id=str(row.id), index=plan.length, store=body.length)
                    raise AssetMissing("The store's file differs from the index")
                await _start(send, plan, plan.length)
                # uvicorn accepts chunks for a disconnected client, too: the store would be read to its end in vain.
                gone = asyncio.create_task(_disconnected(receive))
                try:
                    async for chunk in body.chunks():
                        if gone.done():
                            return
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                except (StoreUnavailable, StoreTimeout) as error:
                    log.error("read.broke_off", asset_id=str(row.id), error_code=error.code)
                    raise BrokenOff from error
                finally:
                    gone.cancel()
        except (ObjectAbsent, RangeRefused) as error:
            log.error("read.object_missing", asset_id=str(row.id))
            raise AssetMissing from error
        await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Send, plan: ReadPlan, length: int | None) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in plan.headers.items()]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    message: dict[str, Any] = {"type": "http.response.start", "status": plan.status, "headers": headers}
    await send(message)
