"""Session cookies against values made by next-auth and @auth/core themselves, and against what is none."""

from __future__ import annotations

import base64
import contextlib
import json
import time
import traceback
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from joserfc import jwe, jwk
from pydantic import SecretStr
from structlog.testing import capture_logs

from butai.config import IdentitySettings
from butai.errors import Unauthenticated
from butai.identity import ANONYMOUS, Caller, Identity, dev_sign_in_cookie
from butai.identity.sessions import COOKIES, MAX_TOKEN_BYTES, derive, session_tokens
from tests.examples import examples

VECTORS = json.loads((Path(__file__).parent / "test_identity_vectors.json").read_text())
NEXTAUTH, AUTHJS = VECTORS["nextauth4"], VECTORS["authjs5"]
USER = VECTORS["token"]["sub"]
N4, N4_SECURE = "next-auth.session-token", "__Secure-next-auth.session-token"
A5, A5_SECURE = "authjs.session-token", "__Secure-authjs.session-token"


def setup(nextauth: str = "", auth: str = "", **more: Any) -> IdentitySettings:
    return IdentitySettings(nextauth_secret=SecretStr(nextauth), auth_secret=SecretStr(auth), **more)


def both() -> Identity:
    return Identity(setup(NEXTAUTH["secret"], AUTHJS["secret"]))


