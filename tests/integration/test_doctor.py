"""`butai doctor` on parts that are well, on sign-in and LiveKit each broken in turn, and as a command."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from butai.config import (
    DatabaseSettings,
    HttpSettings,
    IdentitySettings,
    LiveKitSettings,
    LiveSettings,
    Settings,
)
from butai.database import head_revision
from butai.doctor.capacity import examine_capacity
from butai.doctor.findings import Findings, Level
from butai.embedded.seaweed import EmbeddedSeaweed
from tests.conftest import NEXTAUTH_SECRET
from tests.doctor_reports import (
    LIVEKIT_SECRET,
    Serve,
    livekit,
    livekit_at,
    report,
    with_identity,
    with_store,
)
from tests.fakes.oidc_issuer import AUDIENCE, OidcIssuer
from tests.forked import command
from tests.processes import environment, free_port

# All is well


async def test_all_is_well_and_nothing_is_left_behind(
    bare: Settings, web_server: Serve, store_keys: Callable[[], list[str]], multiparts: Callable[[], list[str]]
) -> None:
    async with web_server(livekit) as address, OidcIssuer() as issuer:
        whole = replace(
            bare,
            livekit=livekit_at(address),
            http=HttpSettings(cors_origins=("http://localhost:3000",), public_url="http://localhost:8080"),
            identity=IdentitySettings(
                NEXTAUTH_SECRET=SecretStr(NEXTAUTH_SECRET),  # pyright: ignore[reportCallIssue]
                oidc_issuer=issuer.url,
                oidc_audience=AUDIENCE,
                dev_sign_in=True,
            ),
        )
        found = await report(whole)
    assert (found.broken, found.warnings) == ([], [])
    checks = {(each.area, each.check) for each in found.found}
    assert {
        ("Database", check) for check in ("reachable", "version", "clock", "pg_trgm", "tables", "may create")
    } <= checks
    assert {
        ("Store", check)
        for check in (
            *(
                "reachable",
                "clock",
                "put",
                "get",
                "head",
                "absent key",
                "ranges",
                "conditional put",
                "checksums",
                "copy",
            ),
            *("signatures", "anonymous reads", "multipart", "listing", "delete"),
        )
    } <= checks
    assert "404" in found.said("Store", "absent key")
    assert "may not list" in found.said("Store", "listing")
    assert head_revision() in found.said("Database", "tables")
    assert [each.message for each in found.found if each.check == "CORS"] == [
        "pages of http://localhost:3000 may send files straight to the store",
        "pages of http://localhost:8080 may send files straight to the store",
    ]
    assert store_keys() == multiparts() == []


async def test_an_identity_that_may_list_is_told_so(bare: Settings, seaweed: EmbeddedSeaweed) -> None:
    admin = seaweed.store.admin
    found = await report(
        with_store(
            bare,
            access_key_id=SecretStr(admin.access_key_id),
            secret_access_key=SecretStr(admin.secret_access_key),
        )
    )
    assert found.broken == []
    assert "--list works" in found.said("Store", "listing")


async def test_nothing_configured_says_what_would_configure_it() -> None:
    found = await report(
        Settings(
            database=DatabaseSettings(url=SecretStr("")),
            identity=IdentitySettings(NEXTAUTH_SECRET=SecretStr(""), AUTH_SECRET=SecretStr("")),  # pyright: ignore[reportCallIssue]
        )
    )
    assert found.broken == [("Database", "configured"), ("Store", "configured")]
    assert "export BUTAI_DATABASE_URL=" in found.said("Database", "configured")
    assert "export BUTAI_S3_ENDPOINT=" in found.said("Store", "configured")
    assert "export LIVEKIT_URL=" in found.said("LiveKit", "configured")
    assert "NEXTAUTH_SECRET" in found.said("Sign-in", "sessions")


@pytest.mark.parametrize(
    ("live", "level", "word", "advice"),
    [
        (LiveSettings(capacity=1.7), Level.OK, "1.7 cores for broadcasts: 5 at 720p30", ""),
        (LiveSettings(capacity=0.3), Level.WARNING, "one at a time", "raise or unset BUTAI_CAPACITY"),
        (LiveSettings(capacity_reserve=1000), Level.WARNING, "one at a time", "lower BUTAI_CAPACITY_RESERVE"),
        (LiveSettings(capacity=0), Level.WARNING, "takes no new broadcasts", "raise it"),
    ],
)
async def test_how_many_broadcasts_fit_is_told(live: LiveSettings, level: Level, word: str, advice: str) -> None:
    findings = Findings("Capacity", [])
    await examine_capacity(replace(Settings(), live=live), findings)
    [found] = findings.found
    assert found.level is level and word in found.message
    # A number of the operator's takes the place of the reserve.
    assert advice in (found.advice or "")
    assert ("RESERVE" in (found.advice or "")) is (live.capacity is None)


# Sign-in


async def test_development_sign_in_in_the_open_is_broken(bare: Settings) -> None:
    for http in (HttpSettings(host="0.0.0.0"), HttpSettings(public_url="https://studio.example")):
        found = await report(replace(bare, http=http))
        assert found.broken == [("Sign-in", "development sign-in")]
        assert "unset BUTAI_DEV_SIGN_IN" in found.said("Sign-in", "development sign-in")


async def test_secrets_are_judged_and_never_shown(bare: Settings) -> None:
    found = await report(with_identity(bare, NEXTAUTH_SECRET=SecretStr("canary-sho"), AUTH_SECRET=SecretStr("c" * 40)))
    told = [each for each in found.found if each.check == "sessions"]
    assert [each.level for each in told] == [Level.WARNING, Level.OK]
    found_numbered = await report(with_identity(bare, AUTH_SECRET_2=SecretStr("d" * 40)))
    assert any("AUTH_SECRET_2" in each.message for each in found_numbered.found if each.check == "sessions")
    assert "canary-sho" not in str(found.found) and "c" * 40 not in str(found.found)
    found = await report(
        with_identity(bare, dev_sign_in=True, NEXTAUTH_SECRET=SecretStr(""), AUTH_SECRET=SecretStr(""))
    )
    assert found.broken == [("Sign-in", "development sign-in")]


@pytest.mark.slow
async def test_an_issuer_is_asked_for_its_keys(bare: Settings) -> None:
    async with OidcIssuer() as issuer:
        good = with_identity(bare, oidc_issuer=issuer.url, oidc_audience=AUDIENCE)
        assert "publishes 1 keys" in (await report(good)).said("Sign-in", "issuer")
        found = await report(with_identity(bare, oidc_issuer=issuer.url))
        assert "BUTAI_OIDC_AUDIENCE" in str(found.found) and found.broken == [("Sign-in", "issuer")]
        found = await report(with_identity(bare, oidc_issuer=issuer.url + "/", oidc_audience=AUDIENCE))
        assert f"export BUTAI_OIDC_ISSUER={issuer.url}" in found.said("Sign-in", "issuer")
        issuer.status = 500
        assert "500" in (await report(good)).said("Sign-in", "issuer")
        issuer.status, issuer.body = 200, b"<html>"
        assert (await report(good)).broken == [("Sign-in", "issuer")]
        issuer.body = None
        issuer.keys.clear()
        assert "gives no keys" in (await report(good)).said("Sign-in", "issuer")
        issuer.gate.clear()
        assert "no answer within" in (await report(good)).said("Sign-in", "issuer")
    assert (await report(good)).broken == [("Sign-in", "issuer")]


# LiveKit


async def test_livekit_takes_the_key_or_refuses_it(bare: Settings, web_server: Serve) -> None:
    async with web_server(livekit) as address:
        found = await report(replace(bare, livekit=livekit_at(address)))
        assert "accepted" in found.said("LiveKit", "key")
        found = await report(replace(bare, livekit=livekit_at(address, "canary-other-secret-0123456789abcdef")))
        assert found.broken == [("LiveKit", "key")]
        assert "LIVEKIT_API_SECRET" in found.said("LiveKit", "key") and "canary" not in str(found.found)
        found = await report(replace(bare, livekit=livekit_at(address, "short")))
        assert ("LiveKit", "secret") in found.warnings
        found = await report(replace(bare, livekit=LiveKitSettings(url=address)))
        assert "LIVEKIT_API_KEY" in found.said("LiveKit", "configured")
    found = await report(replace(bare, livekit=livekit_at(address)))
    assert found.broken == [("LiveKit", "reachable")]
    found = await report(replace(bare, livekit=livekit_at("livekit.example")))
    assert found.broken == [("LiveKit", "configured")]
    async with web_server(lambda _request: web.Response(status=404)) as address:
        found = await report(replace(bare, livekit=livekit_at(address)))
        assert "another program" in found.said("LiveKit", "reachable")


async def test_every_livekit_project_is_asked_with_every_key(bare: Settings, web_server: Serve, tmp_path: Path) -> None:
    file = tmp_path / "projects.json"

    def with_file(**projects: Any) -> Settings:
        file.write_text(json.dumps(projects))
        return replace(found_by, live=bare.live.model_copy(update={"livekit_projects_file": file}))

    def entry(url: str, *secrets: str) -> dict[str, Any]:
        return {"url": url, "keys": [{"api_key": "devkey", "api_secret": secret} for secret in secrets]}

    other = "canary-other-secret-0123456789abcdef"
    async with web_server(livekit) as address:
        found_by = replace(bare, livekit=livekit_at(address, other))
        settings = with_file(tokyo=entry(address, LIVEKIT_SECRET))
        file.chmod(0o644)
        found = await report(settings)
        assert "accepted" in found.said("LiveKit", "key of tokyo")
        assert "LIVEKIT_API_SECRET" in found.said("LiveKit", "key") and found.broken == [("LiveKit", "key")]
        assert f"chmod 600 {file}" in found.said("LiveKit", "projects")
        file.chmod(0o600)
        # The file's word on the default project is the newer one.
        found = await report(with_file(default=entry(address, LIVEKIT_SECRET, other, "short")))
        assert found.broken == [] and "default" in found.said("LiveKit", "projects")
        assert "accepted" in found.said("LiveKit", "key of default")
        assert [check for area, check in found.warnings if area == "LiveKit"] == [
            "key of default (key 2)",
            "key of default (key 3)",
            "secret of default (key 3)",
        ]
        found = await report(with_file(tokyo=entry(address, other + "x"), osaka=entry("ws://127.0.0.1:9", other + "y")))
        assert set(found.broken) == {("LiveKit", f"{what}") for what in ("key", "key of tokyo", "reachable of osaka")}
        assert f"url of osaka in {file}" in found.said("LiveKit", "reachable of osaka")
        assert f"key 1 of tokyo in {file}" in found.said("LiveKit", "key of tokyo")
        found = await report(with_file(tokyo=entry("x", LIVEKIT_SECRET)))
        assert "wss://" in found.said("LiveKit", "projects") and ("LiveKit", "projects") in found.broken
        file.unlink()
        found = await report(settings)
        assert "No such file" in found.said("LiveKit", "projects")
        assert "canary" not in str(found.found)
        found_by = replace(bare, livekit=LiveKitSettings(url="", api_key="", api_secret=SecretStr("")))
        assert ("LiveKit", "configured") in (await report(with_file())).warnings
        found = await report(with_file(tokyo=entry(address, LIVEKIT_SECRET)))
        assert ("LiveKit", "configured") not in found.warnings and found.broken == []


# The command


def _doctor(settings: Settings, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "butai.cli", "doctor", *arguments],
        env=environment(settings, **env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
async def test_the_command_prints_lines_and_json(bare: Settings) -> None:
    done = await command("doctor", env=environment(bare))
    assert done.returncode == 0, done.stdout
    assert "✓ reachable" in done.stdout and "! configured: not configured" in done.stdout
    assert "→ export LIVEKIT_URL=" in done.stdout and "✗" not in done.stdout
    done = await command("doctor", "--json", env=environment(bare, BUTAI_DEV_SIGN_IN="true", BUTAI_HOST="0.0.0.0"))
    told = json.loads(done.stdout)
    assert done.returncode == 1 and told["ok"] is False
    (broken,) = [each for each in told["findings"] if each["level"] == "broken"]
    assert (broken["area"], broken["check"]) == ("Sign-in", "development sign-in") and broken["advice"]


@pytest.mark.slow
async def test_the_command_works_when_everything_is_down_and_shows_no_secret(bare: Settings) -> None:
    down = f"127.0.0.1:{free_port()}"
    canaries = {
        "BUTAI_DATABASE_URL": f"postgresql://butai:canary-one%40x@{down}/butai?application_name=x",
        "BUTAI_S3_ENDPOINT": f"http://{down}",
        "BUTAI_S3_ACCESS_KEY_ID": "canary-two-id",
        "BUTAI_S3_SECRET_ACCESS_KEY": "canary-three",
        "BUTAI_S3_SESSION_TOKEN": "canary-four",
        "NEXTAUTH_SECRET": "canary-five",
        "AUTH_SECRET": "canary-six, canary-seven",
        "BUTAI_OIDC_ISSUER": f"http://{down}",
        "LIVEKIT_URL": f"ws://{down}",
        "LIVEKIT_API_KEY": "key",
        "LIVEKIT_API_SECRET": "canary-eight",
    }
    for arguments in ((), ("--json",)):
        done = await asyncio.to_thread(_doctor, bare, *arguments, PYTHONIOENCODING="ascii", **canaries)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr + done.stdout
        assert "canary" not in (done.stderr + done.stdout).replace("canary_", "")
        assert down.rpartition(":")[2] in done.stdout
    told = json.loads(done.stdout)
    broken = {(each["area"], each["check"]) for each in told["findings"] if each["level"] == "broken"}
    assert broken == {
        ("Database", "reachable"),
        ("Store", "reachable"),
        ("Browsers and the store", "signed URLs"),
        ("Sign-in", "issuer"),
        ("LiveKit", "reachable"),
    }
