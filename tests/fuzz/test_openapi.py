"""Every operation of the OpenAPI document, called with what it allows and what it forbids: the service does as written.

schemathesis generates the calls and holds the answers against the document; `schemathesis.toml` and `hooks.py` say how.
The seed is fixed, so a failure comes again; `BUTAI_FUZZ_ARGS="--seed 7 --max-examples 1000"` looks further.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from butai.api import document
from butai.config import Settings
from butai.database import Database
from butai.identity.api_keys import create_api_key
from butai.limits.callers import RateClass
from tests.fakes.livekit_egress import StandIn
from tests.fuzz.seeds import plant, users_file
from tests.processes import api_process

HERE = Path(__file__).parent


@pytest.fixture
async def livekit() -> AsyncIterator[StandIn]:
    """For ingresses; nobody is on air."""
    async with StandIn(key="devkey", secret="secretsecretsecretsecretsecretsecret", speed=50) as standin:
        yield standin


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_service_does_what_its_document_says(
    settings: Settings, database: Database, tmp_path: Path, livekit: StandIn
) -> None:
    _, token = await create_api_key(database, "alice", ["user"])
    live: dict[str, Any] = {
        "LIVEKIT_URL": livekit.url,
        "LIVEKIT_API_KEY": "devkey",
        "LIVEKIT_API_SECRET": "secretsecretsecretsecretsecretsecret",
        "BUTAI_SECRET_KEY": "ab" * 32,
        "BUTAI_ALLOW_PRIVATE_INGEST": "true",
        "BUTAI_INGEST_URL": "rtmps://ingest.example",
        # The fuzz asks, and guesses, more often than any caller may; 429 has tests of its own.
        **{f"BUTAI_RATE_{kind.upper()}": '{"burst": 1, "per_second": 0}' for kind in RateClass},
    }
    async with api_process(settings, tmp_path / "api.log", BUTAI_DEV_SIGN_IN="true", **live) as (process, api):
        (await plant(api)).write(tmp_path)
        async with database.transaction() as session:
            # No worker runs here that would make them.
            await session.execute(
                text(
                    "INSERT INTO asset_waveforms SELECT id, object_key, ARRAY[1, 2, 3] FROM assets WHERE status = 'ready'"
                )
            )
        users = {"alice": {"X-API-Key": token}, "bob": api.cookie("bob")}
        (tmp_path / "users.json").write_text(users_file(users))
        (tmp_path / "openapi.json").write_text(json.dumps(document()))
        shutil.copy(HERE / "schemathesis.toml", tmp_path)
        run = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path / "schemathesis.toml")),
            *("run", str(tmp_path / "openapi.json"), "--url", api.url, "--no-color"),
            *os.environ.get("BUTAI_FUZZ_ARGS", "").split(),
            cwd=HERE.parent.parent,
            env=os.environ | {"BUTAI_FUZZ_USERS": str(tmp_path / "users.json")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await run.communicate()
        finally:
            if run.returncode is None:
                run.kill()
        told = said.decode()
        print(told)
        assert process.poll() is None
        assert run.returncode == 0, told[-20_000:]
        assert (await api.call("GET", "/readyz"))[0] == 200
