"""Lists the bucket itself (ListObjectsV2), for `butai import --list` with an identity that may. No other module lists.

Source: AWS, "ListObjectsV2".
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator

import aiohttp

from butai.assets.imports.listing_formats import ListedObject, ListingError, moment, to_import
from butai.assets.storage.client import Store
from butai.errors import Code

PAGE_SECONDS = 60.0
"""Most seconds for one page of ListObjectsV2; AWS answers in well under a second, small stores in a few."""

PAGE_TRIES = 4


class ListingDenied(ListingError):
    """The store does not let this identity list."""


_CONTENTS = re.compile(r"<Contents>(.*?)</Contents>", re.DOTALL)
_ENTITY = re.compile(r"&(?:#(\d+)|#x([0-9a-fA-F]+)|(amp|lt|gt|quot|apos));")
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}

HOW_ELSE = (
    "provide a listing instead (--listing FILE: an S3 Inventory report, `aws s3 ls --recursive`, `rclone lsjson -R` or a CSV, "
    "made with an identity that may list), or run this once with credentials that may"
)


class BucketListing:
    """The bucket's own listing, page by page. `prefix`: only keys that begin with it."""

    def __init__(self, store: Store, prefix: str = "") -> None:
        self._store = store
        self._prefix = prefix

    async def batches(self, size: int) -> AsyncIterator[list[ListedObject]]:
        """As in `Listing`. Raises `ListingDenied`."""
        token: str | None = None
        async with aiohttp.ClientSession() as http:
            while True:
                page = await _page(http, self._store, self._prefix, token)
                listed = [_from_xml(text) for text in _CONTENTS.findall(page)]
                for start in range(0, len(listed), size):
                    yield listed[start : start + size]
                token = _field(page, "NextContinuationToken") if _field(page, "IsTruncated") == "true" else None
                if not token:
                    return

    def progress(self) -> tuple[int, int | None]:
        """As in `Listing`: the bucket's size is not known beforehand."""
        return 0, None


async def may_list(store: Store) -> bool:
    """Whether the store's identity may list its bucket. Raises `ListingError` when the answer does not show it."""
    async with aiohttp.ClientSession() as http:
        try:
            await _page(http, store, store.prefix, None, most=1, tries=1)
        except ListingDenied:
            return False
    return True


async def _page(
    http: aiohttp.ClientSession,
    store: Store,
    prefix: str,
    token: str | None,
    most: int = 1000,
    tries: int = PAGE_TRIES,
) -> str:
    """One page's XML. Without `encoding-type`: some stores encode keys without saying so, others say so without
    encoding."""
    query = {"list-type": "2", "max-keys": str(most), "prefix": prefix}
    if token:
        query["continuation-token"] = token
    failure = ""
    for attempt in range(tries):
        if attempt:
            await asyncio.sleep(0.25 * 2**attempt)
        try:
            timeout = aiohttp.ClientTimeout(total=PAGE_SECONDS, sock_connect=store.settings.connect_timeout)
            async with await store.request(http, "GET", "", query=query, timeout=timeout) as answer:
                text = (await answer.read()).decode(errors="replace")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            failure = f"the store does not answer ({type(error).__name__})"
            continue
        if answer.status == 200:
            return text
        code = _field(text, "Code") or "no reason given"
        if answer.status in (401, 403):
            raise ListingDenied(f"the store does not let this identity list its bucket ({code}): {HOW_ELSE}")
        failure = f"the store cannot list the bucket: {answer.status}, {code}"
        if answer.status < 500:
            break
    raise ListingError(failure)


def _field(xml: str, name: str) -> str | None:
    match = re.search(f"<{name}>(.*?)</{name}>", xml, re.DOTALL)
    return None if match is None else _unescape(match[1])


def _unescape(text: str) -> str:
    """The text with XML's entities resolved. No XML parser: a key may hold characters that XML forbids, and AWS writes
    them unescaped."""

    def character(match: re.Match[str]) -> str:
        if match[3]:
            return _NAMED[match[3]]
        number = int(match[1]) if match[1] else int(match[2], 16)
        return chr(number) if number <= sys.maxunicode else "\ufffd"

    return _ENTITY.sub(character, text)


def _from_xml(text: str) -> ListedObject:
    key = _field(text, "Key")
    if key is None:
        return ListedObject(text[:1000], problem=Code.UNREADABLE)
    return to_import(key, moment(_field(text, "LastModified")), _field(text, "StorageClass"))
