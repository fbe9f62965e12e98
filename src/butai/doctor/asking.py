"""Sends single requests to the store, and returns each answer as it came.

`Store`'s own requests are not used: they are repeated, logged, and turn answers into errors, while here the answer
itself is examined. Addresses and signatures are `Store`'s, so that the checks cover what the service sends.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from butai.assets.storage.client import Store, error_code
from butai.assets.storage.sigv4 import must_sign
from butai.doctor.findings import CHECK_SECONDS

SHOWN = 64 * 1024
"""Most bytes of an answer's body that are read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `status` 0: there was none, and `trouble` is the reason. `skew`: the other clock minus ours in
    seconds, by the answer's Date header; None without one."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    trouble: str = ""
    skew: float | None = None

    @property
    def code(self) -> str:
        """The error code of S3 in the answer's body."""
        return error_code(self.body.decode(errors="replace"))

    @property
    def said(self) -> str:
        """The answer in few words."""
        if not self.status:
            return self.trouble
        return f"{self.status} {self.code}".strip()


def trouble_of(error: BaseException) -> str:
    """The reason why there was no answer, without addresses that carry signatures."""
    if isinstance(error, TimeoutError):
        return f"no answer within {CHECK_SECONDS:.0f} s"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host's name has no address"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "its TLS settings do not fit ours"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or type(error.os_error).__name__
    if isinstance(error, aiohttp.InvalidURL):
        return "this is not an address"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"the connection broke off ({type(error).__name__})"


async def send(
    http: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """Sends one request; never raises for network faults. Redirects are answers, too."""
    timeout = aiohttp.ClientTimeout(total=CHECK_SECONDS)
    try:
        began = time.time()
        async with http.request(
            method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False, timeout=timeout
        ) as answer:
            now = (began + time.time()) / 2
            read = await answer.content.read(SHOWN)
            found = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, read, found, skew=_skew(found.get("date"), now))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return Answer(0, trouble=trouble_of(error))


def _skew(date: str | None, now: float) -> float | None:
    try:
        # A Date has whole seconds: on average, half a second has passed.
        return parsedate_to_datetime(date).timestamp() + 0.5 - now if date else None
    except (ValueError, TypeError, OverflowError):
        return None


class Asking:
    """Signed requests for objects. `public`: to the address that browsers use."""

    def __init__(self, http: aiohttp.ClientSession, store: Store, *, public: bool = False) -> None:
        self._http = http
        self._store = store
        self._public = public

    async def ask(
        self,
        method: str,
        key: str,
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Sends one request for one object; S3's own headers are part of the signature."""
        url = self._store.sign(method, key, query=query, headers=must_sign(headers or {}), public=self._public)
        return await send(self._http, method, url, headers=headers, body=body)

    async def ask_with_wrong_signature(self, key: str) -> Answer:
        """Sends a GET whose signature differs in one letter."""
        url = self._store.sign("GET", key, public=self._public)
        return await send(self._http, "GET", url[:-1] + ("0" if url[-1] != "0" else "1"))

    async def ask_unsigned(self, method: str, key: str, headers: dict[str, str] | None = None) -> Answer:
        """Sends a request without a signature."""
        url = self._store.sign(method, key, public=self._public).partition("?")[0]
        return await send(self._http, method, url, headers=headers)
