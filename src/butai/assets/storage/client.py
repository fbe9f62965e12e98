"""Client of the object store: any S3, over aiohttp and our own signatures.

A client library is not used: after a crash a multipart upload can only be aborted by its id, which obstore keeps to
itself; its 416 and its denied requests come as one error whose text would have to be parsed; and boto3 costs an order
of magnitude more. The rest is plain HTTP. No method lists: the service does not have the right to.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

import aiohttp
import structlog
from yarl import URL

from butai.assets.storage import sigv4
from butai.config import StoreSettings
from butai.errors import StoreAccessDenied, StoreTimeout, StoreUnavailable

log = structlog.get_logger(__name__)

TRIES = 3
"""Tries of a repeatable request: enough for one dropped connection and one throttled answer."""

SLICE = 256 * 1024
"""Bytes written to the socket at a time: a whole part at once would be copied into the transport's buffer."""

SLOWEST = 256 * 1024
"""Least bytes per second that a store must accept, averaged over a part; a slower part fails with `StoreTimeout`."""


class Payload(Protocol):
    """Bytes that can be sent, and sent again: a part of an upload, or `BytesPayload`."""

    def __len__(self) -> int: ...

    def read(self, start: int, length: int) -> bytes | memoryview:
        """Returns at most `length` bytes from `start`; fewer only at the end."""
        ...


class BytesPayload:
    """Bytes in memory as a payload."""

    def __init__(self, body: bytes) -> None:
        self._body = memoryview(body)

    def __len__(self) -> int:
        return len(self._body)

    def read(self, start: int, length: int) -> memoryview:
        """Returns a view, not a copy."""
        return self._body[start : start + length]


class ObjectAbsent(Exception):
    """The store answered 404. Not an API error: its meaning depends on the caller."""


class RangeRefused(Exception):
    """The store answered 416: the object is shorter than the index says."""


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """The headers of an object. `size` in bytes; `etag` as `plain_etag` has it.

    `archived`: the store has the bytes and does not hand them out; `coding`: in which they are packed, empty for none.
    """

    size: int
    etag: str
    content_type: str = ""
    archived: bool = False
    coding: str = ""


def plain_etag(header: str | None) -> str:
    """An ETag without its quotes; `W/` stays before a weak one, and none is empty (RFC 9110, 8.8.3)."""
    value = (header or "").strip()
    weak = value.startswith("W/")
    plain = value.removeprefix("W/").strip('"')
    return f"W/{plain}" if weak and plain else plain


_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects have to be restored before they can be read (AWS, "Restoring an archived object")."""


def _facts(headers: Mapping[str, str]) -> ObjectFacts:
    archived = headers.get("x-amz-storage-class", "").upper() in _ARCHIVES or bool(headers.get("x-amz-archive-status"))
    # A restored copy can be read until it expires; the object stays in its class.
    restored = 'ongoing-request="false"' in headers.get("x-amz-restore", "")
    codings = [one.strip().lower() for one in headers.get("Content-Encoding", "").split(",")]
    return ObjectFacts(
        int(headers.get("Content-Length", "0")),
        plain_etag(headers.get("ETag")),
        headers.get("Content-Type", ""),
        archived and not restored,
        # The chunks of an upload's signature, which some stores leave in the header, are not in the object.
        ",".join(one for one in codings if one not in ("", "identity", "aws-chunked")),
    )


class ObjectBody:
    """The body of a GET. Iterate once, within the block of `Store.open`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.length = int(response.headers.get("Content-Length", "0"))
        self.etag = plain_etag(response.headers.get("ETag"))

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yields the bytes as they come. Raises `StoreUnavailable`, `StoreTimeout`."""
        with _StoreErrors("get"):
            async for chunk in self._response.content.iter_any():
                yield chunk


class _StoreErrors:
    """Turns aiohttp's errors into `StoreUnavailable` and `StoreTimeout`, with one log line each."""

    def __init__(self, operation: str) -> None:
        self.operation = operation

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, (TimeoutError, aiohttp.ServerTimeoutError)):
            log.warning("store.timeout", operation=self.operation)
            raise StoreTimeout from error
        if isinstance(error, (aiohttp.ClientError, OSError)):
            log.warning("store.unavailable", operation=self.operation, error=type(error).__name__)
            raise StoreUnavailable from error


