"""A Postgres for the tests, in memory where there is room, and fresh copies of its migrated database."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
from psycopg import sql

from butai import database
from butai.embedded.postgres import EmbeddedPostgres

MEMORY = Path("/dev/shm")
"""Linux keeps this folder in memory. Containers often give it 64 MiB, which is too little."""
NEEDED = 1024**3
"""A copy takes 9 MB, the write-ahead log up to 256 MB; a test that fills a library takes some 100 MB."""
# These databases outlive nothing: no waiting for the disk.
QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Databases:
    """A running server whose database `butai` is migrated and serves as the template."""

    def __init__(self, server: EmbeddedPostgres, admin: psycopg.Connection, *, in_memory: bool) -> None:
        self.server = server
        self._admin = admin
        # Copying the files takes 20 ms in memory. On a disk it is slower than writing all pages to the log (0.4 and 0.25 s).
        self._strategy = sql.SQL("FILE_COPY" if in_memory else "WAL_LOG")

    def owners(self, url: str) -> str:
        """The address of the same database for the role that owns its tables."""
        return urlunsplit(urlsplit(url)._replace(netloc=urlsplit(self.server.owner_url).netloc))

    @contextlib.contextmanager
    def fresh(self, template: str = "") -> Generator[str]:
        """The address of a new migrated database, which is dropped when the block ends. `template`: the address of the
        database that it is a copy of, to which nothing is connected; without it, of the one without rows."""
        parts = urlsplit(self.server.url)
        source = urlsplit(template or self.server.url).path.lstrip("/")
        name = f"test_{uuid.uuid4().hex}"
        self._admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY {} OWNER butai_owner").format(
                sql.Identifier(name), sql.Identifier(source), self._strategy
            )
        )
        try:
            yield urlunsplit(parts._replace(path=f"/{name}"))
        finally:
            self._admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextlib.contextmanager
def run_databases(on_disk: Path) -> Generator[Databases]:
    """Runs the server: in memory if `NEEDED` bytes are free there, else in the folder `on_disk`."""
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= NEEDED
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_folder_in_memory()) if in_memory else on_disk
        server = stack.enter_context(EmbeddedPostgres(folder, settings=QUICK))
        database.migrate(server.owner_url, service_url=server.url)
        admin = stack.enter_context(psycopg.connect(server.admin_url, autocommit=True))
        # Every connection proves its password by hashing it this often: 3 ms of this process's time with the usual 4096.
        admin.execute("SET scram_iterations = 1")
        for url in (server.url, server.owner_url):
            role = urlsplit(url)
            statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
            admin.execute(statement.format(sql.Identifier(role.username or ""), sql.Literal(role.password)))
        yield Databases(server, admin, in_memory=in_memory)


@contextlib.contextmanager
def _folder_in_memory() -> Generator[Path]:
    """A folder that is gone when the block ends. Those of test runs that were killed are removed first."""
    prefix = "butai-tests-"
    for found in MEMORY.glob(f"{prefix}*"):
        if not psutil.pid_exists(int(found.name.removeprefix(prefix))):
            shutil.rmtree(found, ignore_errors=True)
    folder = MEMORY / f"{prefix}{os.getpid()}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
