"""Tokens with a shared secret: HS256 alone, by the right secret alone, in time alone."""

from __future__ import annotations

import time
import warnings
from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from butai.config import LiveKitSettings, LiveSettings
from butai.identity.shared_secret import NoSharedSecretToken, SharedSecretToken
from butai.live.projects import Projects
from butai.live.tokens import LEEWAY, HostClaims, Tokens

KEY, SECRET = "key-1", "s" * 32
TOKENS = Tokens(Projects(LiveKitSettings(url="ws://one", api_key=KEY, api_secret=SecretStr(SECRET)), LiveSettings()))


def token(algorithm: str = "HS256", secret: str = SECRET, **claims: Any) -> str:
    video = {"roomAdmin": True, "room": "r", "roomJoin": True, "canSubscribe": True}
    said = {"iss": KEY, "sub": "host", "exp": int(time.time()) + 60, "video": video} | claims
    said = {name: value for name, value in said.items() if value is not None}
    with warnings.catch_warnings():
        # PyJWT's, about secrets that are short for the longer algorithms.
        warnings.simplefilter("ignore")
        return jwt.encode(said, secret, algorithm)


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_no_other_algorithm_is_taken(algorithm: str) -> None:
    foreign = token(algorithm, "" if algorithm == "none" else SECRET)
    with pytest.raises(NoSharedSecretToken):
        SharedSecretToken(foreign.encode())
    assert TOKENS.read_host(foreign) is None


@pytest.mark.parametrize("text", [b"", b"a", b"a.b.c", b"e30.e30.e30", b"..", b"\xff.\xff.\xff", b"." * 5000])
def test_what_is_no_token_is_refused(text: bytes) -> None:
    with pytest.raises(NoSharedSecretToken):
        SharedSecretToken(text)


def test_its_own_secret_alone_has_signed_it() -> None:
    signed = SharedSecretToken(token().encode())
    assert signed.is_signed_with(SECRET)
    assert not signed.is_signed_with("t" * 32)
    assert not signed.is_signed_with("")
    head, payload, _ = token().split(".")
    assert not SharedSecretToken(f"{head}.{payload}.".encode()).is_signed_with(SECRET)


@pytest.mark.parametrize(
    ("claims", "good"),
    [
        ({}, True),
        ({"exp": -LEEWAY + 20}, True),
        ({"exp": -LEEWAY - 5}, False),
        ({"exp": None}, False),
        ({"nbf": LEEWAY + 60}, False),
        ({"iat": LEEWAY + 60}, False),
        ({"nbf": -5, "iat": -5}, True),
        ({"iss": "key-2"}, False),
        ({"iss": None}, False),
        ({"sub": None}, False),
        ({"video": {"roomAdmin": False, "room": "r"}}, False),
        ({"video": {"roomAdmin": True}}, False),
        ({"video": "all"}, False),
        ({"exp": "soon"}, False),
    ],
)
def test_a_host_token_is_good_in_its_time_for_its_room(claims: dict[str, Any], good: bool) -> None:
    """Times are in seconds from now."""
    now = time.time()
    at: dict[str, Any] = {name: int(now + value) for name, value in claims.items() if isinstance(value, int | float)}
    assert TOKENS.read_host(token(**(claims | at))) == (HostClaims("r", "host") if good else None)


@pytest.mark.parametrize(
    ("grants", "good"),
    [
        ({"canPublish": False}, True),
        ({"canPublish": False, "canSubscribe": False}, False),
        ({"canPublish": True}, False),
        # As LiveKit has it: who is not said to publish nothing may publish.
        ({}, False),
        ({"canPublish": False, "roomJoin": False}, False),
    ],
)
def test_a_viewer_token_subscribes_and_does_not_publish(grants: dict[str, bool], good: bool) -> None:
    video = {"room": "r", "roomJoin": True, "canSubscribe": True} | grants
    found = TOKENS.read_viewer(token(video=video))
    assert (found is not None) is good
    if found:
        assert (found.room, found.project) == ("r", "default") and 50 < found.seconds <= 60
