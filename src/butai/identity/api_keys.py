"""API keys for programs and for operators.

A key is `butai_<id>_<secret>`: 16 hex digits that name the row, 64 that prove it. `butai apikey` makes, lists and
revokes keys.

Only the SHA-256 of the secret is kept. A slow hash protects passwords, which can be guessed; 256 random bits cannot
be, and every request would pay for a slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog
from cachetools import TTLCache
from sqlalchemy import LargeBinary, Text, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, mapped_column

from butai import audit
from butai.audit import Origin, actors
from butai.database import Connection, Database, Model
from butai.errors import DatabaseUnavailable, InvalidRequest, NotFound, Unauthenticated
from butai.identity.caller import chosen_user_id
from butai.identity.origins import Headers
from butai.identity.suspensions import check_not_suspended

log = structlog.get_logger(__name__)

SCOPES = ("user", "operator")
"""`user`: act as the key's user. `operator`: the same, and act on what belongs to other users."""

TOKEN_PREFIX = b"butai_"

CACHE_SECONDS = 10.0
"""Seconds for which a row is used without reading it again; so a revoked key can work for 10 seconds more."""

CACHE_KEYS = 4096
"""Rows kept in memory, about 0.5 kB each; the least recently used go first."""

COMMAND_LINE = Origin(actor=actors.COMMAND_LINE)
"""The default origin of keys that are made and revoked: the command line."""

_TOKEN = re.compile(rb"butai_([0-9a-f]{16})_([0-9a-f]{64})")


def api_key_of(headers: Headers) -> bytes | None:
    """The API key of raw ASGI headers, as `Identity` looks for it; None without one. It may be none that is known."""
    found = None
    for name, value in headers:
        if name == b"authorization":
            token = value.strip().partition(b" ")[2].strip()
            return token if token.startswith(TOKEN_PREFIX) else None
        if name == b"x-api-key":
            found = value.strip()
    return found


class ApiKey(Model):
    """One key; only the hash of its secret is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary)
    user_id: Mapped[str] = mapped_column()
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    name: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_used_at: Mapped[datetime | None] = mapped_column()
    revoked_at: Mapped[datetime | None] = mapped_column()


@dataclass(slots=True)
class StoredKey:
    """What a request needs to know of a key. `unnoted`: `last_used_at` is older than a minute, and has to be
    written."""

    id: str
    secret_hash: bytes = field(repr=False)
    user_id: str
    scopes: frozenset[str]
    revoked: bool
    unnoted: bool


async def create_api_key(
    database: Database, user_id: str, scopes: Collection[str], name: str = "", *, origin: Origin = COMMAND_LINE
) -> tuple[ApiKey, str]:
    """Creates a key; the answer is its row and its token. The token is in no table and no log: this is the only copy.

    Raises `InvalidRequest` for an unknown scope, none at all, or a user id that cannot be one; `UserSuspended`.
    """
    unknown = set(scopes) - set(SCOPES)
    if unknown or not scopes:
        raise InvalidRequest(f"Scopes are one or both of {', '.join(SCOPES)}")
    chosen_user_id(user_id)
    if not (len(name) <= 255 and name.isprintable()):
        raise InvalidRequest("A name is at most 255 printable characters")
    key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    key = ApiKey(
        id=key_id,
        secret_hash=hashlib.sha256(secret.encode()).digest(),
        user_id=user_id,
        scopes=sorted(set(scopes)),
        name=name,
    )
    detail = {"user_id": user_id, "scopes": key.scopes, "name": name}
    async with database.transaction() as session:
        await check_not_suspended(session, user_id)
        session.add(key)
        audit.record(session, origin, "api_key.create", f"api_key:{key_id}", detail=detail)
    return key, f"butai_{key_id}_{secret}"


async def revoke_api_key(database: Database, key_id: str, *, origin: Origin = COMMAND_LINE) -> ApiKey:
    """Revokes a key, within `CACHE_SECONDS` in all processes. Idempotent. Raises `NotFound`."""
    async with database.transaction() as session:
        key = await session.scalar(select(ApiKey).where(ApiKey.id == key_id).with_for_update())
        if key is None:
            raise NotFound("No such API key")
        if key.revoked_at is None:
            key.revoked_at = await session.scalar(select(func.now()))
            audit.record(session, origin, "api_key.revoke", f"api_key:{key_id}")
    return key


async def list_api_keys(database: Database, user_id: str | None = None) -> Sequence[ApiKey]:
    """All keys, or one user's, including revoked ones; newest first."""
    query = select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id)
    if user_id is not None:
        query = query.where(ApiKey.user_id == user_id)
    async with database.transaction() as session:
        return (await session.scalars(query)).all()


class ApiKeys:
    """Checks keys for one process. Rows are cached for `CACHE_SECONDS`, so most requests need no query."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._known: TTLCache[str, StoredKey] = TTLCache(CACHE_KEYS, CACHE_SECONDS, clock)

    async def check(self, token: bytes) -> StoredKey:
        """The key that `token` proves. Raises `Unauthenticated`, or `DatabaseUnavailable`."""
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            raise Unauthenticated("The API key cannot be read")
        key = await self._find(parts[1].decode())
        secret_hash = hashlib.sha256(parts[2]).digest()
        if key is None or not hmac.compare_digest(secret_hash, key.secret_hash):
            raise Unauthenticated("There is no such API key")
        if key.revoked:
            raise Unauthenticated("The API key was revoked")
        if key.unnoted:
            key.unnoted = False
            await self._note_use(key.id)
        return key

    async def _find(self, key_id: str) -> StoredKey | None:
        if key := self._known.get(key_id):
            return key

        async def find(connection: Connection) -> tuple[Any, ...] | None:
            return await (await connection.execute(_FIND, (key_id,))).fetchone()

        row = await self._database.query(find)
        if row is None:
            self._known.pop(key_id, None)
            return None
        if key := self._known.get(key_id):
            return key  # another request read it at the same time, and notes the use
        secret_hash, user_id, scopes, revoked, unnoted = row
        key = StoredKey(key_id, bytes(secret_hash), user_id, frozenset(scopes), revoked, unnoted)
        self._known[key_id] = key
        return key

    async def _note_use(self, key_id: str) -> None:
        """Writes `last_used_at`. A failure is logged only: it is no reason to refuse a caller."""
        try:
            async with self._database.transaction() as session:
                await session.execute(_NOTE_USE, {"id": key_id})
        except (DatabaseUnavailable, SQLAlchemyError) as error:
            log.warning("api_key.use_not_noted", key_id=key_id, error=type(error).__name__)


_FIND = """
    SELECT secret_hash, user_id, scopes, revoked_at IS NOT NULL,
           coalesce(last_used_at < now() - interval '1 minute', true)
    FROM api_keys WHERE id = %s
"""

# Compares with the last minute again: another process may have written it first.
_NOTE_USE = text(
    """
    UPDATE api_keys SET last_used_at = now()
    WHERE id = :id AND coalesce(last_used_at < now() - interval '1 minute', true)
    """
)
