"""Secrets that could be recognised anywhere, and a look for them in whatever came out."""

from __future__ import annotations

import base64
from urllib.parse import quote


def spellings(secret: str) -> set[bytes]:
    """A secret as it may stand in an output: plain, in a URL, in JSON, in base64, in hexadecimal."""
    raw = secret.encode()
    found = {
        raw,
        quote(secret).encode(),
        quote(secret, safe="").encode(),
        raw.hex().encode(),
        raw.hex().upper().encode(),
    }
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        # Without its ends: those depend on what stands beside it.
        found |= {encode(b"x" * shift + raw)[4:-4] for shift in range(3)}
    return found


def leaks(secrets: dict[str, str], outputs: dict[str, bytes]) -> list[str]:
    """Which secret stands in which output."""
    return [
        f"{name} in {place}, after {output[: output.index(spelling)][-200:]!r}"
        for name, secret in secrets.items()
        for spelling in spellings(secret)
        for place, output in outputs.items()
        if spelling in output
    ]
