"""The service's own processes: `api`, `worker` and others, with the settings of a test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from pathlib import Path

import aiohttp

from butai.config import Settings
from butai.embedded.folder import PORTS_FOR_ONE_RUN, choose_port
from tests.conftest import Api
from tests.forked import Forked

Child = subprocess.Popen[bytes] | Forked

ROOT = Path(__file__).parents[1]


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """What a process needs in its environment to have these settings."""
    return {
        **os.environ,
        "BUTAI_DATABASE_URL": settings.database.url.get_secret_value(),
        "BUTAI_S3_ENDPOINT": settings.store.endpoint,
        "BUTAI_S3_BUCKET": settings.store.bucket,
        "BUTAI_S3_PREFIX": settings.store.prefix,
        "BUTAI_S3_ACCESS_KEY_ID": settings.store.access_key_id.get_secret_value(),
        "BUTAI_S3_SECRET_ACCESS_KEY": settings.store.secret_access_key.get_secret_value(),
        "BUTAI_DATA_DIR": str(settings.up.data_dir),
        "NEXTAUTH_SECRET": settings.identity.nextauth_secret.get_secret_value(),
        **more,
    }


def free_port() -> int:
    """A free port, which no outgoing connection gets before our server listens, or while it is down."""
    return choose_port(among=PORTS_FOR_ONE_RUN)


@contextlib.contextmanager
def python(
    *arguments: str, env: Mapping[str, str], log: Path, through: Sequence[str] = ()
) -> Generator[subprocess.Popen[bytes]]:
    """`python …`, told to end when the block does, and killed 15 s later. `through`: a command that runs it."""
    with log.open("ab") as out:
        child = subprocess.Popen([*through, sys.executable, *arguments], cwd=ROOT, env=env, stdout=out, stderr=out)
    with _ending(child):
        yield child


@contextlib.contextmanager
def forked(module: str, *arguments: str, env: Mapping[str, str], log: Path) -> Generator[Forked]:
    """`python -m module …` as a fork of a process that has loaded it, ended as `python` ends."""
    child = Forked(module, arguments, env=env, stdout=log)
    with _ending(child):
        yield child


@contextlib.contextmanager
def _ending(child: Child) -> Generator[None]:
    try:
        yield
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextlib.contextmanager
def process(
    settings: Settings, log: Path, *arguments: str, through: Sequence[str] | None = None, **more: str
) -> Generator[Child]:
    """`butai …` until the block ends: forked, or a program as an operator starts it if `through` is given.

    `through`: the command that runs the program, such as `prlimit`; empty for none.
    """
    env = environment(settings, **more)
    if through is None:
        with forked("butai.cli.__main__", *arguments, env=env, log=log) as child:
            yield child
    else:
        with python("-m", "butai.cli", *arguments, env=env, log=log, through=through) as program:
            yield program


@contextlib.asynccontextmanager
async def api_process(
    settings: Settings, log: Path, port: int | None = None, *, through: Sequence[str] | None = None, **more: str
) -> AsyncGenerator[tuple[Child, Api]]:
    """The API in a process of its own, ready."""
    port = port or free_port()
    with process(settings, log, "api", "--port", str(port), through=through, **more) as child:
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            api = Api(f"http://127.0.0.1:{port}", settings, client)
            await ready(api, child, log)
            yield child, api


async def ready(api: Api, child: Child, log: Path) -> None:
    """Waits until `/readyz` says so, a minute at most."""
    async with asyncio.timeout(60):
        while True:
            assert child.poll() is None, log.read_text()[-2000:]
            with contextlib.suppress(aiohttp.ClientError):
                async with api.client.get(f"{api.url}/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.05)
