"""Cross-site writes, and where development sign-in is allowed."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from butai.config import IdentitySettings
from butai.errors import InvalidRequest, NotFound, OriginDenied
from butai.identity import (
    NEXTAUTH_COOKIE,
    Caller,
    Identity,
    check_dev_sign_in,
    check_origin,
    dev_sign_in_cookie,
    is_loopback,
)
from butai.identity.origins import normal_origin, seen_origin


def setup(secret: str, **more: Any) -> IdentitySettings:
    return IdentitySettings(nextauth_secret=SecretStr(secret), auth_secret=SecretStr(""), **more)


def run(coroutine: Coroutine[Any, Any, Caller]) -> Caller:
    """The result of a coroutine that must not wait for anything."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


OWN = ["https://studio.example"]
ALLOWED = ["https://friend.example:8443"]


def raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def passes(method: str, **headers: str) -> bool:
    try:
        check_origin(method, raw({name.replace("_", "-"): value for name, value in headers.items()}), ALLOWED, OWN)
    except OriginDenied:
        return False
    return True


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reads_pass_from_anywhere(method: str) -> None:
    assert passes(method, sec_fetch_site="cross-site", origin="https://evil.example")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "", "post", "BREW"])
def test_writes_from_another_site_are_denied(method: str) -> None:
    assert not passes(method, origin="https://evil.example")
    assert not passes(method, sec_fetch_site="cross-site")
    assert not passes(method, sec_fetch_site="cross-site", origin="https://evil.example")


def test_writes_from_our_own_page_pass() -> None:
    assert passes("POST", sec_fetch_site="same-origin", origin="https://studio.example")
    assert passes("POST", sec_fetch_site="same-origin")
    assert passes("POST", sec_fetch_site="none")
    assert passes("POST", origin="https://studio.example")
    assert passes("POST", origin="HTTPS://Studio.Example:443")


@pytest.mark.parametrize("site", ["same-site", "cross-site", "", "same-origin, cross-site", "something-new"])
def test_what_the_browser_calls_another_origin_passes_only_if_allowed(site: str) -> None:
    assert passes("POST", sec_fetch_site=site, origin="https://friend.example:8443")
    assert not passes("POST", sec_fetch_site=site, origin="https://studio.example")
    assert not passes("POST", sec_fetch_site=site)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "*",
        "studio.example",
        "http://studio.example",
        "https://studio.example:8443",
        "https://friend.example",
        "https://studio.example.evil.example",
        "https://studio.example@evil.example",
        "https://evil@studio.example",
        "https://[::1",
        "https://studio.example:99999",
        "file:///etc",
        "https://sub.studio.example",
        "\x00",
    ],
)
def test_an_origin_that_is_not_exactly_ours_is_denied(origin: str) -> None:
    assert not passes("POST", origin=origin)


def test_a_program_that_sends_neither_header_passes() -> None:
    assert passes("POST")


def test_doubled_headers_are_denied() -> None:
    for name in (b"origin", b"sec-fetch-site"):
        with pytest.raises(OriginDenied):
            check_origin("POST", [(name, b"same-origin"), (name, b"same-origin")], ALLOWED, OWN)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Studio.Example/", "https://studio.example"),
        ("http://localhost:80", "http://localhost"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("wss://studio.example", "https://studio.example"),
        ("ws://localhost:8080", "http://localhost:8080"),
        ("null", None),
        ("", None),
        ("//x", None),
        ("ftp://x", None),
    ],
)
def test_an_origin_is_written_in_one_way(url: str, origin: str | None) -> None:
    assert normal_origin(url) == origin


def test_our_own_origin_is_unknown_unless_there_is_one_host() -> None:
    one, other = (b"host", b"studio.example"), (b"host", b"evil.example")
    assert seen_origin("https", [one]) == "https://studio.example"
    assert seen_origin("https", []) is None
    assert seen_origin("https", [one, other]) is None


@given(st.text(max_size=40), st.binary(max_size=40))
def test_any_origin_and_host_can_be_read(text: str, host: bytes) -> None:
    normal_origin(text)
    seen_origin("http", [(b"host", host)])


SETTINGS = setup("s", dev_sign_in=True)


