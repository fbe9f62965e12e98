"""Bearer tokens against a real HTTP issuer on loopback (a fake one: `fakes/oidc_issuer.py`)."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import traceback
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from butai.config import IdentitySettings
from butai.errors import Unauthenticated, Unavailable
from butai.identity import Caller, Identity
from butai.identity.bearer import BearerTokens
from butai.identity.jwt import ALGORITHMS, MAX_DOCUMENT_BYTES
from tests.clock import Clock
from tests.examples import examples
from tests.fakes.oidc_issuer import AUDIENCE, OidcIssuer, SigningKey, b64, hmac_token


@pytest.fixture
async def issuer() -> AsyncIterator[OidcIssuer]:
    async with OidcIssuer() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def identity(issuer: OidcIssuer, http: aiohttp.ClientSession) -> AsyncIterator[Identity]:
    identity = Identity(settings(issuer), http=http)
    yield identity
    await identity.close()


def settings(issuer: OidcIssuer, **more: Any) -> IdentitySettings:
    values: dict[str, Any] = {"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE, **more}
    return IdentitySettings(**values)


async def ask(identity: Identity, token: str) -> Caller:
    return await identity.identify([(b"authorization", b"Bearer " + token.encode())])


async def refused(identity: Identity, token: str) -> str:
    with pytest.raises(Unauthenticated) as error:
        await ask(identity, token)
    return error.value.detail


# --- what is believed ---


async def test_a_good_token_is_believed_with_keys_found_by_discovery(issuer: OidcIssuer, identity: Identity) -> None:
    caller = await ask(identity, issuer.token(name="Aoi", email="aoi@example.com"))
    assert caller == Caller("user-1", "bearer", frozenset({"user"}), name="Aoi", email="aoi@example.com")
    assert issuer.asked == {"discovery": 1, "jwks": 1}


async def test_a_configured_key_url_needs_no_discovery(issuer: OidcIssuer, http: aiohttp.ClientSession) -> None:
    identity = Identity(settings(issuer, oidc_jwks_url=f"{issuer.url}/jwks"), http=http)
    assert (await ask(identity, issuer.token())).user_id == "user-1"
    assert issuer.asked == {"jwks": 1}


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS - {"Ed448"}))
@pytest.mark.parametrize("tell", [True, False])
async def test_every_asymmetric_algorithm_is_believed(
    issuer: OidcIssuer, identity: Identity, algorithm: str, tell: bool
) -> None:
    issuer.keys = [SigningKey(algorithm, "k", tell_algorithm=tell)]
    assert (await ask(identity, issuer.token())).user_id == "user-1"


@pytest.mark.parametrize(
    "claims",
    [{"scope": "openid butai:operator"}, {"scp": ["butai:operator"]}, {"scp": "profile butai:operator"}],
    ids=str,
)
async def test_the_operator_scope_makes_an_operator(issuer: OidcIssuer, identity: Identity, claims: Any) -> None:
    caller = await ask(identity, issuer.token(**claims))
    assert caller.is_operator and caller.scopes == {"user", "operator"}


@pytest.mark.parametrize(
    "claims",
    [
        {"scope": "butai:operators operator"},
        {"scope": ["butai:operator x"]},
        {"scp": {"butai:operator": 1}},
        {"scope": 7},
    ],
    ids=str,
)
async def test_what_is_not_quite_the_operator_scope_makes_none(
    issuer: OidcIssuer, identity: Identity, claims: Any
) -> None:
    assert (await ask(identity, issuer.token(**claims))).scopes == {"user"}


async def test_one_of_several_audiences_is_enough(issuer: OidcIssuer, identity: Identity) -> None:
    assert (await ask(identity, issuer.token(aud=["other", AUDIENCE]))).user_id == "user-1"


@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "application/at+jwt", None])
async def test_the_usual_types_are_believed(issuer: OidcIssuer, identity: Identity, typ: str | None) -> None:
    assert (await ask(identity, issuer.token({"typ": typ, "x5t": "abc", "vendor": {"a": 1}}))).user_id == "user-1"


async def test_a_token_without_a_key_id_is_tried_with_every_key(issuer: OidcIssuer, identity: Identity) -> None:
    issuer.keys = [SigningKey("RS256", None), SigningKey("RS256", "other"), SigningKey("ES256", "third")]
    for key in issuer.keys:
        assert (await ask(identity, key.token(issuer.claims(), {"kid": None}))).user_id == "user-1"


# --- what is not ---


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": "https://evil.example"}, "issuer"),
        ({"iss": None}, "read"),
        ({"aud": "other"}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": None}, "read"),
        ({"aud": {"butai-tests": 1}}, "read"),
        ({"exp": None}, "read"),
        ({"exp": "tomorrow"}, "read"),
        ({"exp": "now -16"}, "expired"),
        ({"exp": 0}, "expired"),
        ({"nbf": "now +3600"}, "not valid yet"),
        ({"sub": None}, "user"),
        ({"sub": ""}, "user"),
        ({"sub": "a\0b"}, "user"),
        ({"sub": ["a"]}, "user"),
    ],
    ids=str,
)
async def test_wrong_claims_are_refused_though_signed(
    issuer: OidcIssuer, identity: Identity, changes: dict[str, Any], why: str
) -> None:
    # Said when the test runs, not when it is found: half an hour may lie between.
    spoken: dict[str, Any] = {
        name: time.time() + int(value[4:]) if str(value).startswith("now ") else value
        for name, value in changes.items()
    }
    assert why in await refused(identity, issuer.token(**spoken))


async def test_clocks_may_differ_by_fifteen_seconds(issuer: OidcIssuer, http: aiohttp.ClientSession) -> None:
    now = 1_800_000_000.0
    identity = Identity(settings(issuer), http=http, clock=lambda: now)
    assert (await ask(identity, issuer.token(exp=now - 14.9, nbf=now + 15))).user_id == "user-1"
    assert "expired" in await refused(identity, issuer.token(exp=now - 15))
    assert "yet" in await refused(identity, issuer.token(exp=now + 99, nbf=now + 16))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "NONE"},
        {"alg": "HS256"},
        {"alg": "ES256K"},
        {"alg": "dir"},
        {"alg": 5},
        {"typ": "logout+jwt"},
        {"crit": ["exp"]},
        {"b64": False},
        {"b64": False, "crit": ["b64"]},
        {"kid": 7},
        {"typ": "dpop+jwt"},
    ],
    ids=str,
)
async def test_another_header_is_refused_though_signed(issuer: OidcIssuer, identity: Identity, header: Any) -> None:
    await refused(identity, issuer.token(header))
    assert not issuer.asked  # and the issuer is not bothered with it


async def test_a_token_without_a_signature_is_refused(issuer: OidcIssuer, identity: Identity) -> None:
    head, body, _ = issuer.token().split(".")
    await refused(identity, f"{head}.{body}.")
    await refused(identity, f"{head}.{body}")
    none = b64(b'{"alg":"none"}')
    await refused(identity, f"{none}.{body}.")


async def test_the_public_key_is_no_shared_secret(issuer: OidcIssuer, identity: Identity) -> None:
    key = issuer.keys[0]
    for secret in (
        key.public_pem(),
        json.dumps(key.public()).encode(),
        base64.urlsafe_b64decode(key.public()["n"] + "=="),
    ):
        for algorithm in ("HS256", "RS256"):
            header = {"alg": algorithm, "kid": key.kid}
            await refused(identity, hmac_token(secret, issuer.claims(), header))


async def test_a_shared_secret_in_the_key_set_is_not_used(issuer: OidcIssuer, identity: Identity) -> None:
    issuer.more_keys = [{"kty": "oct", "kid": "shared", "k": b64(b"s" * 32), "alg": "RS256"}]
    await refused(identity, hmac_token(b"s" * 32, issuer.claims(), {"alg": "HS256", "kid": "shared"}))
    await refused(identity, hmac_token(b"s" * 32, issuer.claims(), {"alg": "RS256", "kid": "shared"}))


async def test_a_key_is_only_good_for_its_algorithm(issuer: OidcIssuer, identity: Identity) -> None:
    issuer.keys = [SigningKey("RS256", "r"), SigningKey("ES256", "e"), SigningKey("EdDSA", "d")]
    for key in issuer.keys:
        for other in ALGORITHMS - {key.algorithm}:
            await refused(identity, key.token(issuer.claims(), {"alg": other}))
        assert (await ask(identity, key.token(issuer.claims()))).user_id == "user-1"


async def test_keys_named_by_the_token_itself_are_not_used(issuer: OidcIssuer, identity: Identity) -> None:
    theirs = SigningKey("RS256", "first")
    async with OidcIssuer() as evil:
        evil.keys = [theirs]
        header = {"jwk": theirs.public(), "jku": f"{evil.url}/jwks", "x5u": f"{evil.url}/jwks"}
        await refused(identity, theirs.token(issuer.claims(), header))
        assert not evil.asked


async def test_a_change_to_any_part_is_refused(issuer: OidcIssuer, identity: Identity) -> None:
    parts = issuer.token().split(".")
    for which in range(3):
        for at in range(0, len(parts[which]), max(1, len(parts[which]) // 15)):
            other = "A" if parts[which][at] != "A" else "B"
            changed = parts[which][:at] + other + parts[which][at + 1 :]
            await refused(identity, ".".join([*parts[:which], changed, *parts[which + 1 :]]))
    await refused(identity, ".".join(parts) + ".x")
    await refused(identity, ".".join(parts) + "A" * 20_000)


@pytest.mark.filterwarnings("ignore:Key size should be")
async def test_keys_that_are_weak_or_not_for_signing_are_not_used(issuer: OidcIssuer, identity: Identity) -> None:
    weak, other = SigningKey("RS256", "weak", bits=1024), SigningKey("RS256", "other")
    issuer.more_keys = [weak.public(), {**other.public(), "use": "enc"}]
    await refused(identity, weak.token(issuer.claims()))
    await refused(identity, other.token(issuer.claims()))


async def test_odd_keys_do_not_hide_the_good_one(issuer: OidcIssuer, identity: Identity) -> None:
    odd: list[Any] = [
        {"kty": "RSA", "n": 5},
        {"kty": "RSA", "n": "AA", "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "x": "A"},
        {},
    ]
    odd += [
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "x"},
        {"kty": "OKP", "crv": "X25519", "x": b64(b"x" * 32)},
        None,
        7,
        "x",
    ]
    odd += [
        {"kty": "EC", "crv": "P-256", "x": b64(b"x" * 32), "y": b64(b"y" * 32)},
        {"kty": ["RSA"]},
        {"kty": "OKP", "crv": 1},
    ]
    issuer.more_keys = [*odd, {**SigningKey("RS256", "s").public(), "key_ops": ["sign"]}]
    assert (await ask(identity, issuer.token())).user_id == "user-1"


async def test_without_an_issuer_bearer_tokens_are_refused(issuer: OidcIssuer) -> None:
    assert "set up" in await refused(Identity(settings(issuer, oidc_issuer="")), issuer.token())


async def test_an_issuer_without_an_audience_is_refused_at_start(
    issuer: OidcIssuer, http: aiohttp.ClientSession
) -> None:
    with pytest.raises(ValueError, match="BUTAI_OIDC_AUDIENCE"):
        Identity(settings(issuer, oidc_audience=""), http=http)


async def test_a_discovery_document_of_another_issuer_is_not_believed(issuer: OidcIssuer, identity: Identity) -> None:
    issuer.discovery = {"issuer": "https://evil.example"}
    with pytest.raises(Unavailable):
        await ask(identity, issuer.token())
    assert issuer.asked == {"discovery": 1}


# --- rotation and outage ---


async def test_a_new_key_is_found_at_once(issuer: OidcIssuer, identity: Identity) -> None:
    old = issuer.token()
    assert (await ask(identity, old)).user_id == "user-1"
    issuer.keys = [SigningKey("ES256", "second")]
    assert (await ask(identity, issuer.token(sub="user-2"))).user_id == "user-2"
    assert issuer.asked["jwks"] == 2


async def test_invented_key_ids_bother_the_issuer_once_in_thirty_seconds(
    issuer: OidcIssuer, http: aiohttp.ClientSession
) -> None:
    clock = Clock()
    tokens = BearerTokens(settings(issuer), http, clock)

    async def invented(kid: str) -> None:
        with pytest.raises(Unauthenticated):
            await tokens.check(issuer.token({"kid": kid}).encode(), time.time())

    await tokens.check(issuer.token().encode(), time.time())
    for number in range(20):
        await invented(f"kid-{number}")
    assert issuer.asked["jwks"] == 2
    clock.now += 29.9
    await invented("again")
    assert issuer.asked["jwks"] == 2
    clock.now += 0.1
    await invented("again")
    assert issuer.asked["jwks"] == 3


async def test_many_at_once_share_one_fetch(issuer: OidcIssuer, identity: Identity) -> None:
    issuer.gate.clear()
    asks = [asyncio.ensure_future(ask(identity, issuer.token(sub=f"u{i}"))) for i in range(50)]
    async with asyncio.timeout(60):
        while not issuer.asked["discovery"]:
            await asyncio.sleep(0.01)
    asks[0].cancel()  # the one who began it goes away; the others still get their answer
    issuer.gate.set()
    answers = await asyncio.gather(*asks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer.user_id for answer in answers[1:] if isinstance(answer, Caller)] == [f"u{i}" for i in range(1, 50)]
    assert issuer.asked == {"discovery": 1, "jwks": 1}


async def test_an_issuer_that_is_down_before_we_have_keys_is_unavailable_and_found_again(
    issuer: OidcIssuer, http: aiohttp.ClientSession
) -> None:
    clock = Clock()
    tokens = BearerTokens(settings(issuer), http, clock)
    token = issuer.token().encode()
    await issuer.stop()
    with capture_logs() as logs, pytest.raises(Unavailable):
        await tokens.check(token, time.time())
    assert [(line["event"], line["kept"]) for line in logs] == [("oidc.keys_failed", 0)]
    await issuer.start()
    with pytest.raises(Unavailable):
        await tokens.check(token, time.time())
    assert not issuer.asked  # not hammered
    clock.now += 5
    assert (await tokens.check(token, time.time()))[0].user_id == "user-1"
    with pytest.raises(Unauthenticated):  # now it is known that there is no such key
        await tokens.check(issuer.token({"kid": "invented"}).encode(), time.time())


async def test_foreign_tokens_are_refused_even_while_the_issuer_is_down(issuer: OidcIssuer, identity: Identity) -> None:
    foreign = issuer.token(iss="https://evil.example")
    await issuer.stop()
    assert "issuer" in await refused(identity, foreign)


async def test_keys_that_are_there_go_on_working_while_the_issuer_is_down(
    issuer: OidcIssuer, http: aiohttp.ClientSession
) -> None:
    clock = Clock()
    tokens = BearerTokens(settings(issuer), http, clock)
    await tokens.check(issuer.token().encode(), time.time())
    rotated = SigningKey("RS256", "new").token(issuer.claims()).encode()
    await issuer.stop()
    with capture_logs() as logs:
        for _ in range(3):
            clock.now += 700
            assert (await tokens.check(issuer.token().encode(), time.time()))[0].user_id == "user-1"
            await settled(tokens)
        with pytest.raises(Unavailable):  # it may be a new key: there is no way to know now
            await tokens.check(rotated, time.time())
    failed = [line for line in logs if line["event"] == "oidc.keys_failed"]
    assert len(failed) == 4 and all(line["kept"] == 1 for line in failed)


async def test_old_keys_are_renewed_in_the_background_and_a_withdrawn_key_is_forgotten(
    issuer: OidcIssuer, http: aiohttp.ClientSession
) -> None:
    clock = Clock()
    tokens = BearerTokens(settings(issuer), http, clock)
    token = issuer.token().encode()
    await tokens.check(token, time.time())
    issuer.keys = [SigningKey("RS256", "second")]
    clock.now += 599
    await tokens.check(token, time.time())
    assert issuer.asked["jwks"] == 1
    clock.now += 1
    issuer.gate.clear()
    await tokens.check(token, time.time())  # does not wait for the issuer, which hangs
    issuer.gate.set()
    await settled(tokens)
    assert issuer.asked["jwks"] == 2
    with pytest.raises(Unauthenticated):
        await tokens.check(token, time.time())


async def test_a_checked_token_needs_no_issuer_for_a_minute(issuer: OidcIssuer, http: aiohttp.ClientSession) -> None:
    now = time.time()
    identity = Identity(settings(issuer), http=http, clock=lambda: now)
    token = issuer.token()
    first = await ask(identity, token)
    now += 59
    assert await ask(identity, token) is first
    now += 1
    assert await ask(identity, token) is not first


@pytest.mark.parametrize("status", [404, 500])
async def test_an_answer_that_is_no_success_is_a_failure(issuer: OidcIssuer, identity: Identity, status: int) -> None:
    issuer.status = status
    with pytest.raises(Unavailable):
        await ask(identity, issuer.token())


async def test_redirects_to_the_keys_are_not_followed(issuer: OidcIssuer, http: aiohttp.ClientSession) -> None:
    issuer.status = 302
    identity = Identity(settings(issuer, oidc_jwks_url=f"{issuer.url}/jwks"), http=http)
    with pytest.raises(Unavailable):
        await ask(identity, issuer.token())
    assert issuer.asked == {"jwks": 1}


async def test_a_key_set_of_unreasonable_size_is_not_read(issuer: OidcIssuer, http: aiohttp.ClientSession) -> None:
    issuer.body = json.dumps({"keys": [issuer.keys[0].public()]}).encode() + b" " * MAX_DOCUMENT_BYTES
    identity = Identity(settings(issuer, oidc_jwks_url=f"{issuer.url}/jwks"), http=http)
    with capture_logs() as logs, pytest.raises(Unavailable):
        await ask(identity, issuer.token())
    assert [line["detail"] for line in logs] == ["the document is too large"]


@pytest.mark.parametrize("body", [b"", b"{", b"<html>", b"[]", b'{"keys":[]}', b'{"keys":{}}', b"[" * 100_000])
async def test_a_document_that_is_none_is_a_failure(
    issuer: OidcIssuer, http: aiohttp.ClientSession, body: bytes
) -> None:
    issuer.body = body
    identity = Identity(settings(issuer, oidc_jwks_url=f"{issuer.url}/jwks"), http=http)
    with pytest.raises(Unavailable):
        await ask(identity, issuer.token())
    assert issuer.asked["jwks"] == 1


async def test_an_issuer_that_hangs_is_given_up(
    issuer: OidcIssuer, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("butai.identity.jwt.FETCH_SECONDS", 0.1)
    issuer.gate.clear()
    with pytest.raises(Unavailable):
        await ask(identity, issuer.token())
    assert issuer.asked["discovery"] == 1


async def test_closing_ends_a_fetch_that_is_under_way(issuer: OidcIssuer, identity: Identity) -> None:
    issuer.gate.clear()
    waiting = asyncio.ensure_future(ask(identity, issuer.token()))
    async with asyncio.timeout(60):
        while not issuer.asked["discovery"]:
            await asyncio.sleep(0.01)
    await identity.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
known = st.sampled_from(["iss", "aud", "exp", "nbf", "sub", "scope", "scp", "name", "email"])


@examples(ci=150, deep=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(known, values, max_size=3),
    header=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x"]), values, max_size=1),
    raw=st.binary(max_size=80),
)
async def test_whatever_comes_the_answer_is_a_usable_caller_or_unauthenticated(
    issuer: OidcIssuer, identity: Identity, changes: dict[str, Any], header: dict[str, Any], raw: bytes
) -> None:
    if issuer.keys[0].algorithm != "ES256":
        issuer.keys = [SigningKey("ES256", "k")]
    whole = issuer.token(header, **changes).encode()
    head, body, signature = whole.split(b".")
    for token in (whole, raw, b".".join([raw, body, signature]), b".".join([head, raw, signature])):
        with capture_logs():
            try:
                caller = await identity.identify([(b"authorization", b"Bearer " + token)])
            except Unauthenticated:
                continue
        assert token in (whole, raw) and caller.user_id and caller.user_id.isprintable()


async def test_no_token_shows_up_in_logs_or_errors(issuer: OidcIssuer, identity: Identity) -> None:
    good = issuer.token(sub="canary-user")
    signature = good.split(".")[2]
    tokens = [
        good[:-8] + "AAAAAAAA",
        issuer.token({"kid": "canary-kid"}),
        issuer.token(aud="canary-audience"),
        "canary.a.b",
    ]
    shown: list[str] = []
    with capture_logs() as logs:
        for token in tokens:
            with pytest.raises(Unauthenticated) as error:
                await ask(identity, token)
            shown += [repr(error.value), *traceback.format_exception(error.value)]
    assert len([line for line in logs if line["event"] == "identity.refused"]) == len(tokens)
    for canary in ("canary", signature[:40]):
        assert canary not in repr(logs) + "".join(shown)


async def settled(tokens: BearerTokens) -> None:
    """Waits for the fetch in the background."""
    async with asyncio.timeout(60):
        while tokens.keys._fetching is not None:
            await asyncio.sleep(0.005)
