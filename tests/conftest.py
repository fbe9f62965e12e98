"""What the tests share: a real Postgres and a real store for the session, a fresh database for each test."""

from __future__ import annotations

import contextlib
import signal
import socket
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from xml.etree import ElementTree

import aiohttp
import psycopg
import pytest
import structlog
from pydantic import SecretStr
from yarl import URL

from butai.api import create_app
from butai.assets.library import assemble
from butai.assets.storage import sigv4
from butai.assets.storage.client import Store
from butai.config import (
    AssetSettings,
    DatabaseSettings,
    HttpSettings,
    IdentitySettings,
    LogSettings,
    Settings,
    StoreSettings,
    UpSettings,
)
from butai.database import Database
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.seaweed import EmbeddedSeaweed
from butai.identity import NEXTAUTH_COOKIE, dev_sign_in_cookie
from butai.worker import make_app
from tests import lanes
from tests.databases import Databases, run_databases
from tests.examples import register_profiles
from tests.fakes.store_proxy import StoreProxy
from tests.prompt_server import run_server

# A shell that starts the tests in the background has them ignore Ctrl-C, and all programs that they start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

register_profiles()

NEXTAUTH_SECRET = "canary-nextauth-secret-4f1d"


@pytest.fixture(autouse=True)
def logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undoes what a test configures of structlog. Without a cache, since a logger of a module would keep the configuration of
    the test that used it first."""
    configure = structlog.configure

    def uncached(**given: Any) -> None:
        given["cache_logger_on_first_use"] = False
        configure(**given)

    monkeypatch.setattr(structlog, "configure", uncached)
    yield
    structlog.reset_defaults()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Called by pytest; first, since what xdist's hook makes of the groups comes after."""
    lanes.assign(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Called by pytest before the fixtures of a test are made."""
    lanes.set_priority(item)


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """A Postgres with a migrated database to copy."""
    with run_databases(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture(scope="session")
def postgres(databases: Databases) -> EmbeddedPostgres:
    """The server of all databases but those of tests that start their own."""
    return databases.server


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedSeaweed]:
    """A real S3 store whose identity may not list."""
    with EmbeddedSeaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def one_proxy(seaweed: EmbeddedSeaweed) -> Iterator[StoreProxy]:
    with StoreProxy(seaweed.store.endpoint) as proxy:
        yield proxy
    # Whatever the suite did, it never asked what is in the bucket.
    assert [seen for seen in proxy.seen if seen.lists] == []


@pytest.fixture
def proxy(one_proxy: StoreProxy) -> Iterator[StoreProxy]:
    """The recording proxy before the store, well-behaved at the start of each test."""
    one_proxy.heal()
    yield one_proxy
    one_proxy.heal()


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """A fresh migrated database."""
    with databases.fresh() as url:
        yield url


@pytest.fixture
def as_owner(databases: Databases, database_url: str) -> Callable[[str], None]:
    """Carries out a statement that only the owner of the fresh database's tables may."""

    def act(statement: str) -> None:
        with psycopg.connect(databases.owners(database_url), autocommit=True) as connection:
            connection.execute(statement.encode())

    return act


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, database_url: str, seaweed: EmbeddedSeaweed, proxy: StoreProxy, tmp_path: Path
) -> Settings:
    """Settings of a service that stands behind the proxy; a prefix of its own keeps tests apart in the bucket.

    The store is waited for longer than any machine takes, but in tests with the mark `store_hangs`.
    """
    store = seaweed.store
    return Settings(
        database=DatabaseSettings(url=SecretStr(database_url)),
        store=StoreSettings(
            endpoint=proxy.endpoint,
            bucket=store.bucket,
            prefix=f"{uuid.uuid4().hex}/",
            access_key_id=SecretStr(store.credentials.access_key_id),
            secret_access_key=SecretStr(store.credentials.secret_access_key),
            read_timeout=5 if request.node.get_closest_marker("store_hangs") else 60,
        ),
        http=HttpSettings(),
        identity=IdentitySettings(NEXTAUTH_SECRET=SecretStr(NEXTAUTH_SECRET), dev_sign_in=True),  # pyright: ignore[reportCallIssue]
        assets=AssetSettings(quota_bytes=0, quota_files=0),
        log=LogSettings(),
        up=UpSettings(data_dir=tmp_path / "data"),
    )


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """The fresh database, opened."""
    async with Database(settings.database) as opened:
        yield opened