def request(method: str, identity: Identity, cookie: bool = True, scheme: str = "http", **headers: str) -> Any:
    sent = raw({"host": "127.0.0.1:8080", **{name.replace("_", "-"): value for name, value in headers.items()}})
    if cookie:
        sent.append((b"cookie", f"{NEXTAUTH_COOKIE}={dev_sign_in_cookie(SETTINGS, 'aoi')}".encode()))
    scope = {"type": "http", "scheme": scheme, "headers": sent, "method": method}
    if scheme.startswith("ws"):
        del scope["method"]
    return run(identity.identify_request(scope))


def test_a_request_by_cookie_is_checked_against_host_public_url_and_allowed_origins() -> None:
    identity = Identity(
        SETTINGS, public_url="https://studio.example/", allowed_origins=["https://friend.example/", "null"]
    )
    for origin in ("http://127.0.0.1:8080", "https://studio.example", "https://friend.example"):
        assert request("POST", identity, origin=origin).user_id == "aoi"
    for origin in ("https://evil.example", "http://localhost:8080", "null"):
        assert request("GET", identity, origin=origin).user_id == "aoi"
        with pytest.raises(OriginDenied):
            request("POST", identity, origin=origin)


def test_a_websocket_by_cookie_is_checked_like_a_write() -> None:
    identity = Identity(SETTINGS)
    assert request("", identity, scheme="ws", origin="http://127.0.0.1:8080").user_id == "aoi"
    with pytest.raises(OriginDenied):
        request("", identity, scheme="ws", origin="https://evil.example", sec_fetch_site="cross-site")


def test_callers_without_a_cookie_need_no_origin() -> None:
    assert request("POST", Identity(SETTINGS), cookie=False, origin="https://evil.example").is_anonymous


# --- development sign-in ---


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_these_addresses_are_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "0.0.0.0", "::", "::ffff:10.0.0.1", "localhost", "", None, "127.1", "2130706433"]
)
def test_these_are_not(host: str | None) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "studio.localhost:8080", "127.0.0.1:8080", "[::1]:8080"]
)
def test_development_sign_in_is_open_on_this_machine(host: str) -> None:
    check_dev_sign_in(SETTINGS, "127.0.0.1", raw({"host": host}))
    check_dev_sign_in(SETTINGS, "::1", raw({"host": host, "sec-fetch-site": "none"}))


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        ("10.0.0.5", {"host": "localhost"}),
        (None, {"host": "localhost"}),
        ("127.0.0.1", {"host": "rebound.evil.example"}),
        ("127.0.0.1", {"host": "localhost.evil.example"}),
        ("127.0.0.1", {"host": "localhost@evil.example"}),
        ("127.0.0.1", {}),
        ("127.0.0.1", {"host": "localhost", "x-forwarded-for": "127.0.0.1"}),
        ("127.0.0.1", {"host": "localhost", "forwarded": "for=127.0.0.1"}),
        ("127.0.0.1", {"host": "localhost", "x-real-ip": "127.0.0.1"}),
        ("127.0.0.1", {"host": "localhost", "via": "1.1 proxy"}),
        ("127.0.0.1", {"host": "localhost", "sec-fetch-site": "cross-site"}),
    ],
    ids=str,
)
def test_development_sign_in_is_closed_to_everybody_else(client: str | None, headers: dict[str, str]) -> None:
    with pytest.raises(NotFound):
        check_dev_sign_in(SETTINGS, client, raw(headers))


def test_development_sign_in_is_closed_unless_switched_on() -> None:
    with pytest.raises(NotFound):
        check_dev_sign_in(setup("s"), "127.0.0.1", raw({"host": "localhost"}))


def test_a_development_session_is_believed_like_any_other() -> None:
    value = dev_sign_in_cookie(SETTINGS, "aoi@example.com", "Aoi 葵")
    caller = run(Identity(SETTINGS).identify([(b"cookie", f"{NEXTAUTH_COOKIE}={value}".encode())]))
    assert (caller.user_id, caller.name, caller.scopes) == ("aoi@example.com", "Aoi 葵", frozenset({"user"}))


@pytest.mark.parametrize("user", ["", "a\nb", "x" * 256, "\0"])
def test_nobody_can_sign_in_as_a_user_that_cannot_be(user: str) -> None:
    with pytest.raises(InvalidRequest):
        dev_sign_in_cookie(SETTINGS, user)


def test_development_sign_in_needs_a_secret() -> None:
    with pytest.raises(ValueError, match="NEXTAUTH_SECRET"):
        dev_sign_in_cookie(setup(""), "aoi")
