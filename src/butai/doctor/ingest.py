"""Checks whether encoders reach the ingest at the address that hosts are told. Part of `butai doctor`."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

from butai.config import Settings
from butai.doctor.findings import CHECK_SECONDS, Findings

_PORTS = {"rtmp": 1935, "rtmps": 443}
"""The ports of addresses that name none, as OBS reads them."""
_HELLO = b"\x03" + bytes(1536)
"""C0 and C1 of RTMP's handshake (section 5.2 of its specification)."""


async def examine_ingest(settings: Settings, findings: Findings) -> None:
    """Adds one finding: the ingest answers a handshake, by TLS where its address says so."""
    url = settings.ingest.url
    if not url:
        findings.ok("address", "BUTAI_INGEST_URL is not set: hosts get no keys for encoders")
        return
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    at = f"{host} port {port}"
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            answer = await _greet(host, port, tls=parts.scheme == "rtmps")
    except ssl.SSLCertVerificationError as error:
        findings.broken(
            "connection",
            f"the certificate at {at} is refused: {error.verify_message}",
            "encoders refuse it, too: set BUTAI_INGEST_CERTIFICATE to a chain that is valid for this name",
        )
    except (ssl.SSLError, ConnectionResetError) as error:
        findings.broken(
            "connection",
            f"{at} speaks no TLS: {getattr(error, 'reason', None) or 'it closes the connection'}",
            "set BUTAI_INGEST_CERTIFICATE, or begin BUTAI_INGEST_URL with rtmp://",
        )
    except (OSError, TimeoutError) as error:
        findings.broken(
            "connection",
            f"{at} does not answer: {getattr(error, 'strerror', None) or type(error).__name__}",
            "run butai ingest, and let BUTAI_INGEST_HOST, BUTAI_INGEST_PORT and BUTAI_INGEST_URL lead to each other",
        )
    else:
        if answer == _HELLO[:1]:
            findings.ok("connection", f"{at} answers")
        else:
            findings.broken(
                "connection",
                f"what answers at {at} is no RTMP server",
                "let BUTAI_INGEST_URL lead to butai ingest; with a certificate it begins with rtmps://",
            )


async def _greet(host: str, port: int, *, tls: bool) -> bytes:
    """The first byte of the answer to a handshake; none where the connection is closed. Raises `OSError`."""
    reader, writer = await asyncio.open_connection(host, port, ssl=tls or None)
    try:
        writer.write(_HELLO)
        with suppress(ConnectionError):
            return await reader.read(1)
        return b""
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
