"""Sealed stream keys: encrypted with AES-256-GCM, opened only to publish or to test a destination.

A blob is `version (1 byte), key id (4), subject (16), nonce (12), ciphertext`. Version, key id and subject are
authenticated with the ciphertext, so a blob cannot be moved to another subject. The subject is the destination's id,
which outputs keep together with their copy.

`BUTAI_SECRET_KEY` may hold several keys: the first seals, all open. The key id is a hash of the key, so their order may
change.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from butai.config import LiveSettings
from butai.errors import SecretKeyInvalid

_VERSION = 1
_HEAD = 1 + 4 + 16
_NONCE = 12


class SealBroken(Exception):
    """None of our keys opens the blob. The text names at most the key's id, and no secret."""


@dataclass(frozen=True)
class _Key:
    id: bytes
    cipher: AESGCM = field(repr=False)
    mark: bytes = field(repr=False)


class Sealer:
    """Seals and opens with the keys of `LiveSettings`. Making one raises `SecretKeyInvalid` for malformed keys."""

    def __init__(self, settings: LiveSettings) -> None:
        raws = [_raw(text.strip()) for text in settings.secret_key.get_secret_value().split(",") if text.strip()]
        if not raws and settings.secret_key_file is not None:
            raws = [_raw(_read_or_make(settings.secret_key_file))]
        self._keys = {key.id: key for key in map(_key, raws)}
        self._first = next(iter(self._keys.values()), None)

    @property
    def ready(self) -> bool:
        """Whether there is a key."""
        return self._first is not None

    def seal(self, text: str, subject: UUID) -> bytes:
        """A blob that `open` decrypts. Raises `SecretKeyInvalid` without a key."""
        key = self._sealing()
        head = bytes((_VERSION,)) + key.id + subject.bytes
        nonce = secrets.token_bytes(_NONCE)
        return head + nonce + key.cipher.encrypt(nonce, text.encode(), head)

    def open(self, blob: bytes, subject: UUID | None = None) -> str:
        """The sealed text; must have been sealed for `subject`, if given. Raises `SealBroken`."""
        head, nonce, sealed = blob[:_HEAD], blob[_HEAD : _HEAD + _NONCE], blob[_HEAD + _NONCE :]
        key = self._keys.get(head[1:5])
        if len(head) < _HEAD or head[0] != _VERSION or key is None:
            raise SealBroken(f"no key {head[1:5].hex()}: is BUTAI_SECRET_KEY the one that sealed it?")
        if subject is not None and head[5:] != subject.bytes:
            raise SealBroken("the blob belongs to another subject")
        try:
            return key.cipher.decrypt(nonce, sealed, head).decode()
        except InvalidTag:
            raise SealBroken("the blob was changed") from None

    def fingerprint(self, text: str) -> str:
        """Eight letters by which a stream key is recognised: an HMAC with our own key, so they reveal nothing of it.
        Raises `SecretKeyInvalid` without a key."""
        digest = hmac.new(self._sealing().mark, text.encode(), hashlib.sha256).digest()
        return base64.b32encode(digest[:5]).decode().lower()

    @property
    def newest(self) -> bytes:
        """The id of the sealing key: bytes 1 to 4 of a blob. Raises `SecretKeyInvalid` without a key."""
        return self._sealing().id

    @property
    def rotates(self) -> bool:
        """Whether there are older keys, whose blobs should be sealed again."""
        return len(self._keys) > 1

    def renewed(self, blob: bytes) -> tuple[bytes, str]:
        """The same text sealed with the first key, and its new fingerprint. Raises `SealBroken`."""
        text = self.open(blob)
        return self.seal(text, UUID(bytes=blob[5:_HEAD])), self.fingerprint(text)

    def _sealing(self) -> _Key:
        if self._first is None:
            raise SecretKeyInvalid("No stream key can be stored: set BUTAI_SECRET_KEY or BUTAI_SECRET_KEY_FILE")
        return self._first


def _key(raw: bytes) -> _Key:
    mark = hmac.new(raw, b"butai fingerprint", hashlib.sha256).digest()
    return _Key(hashlib.sha256(b"butai key id" + raw).digest()[:4], AESGCM(raw), mark)


def _raw(text: str) -> bytes:
    """32 bytes from hexadecimal or base64."""
    for decode in (bytes.fromhex, lambda value: base64.b64decode(value + "=" * (-len(value) % 4), b"-_")):
        try:
            raw = decode(text.replace("+", "-").replace("/", "_") if decode is not bytes.fromhex else text)
        except (ValueError, binascii.Error):
            continue
        if len(raw) == 32:
            return raw
    raise SecretKeyInvalid("BUTAI_SECRET_KEY must be 32 bytes, as base64 or hexadecimal (openssl rand -hex 32)")


def _read_or_make(path: Path) -> str:
    """The key in the file, which is created with mode 600 if missing, atomically."""
    try:
        return _read(path) or _make(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise SecretKeyInvalid(f"BUTAI_SECRET_KEY_FILE {path}: {reason}") from None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None


def _make(path: Path) -> str:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            # `link` fails if the file exists, unlike `rename`: of two processes that start at once, both use the first
            # key.
            os.link(temporary, path)
    finally:
        temporary.unlink()
    return path.read_text().strip()