@dataclass
class Api:
    """A running API and a client of it."""

    url: str
    settings: Settings
    client: aiohttp.ClientSession

    def cookie(self, user: str) -> dict[str, str]:
        """Headers that sign `user` in."""
        return {"Cookie": f"{NEXTAUTH_COOKIE}={dev_sign_in_cookie(self.settings.identity, user)}"}

    async def upload(
        self, user: str, key: str, body: bytes, *, field_order: str = "fields first", **fields: str
    ) -> tuple[int, dict[str, Any]]:
        """Uploads as a studio's front end does."""
        form = aiohttp.FormData()
        texts = {"fileName": key, "fileType": "application/octet-stream", "bucketName": "ignored"} | fields
        if field_order == "file first":
            form.add_field("file", body, filename="upload.bin")
        for name, value in texts.items():
            form.add_field(name, value)
        if field_order == "fields first":
            form.add_field("file", body, filename="upload.bin")
        async with self.client.post(f"{self.url}/api/s3/upload", data=form, headers=self.cookie(user)) as answer:
            return answer.status, await answer.json()

    async def call(
        self, method: str, path: str, user: str | None = None, *, headers: dict[str, str] | None = None, **how: Any
    ) -> tuple[int, Any]:
        """A request and its JSON."""
        sent = (self.cookie(user) if user else {}) | (headers or {})
        async with self.client.request(method, self.url + path, headers=sent, **how) as answer:
            return answer.status, await answer.json() if answer.content_type.endswith("json") else await answer.read()

    async def items(self, user: str, kind: str = "vrm", query: str = "") -> list[dict[str, Any]]:
        """A list's items."""
        status, body = await self.call("GET", f"/api/s3/resources?type={kind}{query}", user)
        assert status == 200, body
        return body["data"]

    async def read(
        self, url: str, user: str | None = None, *, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """A file: status, bytes, headers by lower-case name."""
        sent = (self.cookie(user) if user else {}) | (headers or {})
        target = URL(self.url + url, encoded=True)
        async with self.client.request(method, target, headers=sent) as answer:
            return answer.status, await answer.read(), {k.lower(): v for k, v in answer.headers.items()}


@contextlib.asynccontextmanager
async def serving(settings: Settings, port: int = 0) -> AsyncGenerator[Api]:
    """The API under uvicorn in this process, on a free port unless one is given."""
    # Named as TCP, or asyncio leaves Nagle's algorithm on: 40 ms for each answer in two pieces.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", port))
    port = listener.getsockname()[1]
    async with run_server(create_app(settings), listener), aiohttp.ClientSession(auto_decompress=False) as client:
        yield Api(f"http://127.0.0.1:{port}", settings, client)


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    """The API, with settings as they come."""
    async with serving(settings) as running:
        yield running


@pytest.fixture
def serve() -> Callable[[Settings], contextlib.AbstractAsyncContextManager[Api]]:
    """Starts an API with settings of one's own: `async with serve(replace(settings, …)) as api`."""
    return serving


@pytest.fixture
def run_jobs(settings: Settings) -> Callable[..., Any]:
    """Runs the background jobs that are due, and returns when there are none left."""

    async def run(*extra: str, settings: Settings = settings) -> None:
        async with Database(settings.database) as database, Store(settings.store) as store:
            app = make_app(settings.database.url.get_secret_value())
            app.periodic_registry.periodic_tasks.clear()
            async with app.open_async():
                for task in extra:
                    await app.tasks[task].defer_async(timestamp=0)
                library = assemble(database, store, settings.assets, settings.http)
                await app.run_worker_async(
                    wait=False,
                    additional_context={"library": library, "settings": settings},
                    install_signal_handlers=False,
                )

    return run


def _ask_as_admin(seaweed: EmbeddedSeaweed, query: dict[str, str], path: str = "") -> ElementTree.Element:
    store = seaweed.store
    url = sigv4.presign(
        "GET", f"{store.endpoint}/{store.bucket}{path}", store.admin, store.region, expires=60, query=query
    )
    with urlopen(url) as answer:
        return ElementTree.fromstring(answer.read())


@pytest.fixture
def store_keys(seaweed: EmbeddedSeaweed, settings: Settings) -> Callable[[], list[str]]:
    """What really is in the bucket under this test's prefix: asked by the administrator, who may list."""

    def listing() -> list[str]:
        query = {"list-type": "2", "prefix": settings.store.prefix, "max-keys": "1000"}
        return [key.text or "" for key in _ask_as_admin(seaweed, query).iter() if key.tag.endswith("}Key")]

    return listing


@pytest.fixture
def multiparts(seaweed: EmbeddedSeaweed, settings: Settings) -> Callable[[], list[str]]:
    """The keys of unfinished multipart uploads under this test's prefix."""

    def listing() -> list[str]:
        found = _ask_as_admin(seaweed, {"uploads": "", "prefix": settings.store.prefix})
        return [key.text or "" for key in found.iter() if key.tag.endswith("}Key")]

    return listing


@pytest.fixture
def stored_parts(seaweed: EmbeddedSeaweed, settings: Settings) -> Callable[[], list[str]]:
    """The keys of unfinished multipart uploads that hold bytes."""

    def listing() -> list[str]:
        found: list[str] = []
        for upload in _ask_as_admin(seaweed, {"uploads": "", "prefix": settings.store.prefix}):
            named = {child.tag.rpartition("}")[2]: child.text or "" for child in upload}
            if "UploadId" in named:
                parts = _ask_as_admin(seaweed, {"uploadId": named["UploadId"]}, f"/{named['Key']}")
                found += [named["Key"] for child in parts if child.tag.endswith("}Part")]
        return found

    return listing
