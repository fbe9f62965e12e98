"""Alembic's entry: called by `butai.database.migrate` and by `alembic check`."""

from __future__ import annotations

import os
from typing import Any

from alembic import context
from sqlalchemy import create_engine, text

import butai.alerts.models  # pyright: ignore[reportUnusedImport]
import butai.assets.models  # pyright: ignore[reportUnusedImport]
import butai.assets.patrol.models  # pyright: ignore[reportUnusedImport]
import butai.assets.tus.models  # pyright: ignore[reportUnusedImport]
import butai.audit.models  # pyright: ignore[reportUnusedImport]
import butai.identity.api_keys  # pyright: ignore[reportUnusedImport]
import butai.jobs.models  # pyright: ignore[reportUnusedImport]
import butai.live.models  # noqa: F401  # pyright: ignore[reportUnusedImport]
from butai.database import MIGRATION_LOCK, Model, sqlalchemy_url


def include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """procrastinate brings its own tables; they are not ours to compare."""
    return not (kind == "table" and name is not None and name.startswith("procrastinate_"))


def run() -> None:
    url = context.config.attributes.get("url") or os.environ["BUTAI_DATABASE_URL"]
    engine = create_engine(sqlalchemy_url(url))
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
        connection.commit()
        try:
            context.configure(
                connection=connection,
                target_metadata=Model.metadata,
                include_name=include_name,
                compare_type=True,
                transaction_per_migration=True,
            )
            with context.begin_transaction():
                context.run_migrations()
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
            connection.commit()
    engine.dispose()


run()