def run(coroutine: Coroutine[Any, Any, Caller]) -> Caller:
    """The result of a coroutine that must not wait for anything: a cookie needs no network and no database."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def ask(identity: Identity, **headers: bytes | str) -> Caller:
    raw = [
        (name.replace("_", "-").encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in headers.items()
    ]
    return run(identity.identify(raw))


def cookie(*pairs: tuple[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in pairs)


def refused(identity: Identity, **headers: bytes | str) -> str:
    with pytest.raises(Unauthenticated) as error:
        ask(identity, **headers)
    assert error.value.detail
    return error.value.detail


def seal(claims: object, secret: str = NEXTAUTH["secret"], header: dict[str, Any] | None = None) -> str:
    """A NextAuth 4 token with exactly these claims (bytes are taken as they are)."""
    key = jwk.OctKey.import_key(derive(secret, "", "NextAuth.js Generated Encryption Key", 32))
    plain = claims if isinstance(claims, bytes) else json.dumps(claims)
    head = {"alg": "dir", "enc": "A256GCM", **(header or {})}
    registry = jwe.JWERegistry(algorithms=["dir", "A256GCM", "DEF"], strict_check_header=False)
    return jwe.encrypt_compact(head, plain, key, registry=registry)


def claims(**more: Any) -> dict[str, Any]:
    return {"sub": "u1", "exp": time.time() + 100, **more}


# --- the formats ---


def test_the_key_derivation_gives_the_known_value() -> None:
    key = derive("test-secret", "", "NextAuth.js Generated Encryption Key", 32)
    assert key.hex() == "233a0d9c3e93817c2a383a4235b78cc7820ed294cbf0a88d52650b90af59115a"


@pytest.mark.parametrize("name", [N4, N4_SECURE])
def test_a_session_made_by_nextauth_4_is_believed(name: str) -> None:
    caller = ask(both(), cookie=cookie((name, NEXTAUTH["sub_and_id"])))
    assert caller == Caller(
        USER, "session", frozenset({"user"}), by_cookie=True, name="Aoi Midori 葵", email="aoi@example.com"
    )
    assert not caller.is_anonymous and not caller.is_operator


@pytest.mark.parametrize("name", [A5, A5_SECURE])
def test_a_session_made_by_authjs_5_is_believed(name: str) -> None:
    caller = ask(both(), cookie=cookie((name, AUTHJS["cookies"][name])))
    assert (caller.user_id, caller.kind, caller.by_cookie) == (USER, "session", True)


@pytest.mark.parametrize("chunks", [NEXTAUTH["chunked"], AUTHJS["chunked"]])
def test_a_session_in_chunks_made_by_the_package_is_believed_in_any_order(chunks: dict[str, str]) -> None:
    assert len(chunks) == 2
    for pairs in (list(chunks.items()), list(chunks.items())[::-1]):
        assert ask(both(), cookie=cookie(("theme", "dark"), *pairs)).user_id == USER


def test_eleven_chunks_are_joined_by_number_not_by_letter() -> None:
    token = NEXTAUTH["sub_and_id"]
    size = len(token) // 10
    pairs = [(f"{N4}.{i}", token[i * size : (i + 1) * size]) for i in range(11)]
    assert "".join(value for _, value in pairs) == token
    for order in (pairs, pairs[::-1], sorted(pairs)):
        assert ask(both(), cookie=cookie(*order)).user_id == USER


def test_a_missing_chunk_is_refused() -> None:
    name, first = next(iter(NEXTAUTH["chunked"].items()))
    refused(both(), cookie=cookie((name, first)))


def test_chunks_left_behind_do_not_spoil_a_session_in_one_piece() -> None:
    pairs = [(N4, NEXTAUTH["sub_only"]), (f"{N4}.0", "old"), (f"{N4}.1", "older")]
    assert ask(both(), cookie=cookie(*pairs)).user_id == "108124000111222333444"


def test_a_token_is_only_good_under_the_cookie_name_it_was_made_for() -> None:
    refused(both(), cookie=cookie((A5_SECURE, AUTHJS["cookies"][A5])))
    refused(both(), cookie=cookie((A5, NEXTAUTH["sub_and_id"])))
    refused(both(), cookie=cookie((N4, AUTHJS["cookies"][A5])))


def test_a_token_that_was_believed_under_its_name_is_not_believed_under_another() -> None:
    identity = both()
    assert ask(identity, cookie=cookie((A5, AUTHJS["cookies"][A5]))).user_id == USER
    refused(identity, cookie=cookie((A5_SECURE, AUTHJS["cookies"][A5])))


# --- secrets ---


def test_each_package_falls_back_to_the_other_ones_variable() -> None:
    assert ask(Identity(setup(auth=NEXTAUTH["secret"])), cookie=cookie((N4, NEXTAUTH["sub_and_id"]))).user_id == USER
    assert ask(Identity(setup(nextauth=AUTHJS["secret"])), cookie=cookie((A5, AUTHJS["cookies"][A5]))).user_id == USER


def test_old_and_new_secret_both_work_while_the_secret_is_changed() -> None:
    identity = Identity(setup(f"brand-new, {NEXTAUTH['secret']}", f"{AUTHJS['next_secret']},{AUTHJS['secret']}"))
    for name in (A5, A5_SECURE):
        assert ask(identity, cookie=cookie((name, AUTHJS["cookies"][name]))).user_id == USER
        assert ask(identity, cookie=cookie((name, AUTHJS["rotated"][name]))).user_id == USER
    assert ask(identity, cookie=cookie((N4, NEXTAUTH["sub_and_id"]))).user_id == USER


def test_numbered_secrets_are_those_of_authjs_alone() -> None:
    """`@auth/core` reads `AUTH_SECRET` and `AUTH_SECRET_1` to `_3`, and signs with the highest number."""
    identity = Identity(setup("nextauth", "old", AUTH_SECRET_1=AUTHJS["secret"], AUTH_SECRET_3=AUTHJS["next_secret"]))
    for name in (A5, A5_SECURE):
        assert ask(identity, cookie=cookie((name, AUTHJS["cookies"][name]))).user_id == USER
        assert ask(identity, cookie=cookie((name, AUTHJS["rotated"][name]))).user_id == USER
    refused(Identity(setup("nextauth", AUTH_SECRET_2=NEXTAUTH["secret"])), cookie=cookie((N4, NEXTAUTH["sub_and_id"])))
    alone = Identity(setup(AUTH_SECRET_2=AUTHJS["secret"]))
    assert ask(alone, cookie=cookie((A5, AUTHJS["cookies"][A5]))).user_id == USER
    order = setup(auth="a", AUTH_SECRET_1=SecretStr("b"), AUTH_SECRET_3=SecretStr("c")).authjs_secrets
    assert list(order) == ["AUTH_SECRET_3", "AUTH_SECRET_1", "AUTH_SECRET"]


def test_a_rotated_token_is_refused_by_whoever_only_knows_the_old_secret() -> None:
    refused(both(), cookie=cookie((A5, AUTHJS["rotated"][A5])))


def test_a_secret_may_have_a_comma_in_it() -> None:
    token = seal(claims(), "left,right")
    assert ask(Identity(setup("left,right")), cookie=cookie((N4, token))).user_id == "u1"


def test_a_foreign_secret_is_refused() -> None:
    assert "secret" in refused(Identity(setup("other")), cookie=cookie((N4, NEXTAUTH["sub_and_id"])))


def test_a_session_without_any_secret_to_read_it_is_refused() -> None:
    assert "not configured" in refused(Identity(setup()), cookie=cookie((N4, NEXTAUTH["sub_and_id"])))


def test_an_empty_secret_is_none() -> None:
    token = seal(claims(), "x")
    for empty in ("", " ", ",", " , "):
        refused(Identity(setup(empty)), cookie=cookie((N4, token)))


# --- who it is ---


def test_id_counts_before_sub_because_the_studio_put_it_there() -> None:
    assert (
        ask(both(), cookie=cookie((N4, seal(claims(id="of-the-studio", sub="of-the-provider"))))).user_id
        == "of-the-studio"
    )


@pytest.mark.parametrize("absent", [{}, {"id": None}, {"id": ""}])
def test_sub_counts_where_there_is_no_id(absent: dict[str, Any]) -> None:
    assert ask(both(), cookie=cookie((N4, seal(claims(**absent))))).user_id == "u1"


def test_a_number_is_an_id() -> None:
    assert ask(both(), cookie=cookie((N4, NEXTAUTH["number_id"]))).user_id == "42"


@pytest.mark.parametrize(
    "bad",
    [
        {"id": {}},
        {"id": []},
        {"id": True},
        {"id": 1.5},
        {"id": "a\0b"},
        {"id": "\ud800"},
        {"id": "x" * 256},
        {"id": "a\nb"},
        {"sub": None},
        {"sub": ""},
        {"id": 2**64},
    ],
    ids=lambda bad: repr(bad)[:24],
)
def test_an_unusable_user_id_is_refused(bad: dict[str, Any]) -> None:
    refused(both(), cookie=cookie((N4, seal(claims(**bad)))))


def test_a_user_id_of_thousands_of_digits_is_refused() -> None:
    refused(both(), cookie=cookie((N4, seal(b'{"exp":4e9,"id":' + b"9" * 5000 + b"}"))))


def test_a_strange_name_is_cleaned_or_dropped_and_the_session_counts() -> None:
    caller = ask(both(), cookie=cookie((N4, seal(claims(name="A\0o\ni\ud800 👩‍🎤", email=["x"])))))
    assert (caller.name, caller.email) == ("Aoi 👩‍🎤", None)


# --- time ---


def test_an_expired_session_is_refused() -> None:
    assert "expired" in refused(both(), cookie=cookie((N4, NEXTAUTH["expired"])))
    for name in (A5, A5_SECURE):
        assert "expired" in refused(both(), cookie=cookie((name, AUTHJS["expired"][name])))


def test_clocks_may_differ_by_fifteen_seconds() -> None:
    now = 1_800_000_000.0
    identity = Identity(setup(NEXTAUTH["secret"]), clock=lambda: now)
    assert ask(identity, cookie=cookie((N4, seal(claims(exp=now - 14.9))))).user_id == "u1"
    assert ask(identity, cookie=cookie((N4, seal(claims(exp=now + 9, nbf=now + 15))))).user_id == "u1"
    refused(identity, cookie=cookie((N4, seal(claims(exp=now - 15)))))
    refused(identity, cookie=cookie((N4, seal(claims(exp=now + 99, nbf=now + 16)))))


@pytest.mark.parametrize("exp", [None, "1900000000", True, {}, []])
def test_a_session_without_an_end_is_refused(exp: object) -> None:
    refused(both(), cookie=cookie((N4, seal(claims(exp=exp)))))


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999", b"-1e999", b"9" * 400])
def test_a_number_that_is_none_does_not_make_a_session_eternal(number: bytes) -> None:
    refused(both(), cookie=cookie((N4, seal(b'{"sub":"u1","exp":' + number + b"}"))))


def test_a_remembered_session_ends_when_it_ends() -> None:
    now = 1_800_000_000.0
    identity = Identity(setup(NEXTAUTH["secret"]), clock=lambda: now)
    header = cookie((N4, seal(claims(exp=now + 10))))
    first = ask(identity, cookie=header)
    assert ask(identity, cookie=header) is first
    now += 24.9
    assert ask(identity, cookie=header) is first
    now += 0.1
    refused(identity, cookie=header)


def test_a_session_is_remembered_for_a_minute_at_most() -> None:
    now = 1_800_000_000.0
    identity = Identity(setup(NEXTAUTH["secret"]), clock=lambda: now)
    header = cookie((N4, seal(claims(exp=now + 10_000))))
    first = ask(identity, cookie=header)
    now += 59.9
    assert ask(identity, cookie=header) is first
    now += 0.1
    assert ask(identity, cookie=header) is not first
    assert ask(identity, cookie=header) == first


def test_the_memory_for_sessions_is_bounded_and_keeps_those_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("butai.identity.identify.REMEMBER_TOKENS", 3)
    identity = both()
    headers = [cookie((N4, seal(claims(sub=f"u{i}")))) for i in range(4)]
    seen = [ask(identity, cookie=header) for header in headers[:3]]
    assert ask(identity, cookie=headers[0]) is seen[0]
    ask(identity, cookie=headers[3])
    assert ask(identity, cookie=headers[0]) is seen[0]
    assert ask(identity, cookie=headers[1]) is not seen[1]


# --- several credentials, none, and what is none ---


def test_no_credential_is_an_anonymous_caller() -> None:
    assert ask(both()) is ANONYMOUS
    assert ask(both(), cookie="theme=dark; _ga=GA1.2.3", accept="*/*") is ANONYMOUS
    assert ANONYMOUS.is_anonymous and not ANONYMOUS.is_operator and ANONYMOUS.user_id is None


@pytest.mark.parametrize(
    "unrelated",
    [
        "next-auth.session-token=",
        "my-next-auth.session-token=x",
        "next-auth.session-tokens=x",
        "next-auth.csrf-token=a|b",
        "authjs.session-token.x=1",
        "authjs.session-token.-1=1",
        "authjs.session-token.1234567=1",
        "x=authjs.session-token",
        "__Host-authjs.session-token=x",
        ";;;",
        "=",
        "",
    ],
)
def test_unrelated_cookies_are_ignored(unrelated: str) -> None:
    assert ask(both(), cookie=unrelated) is ANONYMOUS


def test_authorization_counts_before_a_cookie_even_when_it_is_bad() -> None:
    refused(both(), authorization="Bearer nonsense", cookie=cookie((N4, NEXTAUTH["sub_and_id"])))
    refused(both(), x_api_key="butai_x_y", cookie=cookie((N4, NEXTAUTH["sub_and_id"])))


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic dTpw", "bearer\tx", "Negotiate abc", "Bearer a.b.c"])
def test_other_authorization_is_refused(value: str) -> None:
    refused(both(), authorization=value)


def test_two_authorization_headers_are_refused() -> None:
    for name in (b"authorization", b"x-api-key"):
        with pytest.raises(Unauthenticated, match="several"):
            run(both().identify([(name, b"Bearer a"), (name, b"Bearer a")]))


def test_a_cookie_split_over_two_headers_is_read() -> None:
    name, token = N4.encode(), NEXTAUTH["sub_and_id"].encode()
    assert run(both().identify([(b"cookie", b"a=b"), (b"cookie", name + b"=" + token)])).user_id == USER


def test_a_good_session_counts_beside_one_left_behind() -> None:
    stale = [(A5, "stale"), (N4_SECURE, NEXTAUTH["expired"])]
    assert ask(both(), cookie=cookie(*stale, (N4, NEXTAUTH["sub_and_id"]))).user_id == USER
    refused(both(), cookie=cookie(*stale))


def test_the_first_of_two_cookies_of_one_name_counts() -> None:
    pairs = [(N4, NEXTAUTH["sub_only"]), (N4, NEXTAUTH["sub_and_id"])]
    assert ask(both(), cookie=cookie(*pairs)).user_id == "108124000111222333444"


def test_every_known_cookie_name_is_found_with_and_without_spaces() -> None:
    for name in COOKIES:
        for header in (name + b"=v", b"a=1;" + name + b"=v", b"a=1;  " + name + b"=v ; b=2"):
            assert list(session_tokens(header)) == [(name, b"v")]


# --- what is broken ---


@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("which", ["nextauth", "authjs"])
def test_a_change_to_any_character_of_any_part_is_refused(part: int, which: str) -> None:
    name, token = (N4, NEXTAUTH["sub_and_id"]) if which == "nextauth" else (A5, AUTHJS["cookies"][A5])
    identity, parts = both(), token.split(".")
    for at in range(0, len(parts[part]), max(1, len(parts[part]) // 12)):
        for other in ("A", "B", "-", "=", "é"):
            changed = parts[part][:at] + other + parts[part][at + 1 :]
            if changed != parts[part]:
                refused(identity, cookie=cookie((name, ".".join([*parts[:part], changed, *parts[part + 1 :]]))))
    for changed in (parts[part] + "A", parts[part][:-1], "" if parts[part] else "QUJD"):
        if changed != parts[part]:
            refused(identity, cookie=cookie((name, ".".join([*parts[:part], changed, *parts[part + 1 :]]))))


@pytest.mark.parametrize(
    "header",
    [
        {"zip": "DEF"},
        {"crit": ["exp"]},
        {"alg": "A256KW"},
        {"enc": "A128GCM"},
        {"alg": "none"},
        {"kid": "foreign"},
        {"kid": 5},
        {"alg": None},
        {"enc": ["A256GCM"]},
        {"p2c": 10**9, "alg": "PBES2-HS256+A128KW", "p2s": "eA"},
    ],
    ids=str,
)
def test_another_header_is_refused(header: dict[str, Any]) -> None:
    parts = NEXTAUTH["sub_and_id"].split(".")
    changed = {"alg": "dir", "enc": "A256GCM", **header}
    parts[0] = base64.urlsafe_b64encode(json.dumps(changed).encode()).rstrip(b"=").decode()
    refused(both(), cookie=cookie((N4, ".".join(parts))))


@pytest.mark.parametrize("header", [{"kid": "foreign"}, {"crit": ["alg"]}], ids=str)
def test_another_header_is_refused_though_it_was_made_with_the_secret(header: dict[str, Any]) -> None:
    refused(both(), cookie=cookie((N4, seal(claims(), header=header))))


def test_another_encryption_is_refused_before_any_is_tried() -> None:
    parts = AUTHJS["cookies"][A5].split(".")
    assert "kind" in refused(both(), cookie=cookie((N4, ".".join(parts))))


def test_a_compressed_session_is_refused_though_it_was_made_with_the_secret() -> None:
    token = seal(json.dumps(claims(pad="0" * 2_000_000)).encode(), header={"zip": "DEF"})
    assert len(token) < MAX_TOKEN_BYTES
    assert "kind" in refused(both(), cookie=cookie((N4, token)))


def test_a_session_longer_than_any_header_may_be_is_refused_unread() -> None:
    assert "too long" in refused(both(), cookie=cookie((N4, seal(claims(pad="0" * MAX_TOKEN_BYTES)))))


@pytest.mark.parametrize(
    "plain", [b"", b"null", b"[]", b'"text"', b"{", b"\xff\xfe", b"[" * 9000, b'{"a":' * 1800, b"{}"]
)
def test_a_session_that_holds_no_claims_is_refused(plain: bytes) -> None:
    refused(both(), cookie=cookie((N4, seal(plain))))


FIXED = both()
names = st.sampled_from([*COOKIES, *(name + b".0" for name in COOKIES), *(name + b".1" for name in COOKIES)])
part = st.binary(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"="))
head = st.dictionaries(
    st.sampled_from(["alg", "enc", "kid", "zip", "crit", "typ", "x"]),
    st.sampled_from(["dir", "A256GCM", "A256CBC-HS512", "DEF"])
    | st.none()
    | st.integers()
    | st.lists(st.text(max_size=3)),
).map(lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"="))
token = st.binary(max_size=200) | st.tuples(head | part, part, part, part, part).map(b".".join)
anything = st.lists(st.tuples(names, token).map(b"=".join) | st.binary(max_size=40), max_size=5).map(b"; ".join)


@examples(ci=150, deep=600, deadline=None)
@given(
    cookies=anything, authorization=st.none() | st.binary(max_size=200) | token.map(lambda value: b"Bearer " + value)
)
@example(cookies=b"next-auth.session-token=....", authorization=None)
@example(cookies=b"", authorization=b"Bearer \xff.\xff.\xff")
def test_whatever_comes_the_answer_is_anonymous_or_unauthenticated(cookies: bytes, authorization: bytes | None) -> None:
    headers = [(b"cookie", cookies)]
    if authorization is not None:
        headers.append((b"authorization", authorization))
    with capture_logs(), contextlib.suppress(Unauthenticated):
        assert run(FIXED.identify(headers)) is ANONYMOUS


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
known = st.dictionaries(st.sampled_from(["sub", "id", "exp", "nbf", "name", "email"]), values)


@examples(ci=150, deep=400, deadline=None)
@given(known | values)
def test_whatever_a_studio_sealed_the_answer_is_a_usable_caller_or_unauthenticated(content: object) -> None:
    with capture_logs():
        try:
            caller = ask(FIXED, cookie=cookie((N4, seal(json.dumps(content).encode()))))
        except Unauthenticated:
            return
    assert caller.user_id and caller.user_id.isprintable()
    for shown in (caller.name, caller.email):
        assert shown is None or (shown.encode() and "\0" not in shown)


# --- nothing leaks ---


def test_no_secret_and_no_token_shows_up_in_logs_errors_or_reprs() -> None:
    secret = "canary-secret-8c1f"
    identity = Identity(setup(secret, secret))
    good = dev_sign_in_cookie(setup(secret), "canary-user")
    head, _, iv, text, tag = good.split(".")
    bad = [f"{head}..{iv}.{text}.{tag[:-4]}AAAA", "canary-token-77aa", f"{head}..canary-token-77aa..", seal(claims())]
    shown: list[str] = []
    with capture_logs() as logs:
        assert ask(identity, cookie=cookie((N4, good))).user_id == "canary-user"
        for value in bad:
            for headers in (
                {"cookie": cookie((N4, value))},
                {"authorization": f"Bearer {value}"},
                {"x_api_key": value},
            ):
                with pytest.raises(Unauthenticated) as error:
                    ask(identity, **headers)
                shown += [str(error.value), repr(error.value), *traceback.format_exception(error.value)]
    assert len(logs) == 3 * len(bad)
    assert all(set(line) == {"event", "reason", "log_level"} and line["event"] == "identity.refused" for line in logs)
    shown += [repr(logs), repr(identity), repr(vars(identity)), repr(vars(identity._sessions)), repr(setup(secret))]
    derived = derive(secret, "", "NextAuth.js Generated Encryption Key", 32)
    for canary in (secret, "canary-token", text, derived.hex(), repr(derived)[2:-1]):
        assert canary not in "\n".join(shown)


def test_a_caller_does_not_show_name_and_address() -> None:
    caller = Caller("u1", "session", name="Aoi", email="aoi@example.com")
    assert "Aoi" not in repr(caller) and "aoi@" not in repr(caller)
