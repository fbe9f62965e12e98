"""Sends thousands of HEAD requests.

obstore sends its requests from Rust, at several times the rate of the library's own `Store`, which is made for bodies
(docs/performance.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import obstore
from obstore.exceptions import PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from butai.assets.storage.answers import HeadAnswer, HeadKind
from butai.assets.storage.client import ObjectAbsent, Store, plain_etag
from butai.config import StoreSettings
from butai.errors import Code, StoreAccessDenied, Unavailable
from butai.limits.token_bucket import TokenBucket

if TYPE_CHECKING:
    from obstore.store import S3Config

CONCURRENCY = 48
"""Concurrent HEADs: hides a latency of 10 ms at a store that answers 4,000 a second."""

HEAD_SECONDS = 10
"""Most seconds for one HEAD, its repetition included."""

UNCLEAR_LIMIT = 100
"""Consecutive unclear answers after which the rest of a batch is not tried: the store is down."""

NOT_TRIED = HeadAnswer(HeadKind.UNCLEAR, code=Code.NOT_TRIED)


class Heads(Protocol):
    """A source of answers to HEAD requests."""

    async def head(self, key: str) -> HeadAnswer:
        """Sends a HEAD for one key. Never raises for the store's errors."""
        ...

    async def closely(self, key: str) -> HeadAnswer:
        """As `head`, and tells an archived object from one that can be read. Slower."""
        ...

    async def many(self, keys: Sequence[str]) -> list[HeadAnswer]:
        """Sends HEADs for many keys; returns the answers in their order."""
        ...


class StoreHeads:
    """HEAD requests to a real store, at most `rate` in a second."""

    def __init__(self, store: Store, rate: float) -> None:
        self._store = store
        self._fast = _fast_store(store.settings)
        self._bucket = TokenBucket(rate)

    async def head(self, key: str) -> HeadAnswer:
        """As in `Heads`."""
        await self._bucket.take()
        try:
            facts = await obstore.head_async(self._fast, key)
        except FileNotFoundError:
            return HeadAnswer(HeadKind.ABSENT)
        except (PermissionDeniedError, UnauthenticatedError):
            return HeadAnswer(HeadKind.DENIED)
        except ValueError:
            # obstore has no path for such a key, for example one with two slashes in a row.
            return await self._asked_closely(key)
        except Exception as error:  # noqa: BLE001 - anything else is unclear
            # Its other errors have no common class.
            return HeadAnswer(
                HeadKind.UNCLEAR, code=Code.STORE_TIMEOUT if "timed out" in str(error) else Code.STORE_UNAVAILABLE
            )
        return HeadAnswer(HeadKind.PRESENT, facts["size"], plain_etag(facts["e_tag"]))

    async def closely(self, key: str) -> HeadAnswer:
        """As in `Heads`: obstore hands out no storage class."""
        await self._bucket.take()
        return await self._asked_closely(key)

    async def _asked_closely(self, key: str) -> HeadAnswer:
        try:
            facts = await self._store.head(key)
        except ObjectAbsent:
            return HeadAnswer(HeadKind.ABSENT)
        except StoreAccessDenied:
            return HeadAnswer(HeadKind.DENIED)
        except Unavailable as error:
            return HeadAnswer(HeadKind.UNCLEAR, code=error.code)
        return HeadAnswer(HeadKind.ARCHIVED if facts.archived else HeadKind.PRESENT, facts.size, facts.etag)

    async def many(self, keys: Sequence[str]) -> list[HeadAnswer]:
        """As in `Heads`. After `UNCLEAR_LIMIT` consecutive unclear answers the rest is `NOT_TRIED`."""
        answers = [NOT_TRIED] * len(keys)
        places = iter(range(len(keys)))
        unclear = 0

        async def ask() -> None:
            nonlocal unclear
            for place in places:
                if unclear >= UNCLEAR_LIMIT:
                    return
                answer = answers[place] = await self.head(keys[place])
                unclear = unclear + 1 if answer.kind is HeadKind.UNCLEAR else 0

        await asyncio.gather(*(ask() for _ in range(min(CONCURRENCY, len(keys)))))
        return answers


def _fast_store(settings: StoreSettings) -> S3Store:
    endpoint = settings.endpoint.rstrip("/")
    if not settings.path_style:
        # obstore expects a host with the bucket's name in it, then.
        endpoint = endpoint.replace("://", f"://{settings.bucket}.", 1)
    token = settings.session_token.get_secret_value()
    timeout = timedelta(seconds=HEAD_SECONDS)
    config: S3Config = {
        "endpoint": endpoint,
        "region": settings.region,
        "access_key_id": settings.access_key_id.get_secret_value(),
        "secret_access_key": settings.secret_access_key.get_secret_value(),
        "virtual_hosted_style_request": not settings.path_style,
    }
    if token:
        config["session_token"] = token
    return S3Store(
        settings.bucket,
        config=config,
        client_options={
            "allow_http": True,
            "timeout": timeout,
            "connect_timeout": timedelta(seconds=settings.connect_timeout),
        },
        # By default it tries for three minutes.
        retry_config={"max_retries": 1, "retry_timeout": timeout},
    )