class Store:
    """Client of one bucket. An async context manager; requests share one pool of connections."""

    def __init__(self, settings: StoreSettings) -> None:
        if not settings.endpoint:
            raise ValueError("BUTAI_S3_ENDPOINT is not set")
        self.settings = settings
        self.prefix = settings.prefix
        self._credentials = sigv4.Credentials(
            settings.access_key_id.get_secret_value(),
            settings.secret_access_key.get_secret_value(),
            settings.session_token.get_secret_value(),
        )
        self._base = self._bucket_url(settings.endpoint)
        self._public_base = self._bucket_url(settings.public_endpoint or settings.endpoint)
        self._session: aiohttp.ClientSession | None = None

    def _bucket_url(self, endpoint: str) -> str:
        endpoint = endpoint.rstrip("/")
        if self.settings.path_style:
            return f"{endpoint}/{self.settings.bucket}/"
        parts = urlsplit(endpoint)
        return f"{parts.scheme}://{self.settings.bucket}.{parts.netloc}{parts.path}/"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            # Bodies are limited by the client's speed, not by a count of connections.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
            read_bufsize=SLICE,
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    # Addresses

    def sign(
        self,
        method: str,
        key: str,
        *,
        expires: int = 300,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        public: bool = False,
    ) -> str:
        """Signs a URL for one object; with `public`, at the address that browsers use. `expires` is in seconds."""
        base = self._public_base if public else self._base
        return sigv4.presign(
            method,
            base + sigv4.encode_path(key),
            self._credentials,
            self.settings.region,
            expires=expires,
            query=query,
            headers=headers,
        )

    async def request(
        self,
        http: aiohttp.ClientSession,
        method: str,
        key: str,
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: AsyncIterator[bytes | memoryview] | None = None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """Sends one signed request over `http` and returns the answer as it comes, whatever its status, to be closed.

        Raises aiohttp's errors.
        """
        url = self.sign(method, key, query=query, headers=sigv4.must_sign(headers or {}))
        return await http.request(
            method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False, timeout=timeout
        )

    # Single requests

    async def head(self, key: str) -> ObjectFacts:
        """HEAD of one object. Raises `ObjectAbsent`, `StoreAccessDenied` (which on AWS also stands for an absent key),
        `StoreUnavailable`, `StoreTimeout`."""
        async with self._request("HEAD", key) as response:
            return _facts(response.headers)

    async def read(self, key: str, start: int, length: int) -> bytes:
        """Reads at most `length` bytes from `start`; fewer when the object ends. Raises as `head` does, and
        `RangeRefused`."""
        headers = {"Range": f"bytes={start}-{start + length - 1}"}
        async with self._request("GET", key, send_headers=headers) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk[: length - len(body)]
                if len(body) == length:
                    break
            return bytes(body)

    @asynccontextmanager
    async def open(self, key: str, range_header: str | None = None) -> AsyncGenerator[ObjectBody]:
        """Opens one object's body, or one range of it (`bytes=0-99`). Raises as `read` does."""
        headers = {"Range": range_header} if range_header else {}
        async with self._request("GET", key, send_headers=headers) as response:
            yield ObjectBody(response)

    async def put(self, key: str, body: Payload, content_type: str) -> str:
        """Writes one object whole; returns its ETag. Raises as `head` does."""
        headers = {"Content-Type": content_type}
        async with self._request("PUT", key, send_headers=headers, body=body) as response:
            return plain_etag(response.headers.get("ETag"))

    async def copy(self, source: str, key: str) -> None:
        """Copies one object within the bucket, at most 5 GiB (S3's own limit). Raises as `head` does."""
        headers = {"x-amz-copy-source": f"/{self.settings.bucket}/{sigv4.encode_path(source)}"}
        async with self._request("PUT", key, send_headers=headers) as response:
            text = await response.text()
        # As with the joining of parts, a 200 may carry an error (AWS, CopyObject).
        if "<Error>" in text:
            raise StoreUnavailable(f"The store could not copy: {error_code(text) or 'unknown'}")

    async def delete(self, key: str) -> None:
        """Removes one object. Idempotent."""
        try:
            async with self._request("DELETE", key):
                pass
        except ObjectAbsent:
            pass

    async def ready(self) -> bool:
        """Returns whether the store answers within two seconds. A refusal counts as an answer: the key of the request
        need not exist."""
        if self._session is None:
            return False
        try:
            timeout = aiohttp.ClientTimeout(total=2)
            answer = await self.request(self._session, "HEAD", f"{self.prefix}butai/ready", timeout=timeout)
            async with answer:
                return answer.status < 500
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    # Multipart uploads

    async def create_multipart(self, key: str, content_type: str) -> str:
        """Begins a multipart upload; returns its id. Never repeated: each repetition would begin another one."""
        headers = {"Content-Type": content_type}
        async with self._request("POST", key, query={"uploads": ""}, send_headers=headers, tries=1) as response:
            match = re.search(r"<UploadId>([^<]+)</UploadId>", await response.text())
        if match is None:
            raise StoreUnavailable("The store returned no upload id")
        return match[1]

    async def upload_part(self, key: str, upload_id: str, number: int, body: Payload) -> str:
        """Sends part `number` (from 1; all but the last have at least 5 MiB); returns its ETag."""
        query = {"partNumber": str(number), "uploadId": upload_id}
        async with self._request("PUT", key, query=query, body=body) as response:
            return response.headers.get("ETag", "")

    async def complete_multipart(self, key: str, upload_id: str, sent: Sequence[tuple[int, str]]) -> str:
        """Joins the parts (number and ETag, numbers ascending) to the object; returns its ETag.

        Idempotent: an upload that was joined before, but whose answer was lost, is found by HEAD.
        """
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>" for number, etag in sent
        )
        body = BytesPayload(f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode())
        headers = {"Content-Type": "application/xml"}
        try:
            async with self._request(
                "POST", key, query={"uploadId": upload_id}, send_headers=headers, body=body
            ) as answer:
                text = await answer.text()
        except ObjectAbsent:
            return (await self.head(key)).etag
        # S3 may answer 200 and put the error into the body (AWS, CompleteMultipartUpload).
        if "<Error>" in text:
            raise StoreUnavailable(f"The store could not join the parts: {error_code(text) or 'unknown'}")
        match = re.search(r"<ETag>([^<]+)</ETag>", text)
        quoted = match[1].replace("&#34;", '"').replace("&quot;", '"') if match else ""
        return plain_etag(quoted) or (await self.head(key)).etag

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """Removes the parts of an unfinished multipart upload. Idempotent."""
        try:
            async with self._request("DELETE", key, query={"uploadId": upload_id}):
                pass
        except ObjectAbsent:
            pass

    # Requests

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        key: str,
        *,
        query: dict[str, str] | None = None,
        send_headers: dict[str, str] | None = None,
        body: Payload | None = None,
        tries: int = TRIES,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Sends one request; the connection returns to the pool when the block ends."""
        operation = f"{method.lower()}{'' if not query else ' ' + next(iter(query))}"
        response = await self._send(
            operation, method, key, query=query, headers=send_headers or {}, body=body, tries=tries
        )
        with _StoreErrors(operation):
            async with response:
                yield response

    async def _send(
        self,
        operation: str,
        method: str,
        key: str,
        *,
        query: dict[str, str] | None,
        headers: dict[str, str],
        body: Payload | None,
        tries: int,
    ) -> aiohttp.ClientResponse:
        """Sends a request, up to `tries` times while the store is unavailable; bodies are in memory and can be sent
        again.

        A time-out is not repeated: the caller has waited long enough. Raises the error that the last answer means.
        """
        if self._session is None:
            raise RuntimeError("the store is not open")
        timeout = aiohttp.ClientTimeout(
            total=None if body is None else self.settings.read_timeout + len(body) / SLOWEST,
            sock_connect=self.settings.connect_timeout,
            sock_read=self.settings.read_timeout,
        )
        if body is not None:
            headers = {**headers, "Content-Length": str(len(body))}
        failure: Exception = StoreUnavailable()
        for attempt in range(tries):
            if attempt:
                await asyncio.sleep(random.uniform(0.1, 0.2) * 2**attempt)  # noqa: S311 - spreads load, keeps no secret
            try:
                with _StoreErrors(operation):
                    response = await self.request(
                        self._session,
                        method,
                        key,
                        query=query,
                        headers=headers,
                        body=None if body is None else _slices(body),
                        timeout=timeout,
                    )
                    if response.status < 300:
                        return response
                    async with response:
                        failure = await _refusal(operation, response)
            except StoreUnavailable as error:
                failure = error
            if not isinstance(failure, StoreUnavailable):
                break
        raise failure


async def _slices(body: Payload) -> AsyncIterator[bytes | memoryview]:
    for start in range(0, len(body), SLICE):
        yield body.read(start, SLICE)


def error_code(text: str) -> str:
    """S3's word for what went wrong, from the XML of an answer; empty when there is none."""
    match = re.search(r"<Code>([A-Za-z0-9]{1,64})</Code>", text)
    return match[1] if match else ""


async def _refusal(operation: str, response: aiohttp.ClientResponse) -> Exception:
    """Returns the error that a refusal means. A HEAD has no body with the reason."""
    code = error_code((await response.content.read(4096)).decode(errors="replace")) or "unknown"
    if response.status == 404:
        return ObjectAbsent()
    if response.status == 416:
        return RangeRefused()
    if response.status in (401, 403):
        # One line, no traceback: an operator has to change a permission, not to read code.
        log.error("store.access_denied", operation=operation, status=response.status, store_code=code)
        return StoreAccessDenied()
    log.warning("store.refused", operation=operation, status=response.status, store_code=code)
    if response.status in (408, 504):
        return StoreTimeout()
    return StoreUnavailable()
