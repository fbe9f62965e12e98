"""Maps failures of a publish to error codes, and redacts the texts of platforms."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from urllib.parse import unquote, urlsplit

from butai.errors import Code
from butai.relay.rtmp.session import PublishRefused

RETRYABLE = frozenset(
    {
        Code.DESTINATION_UNREACHABLE,
        Code.DESTINATION_CLOSED,
        Code.DESTINATION_STALLED,
        Code.ALREADY_PUBLISHING,
        Code.KEY_REJECTED,
        Code.TLS_FAILED,
    }
)
"""Codes of errors that may be temporary; `key_rejected` and `tls_failed` once, which the caller counts."""


class PublishError(Exception):
    """A failed publish. `code`: the code to show; `detail`: for operators, without the stream key.

    `if_key_worked`: the code to show in its place, if the platform accepted this key before in the same broadcast. A
    connection alone does not tell a wrong key from one that the platform still holds for a session that was cut."""

    def __init__(self, code: Code, detail: str, *, if_key_worked: Code | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail, self.if_key_worked = code, detail, if_key_worked

    @property
    def retryable(self) -> bool:
        """Whether another attempt may succeed."""
        return self.code in RETRYABLE


class Redirected(PublishError):
    """The server names another one instead of itself. `url`: that one's ingest URL, as the server gave it."""

    def __init__(self, url: str, detail: str) -> None:
        super().__init__(Code.REDIRECTED, detail)
        self.url = url


_LONGEST_QUOTE = 6
"""Consecutive characters of a stream key that make a text unfit to show."""


def redact(text: str, key: str) -> str:
    """A platform's text on one line of at most 300 characters; a fixed text if it quotes a piece of the stream key, or of
    what is hidden of the ingest URL, which follows in `key` on lines of its own.

    A platform may echo the key in another case, percent-encoded, or decoded.
    """
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    pieces = {
        hidden[at : at + _LONGEST_QUOTE]
        for hidden in map(str.casefold, _spellings(key))
        for at in range(max(1, len(hidden) - _LONGEST_QUOTE + 1))
    }
    forms = (text.casefold(), unquote(text).casefold(), "".join(line.split()).casefold())
    if any(piece in form for form in forms for piece in pieces):
        return "[the platform's text contains the key]"
    return line[:300].strip()


def _spellings(key: str) -> set[str]:
    """Each line of the key as it is, and without its percent-encoding."""
    return {spelling for line in key.split("\n") if line for spelling in (line, unquote(line))}


def refused(refusal: PublishRefused, step: str, key: str, *, acknowledged: bool = True) -> PublishError:
    """The error of a status message. `step`: of the session; `acknowledged`: media were, where it is `publishing`."""
    words = f"{refusal.status} {_without(refusal.description, key)}".lower()
    detail = f"{redact(refusal.status, key)}: {redact(refusal.description, key)}"
    names_key = _NAMES_KEY.search(words) is not None
    if step == "publishing" and (acknowledged or refusal.redirect):
        return PublishError(Code.DESTINATION_CLOSED, detail)
    if refusal.redirect:
        return Redirected(refusal.redirect, f"{redact(refusal.status, key)}: to {_host(refusal.redirect, key)}")
    if any(word in words for word in _LOGIN):
        return PublishError(Code.LOGIN_REQUIRED, detail)
    if _IN_USE.search(_PAST.sub("", words)):
        return PublishError(Code.ALREADY_PUBLISHING, detail)
    if refusal.status == "NetConnection.Connect.InvalidApp" or (
        step == "connect" and not names_key and _NO_APPLICATION.search(words)
    ):
        # A server that starts again may answer before it has its applications.
        return PublishError(Code.INVALID_DESTINATION, detail, if_key_worked=Code.DESTINATION_CLOSED)
    if refusal.status in _GOES_AWAY or (step == "connect" and refusal.status == "close"):
        return PublishError(Code.DESTINATION_CLOSED, detail)
    if step == "connect" and not names_key and "denied" not in words:
        # The key was not sent yet.
        return PublishError(Code.DESTINATION_UNREACHABLE, detail)
    if names_key:
        return PublishError(Code.KEY_REJECTED, detail)
    held = refusal.status.endswith(_OF_NAMES)
    otherwise = Code.ALREADY_PUBLISHING if held else Code.DESTINATION_CLOSED
    return PublishError(Code.KEY_REJECTED, detail, if_key_worked=otherwise)


