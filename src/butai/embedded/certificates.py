"""Makes the certificates by which the parts of one embedded server authenticate each other (mutual TLS).

One certificate is server and client at once. The key of the authority that signs it is not stored: no other certificate
can be signed by it, so only a holder of this certificate's key is accepted.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_VALID_DAYS = 3650
_RENEW_AFTER = 365 * 86400.0
"""Seconds. Certificates are renewed at a start after a year, long before they end; a server runs for less than ten
years."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM: the authority, and the certificate with its key."""

    authority: Path
    certificate: Path
    key: Path


def certificates(folder: Path) -> Certificates:
    """Returns the certificates of `folder`. Makes the folder (0700) and the files (0600) when they are missing or a
    year old."""
    found = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    try:
        age = time.time() - min(path.stat().st_mtime for path in (found.authority, found.certificate, found.key))
    except FileNotFoundError:
        age = float("inf")
    if not 0 <= age < _RENEW_AFTER:
        _make(folder, found)
    return found


def _make(folder: Path, files: Certificates) -> None:
    # Loaded only when needed: it takes longer than all other imports of a start.
    import ipaddress
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def begun(subject: str, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        # The certificates must stay valid if a clock that was ahead is set back.
        since = datetime.now(UTC) - timedelta(days=30)
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("butai store authority"))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(since + timedelta(days=_VALID_DAYS))
        )

    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = (
        begun("butai store authority", authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        begun("butai store", key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(usage, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(files.authority, authority.public_bytes(serialization.Encoding.PEM))
    _write(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    _write(files.key, key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))


def _write(path: Path, body: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(body)
