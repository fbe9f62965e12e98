"""LiveKit projects: the environment's, those of a file, and keys that are exchanged while all goes on."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from livekit import api
from pydantic import SecretStr

from butai.config import LiveKitSettings, LiveSettings
from butai.errors import LiveKitNotConfigured
from butai.live.egress.relay.engine import RelayContext, RelayEngine
from butai.live.egress.relay.process import WatchedProcess
from butai.live.projects import Projects, ProjectsInvalid
from butai.live.reconcile.rows import BroadcastRow
from butai.live.reconcile.timing import Timing
from butai.live.stamps import Stamp
from butai.live.tokens import Tokens
from butai.relay import messages

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


DEEP = "a." + base64.urlsafe_b64encode(b'{"a":' + b"[" * 20_000).decode() + ".c"
"""What makes a parser give up by itself."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 2
        return self.now


def written(file: Path, content: Any) -> Path:
    if isinstance(content, dict):
        content = json.dumps(content)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
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
        {"a" * 101: entry("ws://x", "k")},
        {"a": entry("ws://", "k")},
        {"a": entry("wss://[x", "k")},
        {"a": entry("ws://x", "k", public_url="x")},
        {"a": entry("ws://x", "k", secret="canary")},
        {"a": {"url": "ws://x", "keys": [{"api_key": "k", "api_secret": ""}]}},
        # A key of two projects: what it signed would not say whose it is.
        {"a": entry("ws://x", "k"), "b": entry("ws://y", "l", "k")},
        {
            "a": {
                "url": "ws://x",
                "keys": [{"api_key": "key-1", "api_secret": ENVIRONMENT.api_secret.get_secret_value()}],
            }
        },
        b'{"a": {"url": "ws://x", "keys": [{"api_key": "canary\xff", "api_secret": "canary"}]}}',
        '{"a": {"x": ' + "[" * 20_000 + "]" * 20_000 + "}}",
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


def test_trouble_with_the_file_is_told_once_and_not_at_each_look(tmp_path: Path) -> None:
    file = written(tmp_path / "p.json", {"tokyo": entry("ws://two", "a")})
    found = projects(file)
    with structlog.testing.capture_logs() as told:
        for trouble in (file.unlink, lambda: written(file, "{"), file.unlink):
            trouble()
            assert [found.names for _ in range(3)] == [["default", "tokyo"]] * 3
        written(file, {"tokyo": entry("ws://two", "b")})
        assert found.get("tokyo").key.api_key == "b"
    assert [line["event"] for line in told] == ["livekit.projects_not_read"] * 3 + ["livekit.projects_read"]
    assert "canary" not in str(told)


def _stamp(room: str, identity: str) -> Stamp:
    return Stamp("host", room, identity, 1, time.time() + 3600)


def test_keys_are_exchanged_in_three_steps(tmp_path: Path) -> None:
    file = written(tmp_path / "p.json", {"tokyo": entry("ws://two", "old")})
    found = projects(file)
    tokens = Tokens(found)
    before = tokens.make("tokyo", _stamp("r", "host-1"))
    written(file, {"tokyo": entry("ws://two", "old", "new")})
    assert _signer(tokens.make("tokyo", _stamp("r", "host-1"))) == "old"
    written(file, {"tokyo": entry("ws://two", "new", "old")})
    after = tokens.make("tokyo", _stamp("r", "host-1"))
    assert _signer(after) == "new"
    for token in (before, after):
        claims = tokens.read_host(token)
        assert claims is not None
        assert (claims.stamp.room, claims.stamp.identity, claims.project) == ("r", "host-1", "tokyo")
    written(file, {"tokyo": entry("ws://two", "new")})
    assert tokens.read_host(before) is None
    assert tokens.read_host(after) is not None


def test_two_projects_may_have_keys_of_one_name(tmp_path: Path) -> None:
    other = {"url": "ws://two", "keys": [{"api_key": "key-1", "api_secret": "another-secret-" + "3" * 20}]}
    tokens = Tokens(projects(written(tmp_path / "p.json", {"tokyo": other})))
    for name in ("default", "tokyo"):
        claims = tokens.read_host(tokens.make(name, _stamp("r", "h")))
        assert claims is not None and claims.project == name


@pytest.mark.parametrize("token", ["", "a.b.c", "x", "..", "a." + "é" * 5 + ".c", "a.e30.c", DEEP])
def test_what_is_no_token_rules_nothing(token: str) -> None:
    assert Tokens(projects()).read_host(token) is None
    assert Tokens(projects()).read_admin(token) is None


def test_a_token_signed_with_another_secret_rules_nothing() -> None:
    grants = api.VideoGrants(room_admin=True, room="r")
    forged = api.AccessToken("key-1", "f" * 32).with_identity("h").with_grants(grants).to_jwt()
    assert Tokens(projects()).read_host(forged) is None
    assert Tokens(projects()).read_admin(forged) is None


async def test_a_relay_gets_a_token_of_the_new_key_as_soon_as_the_key_is_exchanged(tmp_path: Path) -> None:
    file = written(tmp_path / "p.json", {"tokyo": entry("ws://two", "old")})
    given = projects(file)
    context = RelayContext(given, Tokens(given), bytes.decode, Timing(), allow_private=False)
    # A process of its own stands for the relay: an engine ends one that it does not hear.
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ours, relays = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    orders, reports = await asyncio.open_connection(sock=relays)
    source = messages.SourceLine("connecting", 0.0)
    welcome = messages.WelcomeLine("r1", process.pid, False, source, [])
    relay = WatchedProcess(process.pid, process)
    engine = RelayEngine(context, uuid.uuid4(), reader, writer, relay, welcome, on_close=lambda _: None)
    heard: asyncio.Queue[Any] = asyncio.Queue()
    engine.follow(heard.put_nowait, lambda: None)
    await heard.get()
    row = BroadcastRow(uuid.uuid4(), "r", "h", "on_air", "720p30", "any", "", 60.0, "end", (), livekit_project="tokyo")

    async def told(then: Callable[[], None]) -> list[Any]:
        then()
        engine.stop()
        reports.write(messages.encode(source))
        await heard.get()
        found: list[Any] = []
        while not isinstance(line := messages.read_by_relay(await orders.readline()), messages.StopLine):
            found.append(line)
        return found

    def tick() -> None:
        engine.tick(ping=False)

    try:
        async with asyncio.timeout(60):
            (first,) = await told(lambda: engine.configure(row))
            assert (first.livekit_url, _signer(first.token)) == ("ws://two", "old")
            assert await told(tick) == []
            written(file, {"tokyo": entry("ws://two", "new", "old")})
            (second,) = await told(tick)
            assert _signer(second.token) == "new"
            assert await told(tick) == []
            # A project that is gone takes nothing from a relay that is in its room.
            written(file, {})
            assert await told(tick) == []
        assert process.poll() is None
    finally:
        engine.detach()
        reports.close()
        process.kill()
        process.wait()


def _signer(token: str) -> str:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["iss"]
