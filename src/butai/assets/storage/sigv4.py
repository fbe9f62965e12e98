"""AWS Signature Version 4, for requests that carry their signature in the query.

Pure. The code is our own because obstore signs neither headers nor sub-resources (a multipart upload's `uploadId`), and
boto3 takes twenty times as long.

Source: AWS, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote, urlsplit

UNSIGNED = "UNSIGNED-PAYLOAD"


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """An access key and its secret. Without a repr, so that it cannot slip into a log."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""


@lru_cache(maxsize=16)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = ("AWS4" + secret).encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def must_sign(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of the headers that S3 refuses unless they are part of the signature: its own."""
    return {name: value for name, value in headers.items() if name.startswith("x-amz-")}


def presign(
    method: str,
    url: str,
    credentials: Credentials,
    region: str,
    *,
    expires: int,
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    now: datetime | None = None,
) -> str:
    """Returns the URL with its signature. `url` has no query and a percent-encoded path; `expires` is in seconds.

    `query`: parameters to sign with it (`{"uploadId": …, "partNumber": …}`, `response-…`). `headers`: headers that
    the client must send with exactly these values (`{"content-type": …}`), beside Host.
    """
    parts = urlsplit(url)
    now = now or datetime.now(UTC)
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    day = stamp[:8]
    scope = f"{day}/{region}/s3/aws4_request"
    signed = {"host": parts.netloc, **{name.lower(): value.strip() for name, value in (headers or {}).items()}}
    names = ";".join(sorted(signed))
    parameters = {
        **(query or {}),
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{credentials.access_key_id}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(expires),
        "X-Amz-SignedHeaders": names,
    }
    if credentials.session_token:
        parameters["X-Amz-Security-Token"] = credentials.session_token
    encoded = "&".join(
        f"{name}={value}"
        for name, value in sorted((quote(name, safe=""), quote(value, safe="")) for name, value in parameters.items())
    )
    canonical = "\n".join(
        (
            method,
            parts.path or "/",
            encoded,
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            UNSIGNED,
        )
    )
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = _signing_key(credentials.secret_access_key, day, region)
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{encoded}&X-Amz-Signature={signature}"


def encode_path(key: str) -> str:
    """Encodes an object key for the path of a URL: all but unreserved characters and slashes (RFC 3986, 2.3)."""
    return quote(key, safe="/-_.~")
