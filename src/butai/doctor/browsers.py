"""Checks whether browsers can send files straight to the store: signed URLs and CORS. Part of `butai doctor`.

A studio's page has another origin than the store, so the store must allow it (CORS). Uploads through the API
need none of this.
"""

from __future__ import annotations

import ipaddress
import secrets
from urllib.parse import urlsplit

import aiohttp

from butai.assets.storage.client import Store
from butai.config import Settings
from butai.doctor.asking import Asking
from butai.doctor.findings import Findings
from butai.identity.development import is_loopback
from butai.identity.origins import normal_origin

BODY = b"butai doctor was here"


async def examine_browsers(settings: Settings, findings: Findings) -> None:
    """Adds findings, but none where the store is not configured, which another area reports."""
    of = settings.store
    address = of.public_endpoint or of.endpoint
    if not (of.endpoint and of.bucket and of.access_key_id.get_secret_value()):
        return
    if of.public_endpoint and normal_origin(of.public_endpoint) is None:
        findings.broken(
            "address", f"BUTAI_S3_PUBLIC_ENDPOINT is {of.public_endpoint}", "begin it with https:// (or http://)"
        )
        return
    _address(settings, address, findings)
    async with aiohttp.ClientSession() as http:
        asking = Asking(http, Store(of), public=True)
        if await _signed_urls(asking, of.prefix, address, findings):
            await _origins(settings, asking, of.prefix, address, findings)


def _address(settings: Settings, address: str, findings: Findings) -> None:
    """Checks whether other machines can use the address at all."""
    page = urlsplit(settings.http.public_url)
    serves_others = not is_here(settings.http.host) or (page.hostname is not None and not is_here(page.hostname))
    if serves_others and is_here(urlsplit(address).hostname or ""):
        findings.warn(
            "address",
            f"browsers are sent to {address}, which only this machine can reach",
            "export BUTAI_S3_PUBLIC_ENDPOINT=https://… as browsers reach the store, if pages upload straight to it",
        )
    elif page.scheme == "https" and urlsplit(address).scheme == "http":
        findings.warn(
            "address",
            f"a page of {settings.http.public_url} may not send to {address}: browsers refuse http from https",
            "export BUTAI_S3_PUBLIC_ENDPOINT=https://…",
        )
    else:
        findings.ok("address", address)


def is_here(host: str) -> bool:
    """Whether a host's name or address is this machine alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return is_loopback(host)


async def _signed_urls(asking: Asking, prefix: str, address: str, findings: Findings) -> bool:
    key = f"{prefix}butai/doctor/{secrets.token_hex(8)}-signed"
    try:
        put = await asking.ask("PUT", key, headers={"Content-Length": str(len(BODY))}, body=BODY)
        got = await asking.ask("GET", key)
    finally:
        removed = await asking.ask("DELETE", key)
    good = put.status == 200 and got.status == 200 and got.body == BODY
    if good:
        findings.ok("signed URLs", f"a file went up and came back by way of {address}")
    else:
        failed = got if put.status == 200 else put
        same = "" if failed.status else ": check BUTAI_S3_PUBLIC_ENDPOINT"
        advice = (
            "the store must see the Host header that was signed: a proxy in front of it has to pass it on unchanged"
            if failed.code == "SignatureDoesNotMatch"
            else f"see the findings about the store{same}"
        )
        findings.broken("signed URLs", f"{address} answers {failed.said}", advice)
    if good and removed.status not in (200, 204, 404):
        findings.broken(
            "signed URLs", f"{key} stayed in the bucket: {removed.said}", "remove it; see the store's delete"
        )
    return put.status != 0


async def _origins(settings: Settings, asking: Asking, prefix: str, address: str, findings: Findings) -> None:
    named = [*settings.http.cors_origins, *([settings.http.public_url] if settings.http.public_url else [])]
    if not named:
        findings.warn(
            "CORS",
            "not checked: no page's origin is configured",
            "export BUTAI_PUBLIC_URL=https://studio.example, or BUTAI_CORS_ORIGINS='[\"https://studio.example\"]'",
        )
        return
    for origin in dict.fromkeys(normal_origin(text) for text in named):
        # The settings take nothing without an origin.
        if origin is not None and origin != normal_origin(address):
            await _preflight(asking, prefix, origin, findings)


async def _preflight(asking: Asking, prefix: str, origin: str, findings: Findings) -> None:
    answer = await asking.ask_unsigned(
        "OPTIONS",
        f"{prefix}butai/doctor/cors",
        {"Origin": origin, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"},
    )
    allowed = answer.headers.get("access-control-allow-origin", "")
    methods = {name.strip().upper() for name in answer.headers.get("access-control-allow-methods", "").split(",")}
    heads = {name.strip().lower() for name in answer.headers.get("access-control-allow-headers", "").split(",")}
    lacks = [
        what
        for what, there in (
            ("the origin", allowed in ("*", origin)),
            ("PUT", bool(methods & {"PUT", "*"})),
            ("content-type", bool(heads & {"content-type", "*"})),
        )
        if not there
    ]
    if answer.status in (200, 204) and not lacks:
        findings.ok("CORS", f"pages of {origin} may send files straight to the store")
    else:
        why = answer.said if answer.status not in (200, 204) else f"its answer lacks {', '.join(lacks)}"
        findings.warn(
            "CORS",
            f"pages of {origin} cannot send files straight to the store: {why}",
            f"add a CORS rule to the bucket: AllowedOrigin {origin}, AllowedMethod PUT, AllowedHeader *, ExposeHeader ETag",
        )
