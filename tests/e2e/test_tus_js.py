"""tus-js-client in Node, unmodified, while the service is killed and comes back."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest

from butai.config import Settings
from butai.identity import NEXTAUTH_COOKIE, dev_sign_in_cookie
from tests.e2e.test_resumable_1gib import MIB, Service, write_glb

HERE = Path(__file__).parent / "tus_js"
SIZE = 60 * MIB


@pytest.mark.slow
async def test_a_page_s_upload_survives_the_service(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "tus_js"
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, timeout=120, capture_output=True)
    file = tmp_path / "a.glb"
    sha256 = write_glb(file, SIZE)
    cookie = f"{NEXTAUTH_COOKIE}={dev_sign_in_cookie(settings.identity, 'alice')}"
    service = Service(settings, tmp_path / "api.log")
    with service.running():
        await service.ready()
        child = await asyncio.create_subprocess_exec(
            "node",
            "upload.mjs",
            f"http://127.0.0.1:{service.port}/api/assets/uploads",
            str(file),
            cookie,
            "scene/a.glb",
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert child.stdout is not None
        told: list[str] = []
        try:
            async with asyncio.timeout(120):
                async for line in child.stdout:
                    told.append(line.decode().strip())
                    accepted = sum(one.startswith("accepted") for one in told)
                    if accepted == 3 and service.kills == 0:
                        service.kill()
                await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
    assert service.kills == 1, told
    assert child.returncode == 0, told
    assert told[-1].startswith("done"), told
    with psycopg.connect(settings.database.url.get_secret_value()) as connection:
        row = connection.execute("SELECT status, size_bytes, sha256 FROM assets").fetchone()
    assert row == ("ready", SIZE, sha256)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == sha256