def _without(text: str, key: str) -> str:
    """A platform's text without the stream key, whose letters are no words of the platform."""
    for secret in sorted(_spellings(key), key=len, reverse=True):
        text = re.sub(re.escape(secret), "", text, flags=re.IGNORECASE)
    return text


def _host(url: str, key: str) -> str:
    """The host of a URL as it may be shown: the rest may be a secret of its own."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    return redact(host or "another server", key)


_LOGIN = ("authmod=", "need auth", "needauth")
"""Adobe's way to ask for a user name and a password, of Wowza, Dacast, Akamai and others."""
_IN_USE = re.compile(
    r"already|in use|exclusive|duplicate|(?<!not )being published|occupied|stream ?busy"
    r"|(?<!no )(?<!no such )(?:stream|name|publisher) exists"
)
_PAST = re.compile(r"already (?:been )?(?:expired|revoked|disabled|suspended|banned|deleted)")
"""What may have happened to a key, and says nothing of another session."""
_NAMES_KEY = re.compile(
    r"(?<!licen[sc]e )(?<!licen[sc]e-)key(?!.?(?:frame|int))|auth(?!or(?!i))|forbidden|permission|credential|token|password"
    r"|(?:stream|publish(?:er|ing)?|access|account|channel) (?:has |is |was |been )*(?:expired|revoked|disabled|suspended|banned)"
)
"""Words with which a platform says that the key itself is wrong."""
_NO_APPLICATION = re.compile(
    r"\bapp(?:lication)?\b.*(?:not (?:defined|found|exist|available|configured)|n't exist|unknown|invalid)"
    r"|(?:no such|unknown|invalid|undefined) app(?:lication)?\b"
)
"""What Adobe's servers and those like them say beside `Connect.Rejected`, where others say `Connect.InvalidApp`."""
_GOES_AWAY = ("NetConnection.Connect.Closed", "NetConnection.Connect.AppShutdown")
_OF_NAMES = (".BadName", ".Denied")
"""Codes with which servers refuse a name that another session has, with or without a description."""


def closed(step: str, *, acknowledged: bool) -> PublishError:
    """The error of a connection that the platform closed without a status message."""
    if step in ("handshake", "connect"):
        return PublishError(Code.DESTINATION_CLOSED, f"closed during {step}")
    if not acknowledged:
        # Some platforms refuse a key by closing the connection (Twitch).
        detail = "closed at publish, before a byte was acknowledged"
        return PublishError(Code.KEY_REJECTED, detail, if_key_worked=Code.DESTINATION_CLOSED)
    return PublishError(Code.DESTINATION_CLOSED, "closed in mid-stream")


def from_os(error: BaseException, during: str) -> PublishError:
    """The error of a failed system call. `during`: `dns`, `tcp`, `tls`, or a step of the session."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return PublishError(Code.TLS_FAILED, f"certificate: {error.verify_message}")
    if isinstance(error, ssl.SSLError) or (during == "tls" and isinstance(error, ConnectionError | EOFError)):
        return PublishError(Code.TLS_FAILED, f"TLS handshake: {getattr(error, 'reason', None) or type(error).__name__}")
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return PublishError(Code.DESTINATION_UNREACHABLE, f"no answer in time ({during})")
    if during in ("handshake", "connect", "publish") and isinstance(error, ConnectionError):
        return closed(during, acknowledged=False)
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        # asyncio writes the address into `strerror`.
        return PublishError(Code.DESTINATION_UNREACHABLE, f"{during}: {os.strerror(error.errno)}")
    reason = getattr(error, "strerror", None) or type(error).__name__
    return PublishError(Code.DESTINATION_UNREACHABLE, f"{during}: {reason}")
