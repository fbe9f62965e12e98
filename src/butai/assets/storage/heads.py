"""HEAD requests by the thousand. Built by `patrolling`; `looking` asks through it.

obstore makes its requests in Rust: several times the rate of what the library's own `Store` reaches, which is made for
bodies (docs/performance.md).
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
from butai.assets.storage.client import ObjectAbsent, Store
from butai.assets.storage.limits import RateLimit
from butai.config import StoreSettings
from butai.errors import Code, StoreAccessDenied, Unavailable

if TYPE_CHECKING:
    from obstore.store import S3Config

CONCURRENCY = 48
"""HEADs on their way at a time: enough to hide 10 ms to a store of 4,000 a second."""

HEAD_SECONDS = 10
"""How long one HEAD may take, its repetition included."""

IN_VAIN = 100
"""HEADs in a row without a clear answer, after which the rest of a batch is not tried: the store is down."""

NOT_TRIED = HeadAnswer(HeadKind.UNCLEAR, code=Code.NOT_TRIED)


class Heads(Protocol):
    """Where answers come from."""

    async def head(self, key: str) -> HeadAnswer:
        """One answer. Never raises for what a store does."""
        ...

    async def many(self, keys: Sequence[str]) -> list[HeadAnswer]:
        """The answers to `keys`, in their order."""
        ...


class StoreHeads:
    """HEADs of a real store, at most `rate` in a second."""

    def __init__(self, store: Store, rate: float) -> None:
        self._store = store
        self._fast = _fast_store(store.settings)
        self._bucket = RateLimit(rate)

    async def head(self, key: str) -> HeadAnswer:
        """As `Heads` says."""
        await self._bucket.take()
        try:
            facts = await obstore.head_async(self._fast, key)
        except FileNotFoundError:
            return HeadAnswer(HeadKind.ABSENT)
        except (PermissionDeniedError, UnauthenticatedError):
            return HeadAnswer(HeadKind.DENIED)
        except ValueError:
            # A key that obstore has no path for, such as one with two slashes in a row.
            return await self._odd(key)
        except Exception as error:
            # Its errors for all the rest have no common class of their own.
            return HeadAnswer(
                HeadKind.UNCLEAR, code=Code.STORE_TIMEOUT if "timed out" in str(error) else Code.STORE_UNAVAILABLE
            )
        return HeadAnswer(HeadKind.PRESENT, facts["size"], (facts["e_tag"] or "").strip('"'))

    async def _odd(self, key: str) -> HeadAnswer:
        try:
            facts = await self._store.head(key)
        except ObjectAbsent:
            return HeadAnswer(HeadKind.ABSENT)
        except StoreAccessDenied:
            return HeadAnswer(HeadKind.DENIED)
        except Unavailable as error:
            return HeadAnswer(HeadKind.UNCLEAR, code=error.code)
        return HeadAnswer(HeadKind.PRESENT, facts.size, facts.etag)

    async def many(self, keys: Sequence[str]) -> list[HeadAnswer]:
        """As `Heads` says. After `IN_VAIN` unclear answers in a row the rest is `NOT_TRIED`."""
        answers = [NOT_TRIED] * len(keys)
        places = iter(range(len(keys)))
        in_vain = 0

        async def ask() -> None:
            nonlocal in_vain
            for place in places:
                if in_vain >= IN_VAIN:
                    return
                answer = answers[place] = await self.head(keys[place])
                in_vain = in_vain + 1 if answer.kind is HeadKind.UNCLEAR else 0

        await asyncio.gather(*(ask() for _ in range(min(CONCURRENCY, len(keys)))))
        return answers


def _fast_store(settings: StoreSettings) -> S3Store:
    endpoint = settings.endpoint.rstrip("/")
    if not settings.path_style:
        # It takes the host with the bucket's name in it, then.
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
        # By itself it would try for three minutes.
        retry_config={"max_retries": 1, "retry_timeout": timeout},
    )
