"""How a publish fails, in the codes that a host reads; and words of a platform without the key in them."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from urllib.parse import unquote

from butai.errors import Code
from butai.relay.rtmp.session import PublishRefused

TRY_AGAIN = frozenset(
    {
        Code.DESTINATION_UNREACHABLE,
        Code.DESTINATION_CLOSED,
        Code.DESTINATION_STALLED,
        Code.ALREADY_PUBLISHING,
        Code.KEY_REJECTED,
        Code.TLS_FAILED,
    }
)
"""`key_rejected` and `tls_failed` once, which is the caller's to count."""


class PublishError(Exception):
    """A publish that ended. `detail` is for operators and holds no key."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail

    @property
    def retryable(self) -> bool:
        """Whether another try may end otherwise."""
        return self.code in TRY_AGAIN


_WINDOW = 6
"""Letters of a key in a row that are too many to show."""


def redact(text: str, key: str) -> str:
    """What a platform says, on one short line, unless a piece of the key stands in it: it may echo what was sent, in
    letters of another size or with some of them as %41.
    """
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    hidden = key.casefold()
    pieces = {hidden[at : at + _WINDOW] for at in range(max(1, len(hidden) - _WINDOW + 1))}
    forms = (text.casefold(), unquote(text).casefold(), "".join(line.split()).casefold())
    if any(piece in form for form in forms for piece in pieces):
        return "[the platform's words name the key]"
    return line[:300].strip()


def refused(said: PublishRefused, step: str, key: str) -> PublishError:
    """A status word as a code. `step`: of the session."""
    words = f"{said.word} {said.said}".lower()
    detail = f"{redact(said.word, key)}: {redact(said.said, key)}"
    if step == "publishing":
        return PublishError(Code.DESTINATION_CLOSED, detail)
    if "already" in words or "in use" in words or "exclusive" in words:
        return PublishError(Code.ALREADY_PUBLISHING, detail)
    if said.word == "NetConnection.Connect.InvalidApp":
        return PublishError(Code.INVALID_DESTINATION, detail)
    if said.word.startswith("NetConnection.Connect") and not any(word in words for word in _ABOUT_KEYS):
        return PublishError(Code.DESTINATION_UNREACHABLE, detail)
    return PublishError(Code.KEY_REJECTED, detail)


_ABOUT_KEYS = ("auth", "key", "denied", "forbidden", "permission", "credential", "token")


def closed(step: str, acknowledged: bool) -> PublishError:
    """The other side hung up, without a word."""
    if step in ("handshake", "connect"):
        return PublishError(Code.DESTINATION_UNREACHABLE, f"closed during {step}")
    if not acknowledged:
        # Platforms that do not like a key close the connection and say nothing (Twitch's way).
        return PublishError(Code.KEY_REJECTED, "closed at publish, before a byte was acknowledged")
    return PublishError(Code.DESTINATION_CLOSED, "closed in mid-stream")


def from_os(error: BaseException, during: str) -> PublishError:
    """An error of the system while connecting. `during`: `dns`, `tcp`, `tls`, or a session's step."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return PublishError(Code.TLS_FAILED, f"certificate: {error.verify_message}")
    if isinstance(error, ssl.SSLError) or (during == "tls" and isinstance(error, ConnectionError | EOFError)):
        return PublishError(Code.TLS_FAILED, f"TLS handshake: {getattr(error, 'reason', None) or type(error).__name__}")
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return PublishError(Code.DESTINATION_UNREACHABLE, f"no answer in time ({during})")
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        # asyncio writes the address into `strerror`.
        return PublishError(Code.DESTINATION_UNREACHABLE, f"{during}: {os.strerror(error.errno)}")
    reason = getattr(error, "strerror", None) or type(error).__name__
    return PublishError(Code.DESTINATION_UNREACHABLE, f"{during}: {reason}")
