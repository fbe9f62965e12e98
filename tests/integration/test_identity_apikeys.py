"""API keys against a real Postgres."""

from __future__ import annotations

import asyncio
import hashlib
import traceback
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import text
from structlog.testing import capture_logs

from butai.config import DatabaseSettings, IdentitySettings
from butai.database import Database
from butai.errors import DatabaseUnavailable, InvalidRequest, NotFound, Unauthenticated
from butai.identity import Caller, Identity
from butai.identity.api_keys import ApiKeys, create_api_key, list_api_keys, revoke_api_key
from tests.clock import Clock
from tests.examples import examples

SETTINGS = IdentitySettings(nextauth_secret=SecretStr(""), auth_secret=SecretStr(""))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The fresh database without the store that the shared fixture of this name brings along."""
    async with Database(DatabaseSettings(url=SecretStr(database_url))) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(database: Database, clock: Clock) -> ApiKeys:
    return ApiKeys(database, clock)


@pytest.fixture
def identity(keys: ApiKeys) -> Identity:
    return Identity(SETTINGS, api_keys=keys)


async def make(database: Database, user: str = "aoi", *scopes: str, name: str = "") -> tuple[str, str]:
    key, token = await create_api_key(database, user, scopes or ("user",), name)
    return key.id, token


async def ask(identity: Identity, token: str) -> Caller:
    return await identity.identify([(b"authorization", b"Bearer " + token.encode())])


async def refused(identity: Identity, token: str) -> str:
    with pytest.raises(Unauthenticated) as error:
        await ask(identity, token)
    return error.value.detail


async def rows(database: Database, query: str) -> list[Any]:
    async with database.transaction() as session:
        return [tuple(row) for row in await session.execute(text(query))]


async def last_used(database: Database) -> datetime | None:
    return (await rows(database, "SELECT last_used_at FROM api_keys"))[0][0]


async def test_a_key_is_believed_in_both_headers(database: Database, identity: Identity) -> None:
    _, token = await make(database, "aoi", "user")
    expected = Caller("aoi", "api_key", frozenset({"user"}))
    assert await ask(identity, token) == expected
    assert await identity.identify([(b"x-api-key", token.encode())]) == expected
    assert await identity.identify([(b"authorization", b"bearer  " + token.encode() + b" ")]) == expected


async def test_an_operator_key_makes_an_operator(database: Database, identity: Identity) -> None:
    for scopes in (("operator", "user"), ("operator",)):
        _, token = await make(database, "ops", *scopes)
        caller = await ask(identity, token)
        assert caller.is_operator and caller.scopes == {"user", "operator"} and not caller.by_cookie


async def test_only_a_hash_of_256_random_bits_is_kept(database: Database) -> None:
    (key_id, token), (_, other) = await make(database), await make(database)
    prefix, middle, secret = token.split("_")
    assert (prefix, middle, len(secret)) == ("butai", key_id, 64)
    assert secret != other.split("_")[2]
    stored = await rows(database, f"SELECT secret_hash FROM api_keys WHERE id = '{key_id}'")
    assert bytes(stored[0][0]) == hashlib.sha256(secret.encode()).digest()
    everything = await rows(database, "SELECT a::text, (SELECT string_agg(u::text, '') FROM audit u) FROM api_keys a")
    assert secret not in repr(everything)


async def test_making_and_revoking_are_in_the_audit_trail(database: Database) -> None:
    key_id, _ = await make(database, "aoi", "user", name="laptop")
    for _ in range(2):
        await revoke_api_key(database, key_id)
    entries = await rows(database, "SELECT actor, action, subject, result, detail FROM audit ORDER BY id")
    detail = {"user_id": "aoi", "scopes": ["user"], "name": "laptop"}
    assert entries == [
        ("service:cli", "api_key.create", f"api_key:{key_id}", "ok", detail),
        ("service:cli", "api_key.revoke", f"api_key:{key_id}", "ok", {}),
    ]


async def test_a_revoked_key_is_refused_ten_seconds_later_at_most(
    database: Database, identity: Identity, clock: Clock
) -> None:
    key_id, token = await make(database)
    assert (await ask(identity, token)).user_id == "aoi"
    first = (await revoke_api_key(database, key_id)).revoked_at
    assert (await revoke_api_key(database, key_id)).revoked_at == first is not None
    clock.now += 9.9
    assert (await ask(identity, token)).user_id == "aoi"
    clock.now += 0.1
    assert "revoked" in await refused(identity, token)
    assert "revoked" in await refused(Identity(SETTINGS, api_keys=ApiKeys(database)), token)


async def test_a_wrong_secret_or_an_unknown_id_is_refused_in_the_same_words(
    database: Database, identity: Identity
) -> None:
    key_id, token = await make(database)
    _, other = await make(database)
    mixed = f"butai_{key_id}_{other.split('_')[2]}"
    unknown = f"butai_{'0' * 16}_{token.split('_')[2]}"
    changed = token[:-1] + ("0" if token[-1] != "0" else "1")
    assert {await refused(identity, bad) for bad in (mixed, unknown, changed)} == {"There is no such API key"}
    assert (await ask(identity, token)).user_id == "aoi"
    assert "no such" in await refused(identity, mixed)  # also when the row is in memory


async def test_a_key_of_another_shape_never_reaches_the_database(database: Database) -> None:
    await database.reads.close()
    identity = Identity(SETTINGS, api_keys=ApiKeys(database))
    good = f"butai_{'a' * 16}_{'b' * 64}"
    for bad in (
        good[:-1],
        good + "c",
        good.upper(),
        good[6:],
        "butai_",
        "butai__",
        good.replace("a_", "é_"),
        good + "\0",
    ):
        with pytest.raises(Unauthenticated, match="cannot be read"):
            await identity.identify([(b"x-api-key", bad.encode())])
    assert "cannot be read" in await refused(identity, good[:-1])
    with pytest.raises(DatabaseUnavailable):
        await ask(identity, good)


@examples(
    ci=100, deep=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.binary(max_size=120) | st.from_regex(rb"butai_[0-9a-f]{15,17}_[0-9a-f]{63,65}", fullmatch=True))
async def test_whatever_comes_as_a_key_is_unauthenticated(identity: Identity, token: bytes) -> None:
    for headers in ([(b"x-api-key", token)], [(b"authorization", b"Bearer butai_" + token)]):
        with capture_logs(), pytest.raises(Unauthenticated):
            await identity.identify(headers)


async def test_keys_can_be_switched_off() -> None:
    assert "set up" in await refused(Identity(SETTINGS), f"butai_{'a' * 16}_{'b' * 64}")


async def test_use_is_written_down_once_a_minute(database: Database, keys: ApiKeys, clock: Clock) -> None:
    _, token = await make(database)
    assert await last_used(database) is None
    await asyncio.gather(*(keys.check(token.encode()) for _ in range(20)))
    first = await last_used(database)
    assert first is not None
    assert not any(key.unnoted for key in keys._known.values())
    for _ in range(5):  # the row is read again, and says that its use is written down
        clock.now += 11
        await keys.check(token.encode())
    assert await last_used(database) == first
    await rows_changed(database, "UPDATE api_keys SET last_used_at = now() - interval '61 seconds'")
    clock.now += 11
    await keys.check(token.encode())
    again = await last_used(database)
    assert again is not None and again >= first


async def test_two_processes_write_down_one_use(database: Database, keys: ApiKeys) -> None:
    key_id, token = await make(database)
    other = ApiKeys(database)
    assert await keys._find(key_id) and await other._find(key_id)
    await keys.check(token.encode())
    first = await last_used(database)
    await other.check(token.encode())
    assert await last_used(database) == first is not None


async def test_a_refused_secret_is_no_use_of_the_key(database: Database, keys: ApiKeys) -> None:
    key_id, _ = await make(database)
    with pytest.raises(Unauthenticated):
        await keys.check(f"butai_{key_id}_{'0' * 64}".encode())
    assert await last_used(database) is None


async def test_a_caller_is_let_in_though_the_use_cannot_be_written_down(
    database: Database, keys: ApiKeys, as_owner: Callable[[str], None]
) -> None:
    _, token = await make(database)
    as_owner("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'read only'; END $$")
    as_owner("CREATE TRIGGER no BEFORE UPDATE ON api_keys EXECUTE FUNCTION no()")
    with capture_logs() as logs:
        assert (await keys.check(token.encode())).user_id == "aoi"
    assert [line["event"] for line in logs] == ["api_key.use_not_noted"]


async def test_a_known_key_works_while_postgres_is_away_and_an_unknown_one_is_unavailable(
    database: Database, identity: Identity, clock: Clock
) -> None:
    _, token = await make(database)
    _, other = await make(database)
    assert (await ask(identity, token)).user_id == "aoi"
    await database.reads.close()
    assert (await ask(identity, token)).user_id == "aoi"
    with pytest.raises(DatabaseUnavailable):
        await ask(identity, other)
    clock.now += 10
    with pytest.raises(DatabaseUnavailable):
        await ask(identity, token)


async def test_the_memory_for_keys_is_bounded(database: Database, monkeypatch: Any) -> None:
    monkeypatch.setattr("butai.identity.api_keys.CACHE_KEYS", 2)
    keys = ApiKeys(database)
    for _ in range(4):
        await keys.check((await make(database))[1].encode())
    assert len(keys._known) == 2


async def test_lists_are_newest_first_and_can_be_one_users(database: Database) -> None:
    made = [(await make(database, user))[0] for user in ("aoi", "ren", "aoi")]
    assert [key.id for key in await list_api_keys(database)] == made[::-1]
    assert [key.id for key in await list_api_keys(database, "aoi")] == [made[2], made[0]]
    assert await list_api_keys(database, "nobody") == []


@pytest.mark.parametrize(
    ("user", "scopes", "name"),
    [
        ("", ["user"], ""),
        ("a\0", ["user"], ""),
        ("x" * 256, ["user"], ""),
        ("aoi", [], ""),
        ("aoi", ["root"], ""),
        ("aoi", ["user", "root"], ""),
        ("aoi", ["user"], "a\nb"),
        ("aoi", ["user"], "x" * 256),
    ],
)
async def test_a_key_that_makes_no_sense_is_not_made(
    database: Database, user: str, scopes: list[str], name: str
) -> None:
    with pytest.raises(InvalidRequest):
        await create_api_key(database, user, scopes, name)
    assert await rows(database, "SELECT id FROM api_keys") == []


async def test_revoking_a_key_that_is_not_there_says_so(database: Database) -> None:
    with pytest.raises(NotFound):
        await revoke_api_key(database, "0" * 16)


async def test_no_key_shows_up_in_logs_errors_or_reprs(database: Database, identity: Identity, keys: ApiKeys) -> None:
    key_id, token = await make(database)
    secret = token.split("_")[2]
    shown: list[str] = []
    with capture_logs() as logs:
        await ask(identity, token)
        shown.append(repr(await list_api_keys(database)))
        await revoke_api_key(database, key_id)
        for bad in (token + "0", f"butai_{'0' * 16}_{secret}"):
            with pytest.raises(Unauthenticated) as error:
                await ask(identity, bad)
            shown += [repr(error.value), *traceback.format_exception(error.value)]
    digest = hashlib.sha256(secret.encode()).digest()
    shown += [repr(logs), repr(vars(keys)), repr(vars(identity))]
    for canary in (secret, digest.hex(), repr(digest)[2:-1]):
        assert canary not in "\n".join(shown)


async def rows_changed(database: Database, *statements: str) -> None:
    async with database.transaction() as session:
        for statement in statements:
            await session.execute(text(statement))
