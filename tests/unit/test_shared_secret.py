"""Tokens with a shared secret: only HS256, only the right secret, only within their time."""

from __future__ import annotations

import time
import warnings
from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from butai.config import LiveKitSettings, LiveSettings
from butai.identity.shared_secret import NoSharedSecretToken, SharedSecretToken
from butai.live import stamps
from butai.live.projects import Projects
from butai.live.stamps import Stamp, StampRole
from butai.live.tokens import LEEWAY, STAMP_LEEWAY, AdminClaims, Tokens

KEY, SECRET = "key-1", "s" * 32
TOKENS = Tokens(Projects(LiveKitSettings(url="ws://one", api_key=KEY, api_secret=SecretStr(SECRET)), LiveSettings()))


def token(algorithm: str = "HS256", secret: str = SECRET, **claims: Any) -> str:
    video = {"roomAdmin": True, "room": "r", "roomJoin": True, "canSubscribe": True}
    said: dict[str, Any] = {"iss": KEY, "sub": "host", "exp": int(time.time()) + 60, "video": video} | claims
    attributes = said.get("attributes")
    if isinstance(attributes, dict) and (text := attributes.get(stamps.ATTRIBUTE)) is not None:
        # As the service makes it with its stamp.
        said = {"roomConfig": {"tags": stamps.tags(text)}} | said
    said = {name: value for name, value in said.items() if value is not None}
    with warnings.catch_warnings():
        # PyJWT's, about secrets that are short for the longer algorithms.
        warnings.simplefilter("ignore")
        return jwt.encode(said, secret, algorithm)


def stamp(
    role: StampRole, room: str = "r", identity: str = "host", seconds: float = 60, secret: str = SECRET
) -> dict[str, str]:
    """The attributes of a token with such a stamp."""
    return {stamps.ATTRIBUTE: stamps.sign(Stamp(role, room, identity, 1, time.time() + seconds), secret)}


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_no_other_algorithm_is_taken(algorithm: str) -> None:
    foreign = token(algorithm, "" if algorithm == "none" else SECRET)
    with pytest.raises(NoSharedSecretToken):
        SharedSecretToken(foreign.encode())
    assert TOKENS.read_admin(foreign) is None


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
def test_an_administrators_token_is_good_in_its_time_for_its_room(claims: dict[str, Any], good: bool) -> None:
    """Times are in seconds from now."""
    now = time.time()
    at: dict[str, Any] = {name: int(now + value) for name, value in claims.items() if isinstance(value, int | float)}
    assert TOKENS.read_admin(token(**(claims | at))) == (AdminClaims("r", "host") if good else None)
    stamped = token(**(claims | at), attributes=stamp("host"))
    assert (TOKENS.read_host(stamped) is not None) is good


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
    found = TOKENS.read_invitation(token(video=video, attributes=stamp("invitation")))
    assert (found is not None) is good
    if found:
        assert (found.stamp.room, found.project) == ("r", "default") and 50 < found.seconds <= 60


def test_livekits_grants_are_no_rights_here_without_a_stamp() -> None:
    assert TOKENS.read_admin(token()) is not None, "good enough to claim its room with"
    for attributes in (None, {}, {stamps.ATTRIBUTE: ""}, {stamps.ATTRIBUTE: "a.b.c"}, {"other": "x"}, "all", [1]):
        assert TOKENS.read_host(token(attributes=attributes)) is None, attributes


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "guest"},
        {"role": "viewer"},
        {"role": "invitation"},
        {"room": "another"},
        {"identity": "another"},
        {"seconds": -STAMP_LEEWAY - 1},
        {"secret": "t" * 32},
    ],
)
def test_a_host_token_has_a_hosts_stamp_of_its_own_room_and_identity(wrong: dict[str, Any]) -> None:
    good: dict[str, Any] = {"role": "host"}
    assert TOKENS.read_host(token(attributes=stamp(**good))) is not None
    assert TOKENS.read_host(token(attributes=stamp(**(good | wrong)))) is None


def test_a_stamp_seen_in_the_room_makes_no_host_of_a_guest() -> None:
    video = {"room": "r", "roomJoin": True, "canSubscribe": True}
    assert TOKENS.read_host(token(video=video, attributes=stamp("host"))) is None
    assert TOKENS.read_invitation(token(attributes=stamp("invitation"))) is None, "an administrator's"


def test_a_stamp_is_no_token_of_livekits() -> None:
    text = stamp("host")[stamps.ATTRIBUTE]
    assert not SharedSecretToken(text.encode()).is_signed_with(SECRET)
    assert TOKENS.read_admin(text) is None


@pytest.mark.parametrize("room_config", [None, {}, {"tags": {}}, {"tags": {stamps.ATTRIBUTE: "0" * 64}}])
def test_a_stamp_that_was_written_into_another_token_is_none(room_config: dict[str, Any] | None) -> None:
    attributes = stamp("host")
    assert TOKENS.read_host(token(attributes=attributes)) is not None
    assert TOKENS.read_host(token(attributes=attributes, roomConfig=room_config)) is None
