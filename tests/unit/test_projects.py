"""LiveKit projects: the environment's, those of a file, and keys that are exchanged while all goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from livekit import api
from pydantic import SecretStr

from butai.config import LiveKitSettings, LiveSettings
from butai.errors import LiveKitNotConfigured
from butai.live.projects import Projects, ProjectsInvalid
from butai.live.tokens import Tokens

ENVIRONMENT = LiveKitSettings(
    url="ws://one:7880", api_key="key-1", api_secret=SecretStr("canary-secret-one-" + "1" * 20)
)
NONE = LiveKitSettings(url="", api_key="", api_secret=SecretStr(""))


def entry(url: str, *keys: str, **more: Any) -> dict[str, Any]:
    return {
        "url": url,
        "keys": [{"api_key": key, "api_secret": f"canary-secret-{key}-" + "2" * 20} for key in keys],
        **more,
    }


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 2
        return self.now


def written(file: Path, content: Any) -> Path:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def projects(file: Path | None = None, livekit: LiveKitSettings = ENVIRONMENT) -> Projects:
    return Projects(livekit, LiveSettings(livekit_projects_file=file), Clock())


def test_the_environment_alone_is_the_default_project() -> None:
    found = projects()
    assert found.names == ["default"]
    assert found.get().http_url == "http://one:7880"
    assert "canary" not in repr(found.get())
    with pytest.raises(LiveKitNotConfigured):
        found.get("other")
    assert not projects(livekit=NONE).configured


def test_a_file_adds_projects_and_may_take_the_place_of_the_default(tmp_path: Path) -> None:
    file = written(tmp_path / "p.json", {"tokyo": entry("wss://two", "a", "b", public_url="wss://two.example")})
    found = projects(file)
    assert found.names == ["default", "tokyo"]
    tokyo = found.get("tokyo")
    assert (tokyo.key.api_key, tokyo.public_url, tokyo.http_url) == ("a", "wss://two.example", "https://two")
    assert [(one.name, key.api_key) for one, key in found.of_key("b")] == [("tokyo", "b")]
    written(file, {"default": entry("ws://three", "c")})
    assert found.get().url == "ws://three"
    assert found.names == ["default"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"a": {"url": "ws://x"}}',
        {"a": entry("ftp://x", "k")},
        {"a": entry("ws://x")},
        {"": entry("ws://x", "k")},
    ],
)
def test_a_file_that_is_wrong_is_told_at_the_start_and_changes_nothing_later(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ProjectsInvalid) as caught:
        projects(written(tmp_path / "bad.json", content))
    assert "canary" not in str(caught.value)
    file = written(tmp_path / "good.json", {"tokyo": entry("ws://two", "a")})
    found = projects(file)
    written(file, content)
    assert found.names == ["default", "tokyo"]
    written(file, {"osaka": entry("ws://two", "a")})
    assert found.names == ["default", "osaka"]


def test_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ProjectsInvalid):
        projects(tmp_path / "none.json")
    file = written(tmp_path / "good.json", {"tokyo": entry("ws://two", "a")})
    found = projects(file)
    file.unlink()
    assert found.names == ["default", "tokyo"]


def test_keys_are_exchanged_in_three_steps(tmp_path: Path) -> None:
    file = written(tmp_path / "p.json", {"tokyo": entry("ws://two", "old")})
    found = projects(file)
    tokens = Tokens(found)
    before = tokens.make("tokyo", "host", "r", "host-1", "", 1)
    written(file, {"tokyo": entry("ws://two", "old", "new")})
    assert _signer(tokens.make("tokyo", "host", "r", "host-1", "", 1)) == "old"
    written(file, {"tokyo": entry("ws://two", "new", "old")})
    after = tokens.make("tokyo", "host", "r", "host-1", "", 1)
    assert _signer(after) == "new"
    for token in (before, after):
        claims = tokens.read_host(token)
        assert claims is not None and (claims.room, claims.identity, claims.project) == ("r", "host-1", "tokyo")
    written(file, {"tokyo": entry("ws://two", "new")})
    assert tokens.read_host(before) is None
    assert tokens.read_host(after) is not None


def test_two_projects_may_have_keys_of_one_name(tmp_path: Path) -> None:
    other = {"url": "ws://two", "keys": [{"api_key": "key-1", "api_secret": "another-secret-" + "3" * 20}]}
    tokens = Tokens(projects(written(tmp_path / "p.json", {"tokyo": other})))
    for name in ("default", "tokyo"):
        claims = tokens.read_host(tokens.make(name, "host", "r", "h", "", 1))
        assert claims is not None and claims.project == name


@pytest.mark.parametrize("token", ["", "a.b.c", "x", "..", "a." + "é" * 5 + ".c", "a.e30.c"])
def test_what_is_no_token_rules_nothing(token: str) -> None:
    assert Tokens(projects()).read_host(token) is None


def test_a_token_signed_with_another_secret_rules_nothing() -> None:
    grants = api.VideoGrants(room_admin=True, room="r")
    forged = api.AccessToken("key-1", "f" * 32).with_identity("h").with_grants(grants).to_jwt()
    assert Tokens(projects()).read_host(forged) is None


def _signer(token: str) -> str:
    import base64

    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["iss"]
