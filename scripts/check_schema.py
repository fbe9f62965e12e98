"""Whether the migrations make exactly what the models say. Called by `make check`; needs nothing but the wheels."""

from __future__ import annotations

import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config

from butai import database
from butai.embedded.postgres import EmbeddedPostgres


def main() -> None:
    """Migrates an empty database and compares. Raises when they differ."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as server:
        database.migrate(server.owner_url, service_url=server.url)
        config = Config()
        config.set_main_option("script_location", str(database.MIGRATIONS))
        config.attributes["url"] = server.owner_url
        command.check(config)


if __name__ == "__main__":
    main()
