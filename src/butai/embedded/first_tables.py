"""Makes the tables of a new database, in a process that loads while the cluster is still being created.

`python -m butai.embedded.first_tables`: loading SQLAlchemy and Alembic takes as long as creating the cluster, and done
concurrently the two take a second less. Otherwise the same as `butai migrate`.
"""

from __future__ import annotations

import time

import psycopg
from alembic import command, config  # noqa: F401  # pyright: ignore[reportUnusedImport]  loaded now, used by `migrate` once the database is there

from butai import log
from butai.config import DatabaseSettings, LogSettings
from butai.database import migrate

_PATIENCE = 300.0
"""Seconds to wait for the database; `butai.cli.up` ends this process sooner when the database fails."""


def main() -> None:
    """Waits until the database accepts connections, then migrates it."""
    settings = DatabaseSettings()
    service, owner = settings.url.get_secret_value(), settings.owner_url.get_secret_value()
    url = owner or service
    log.configure(LogSettings(), [service, owner])
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            break
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    migrate(url, service_url=service if owner else "")


if __name__ == "__main__":
    main()
