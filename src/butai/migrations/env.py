"""Alembic's entry: called by `butai.database.migrate` and by `alembic check`."""

from __future__ import annotations

import os
from collections.abc import Collection
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
import butai.live.egress.livekit.models  # pyright: ignore[reportUnusedImport]
import butai.live.encoders.models  # pyright: ignore[reportUnusedImport]
import butai.live.models  # noqa: F401  # pyright: ignore[reportUnusedImport]
from butai.database import MIGRATION_LOCK, Model, sqlalchemy_url
from butai.migrations.privileges import grant_to_service


def include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """procrastinate brings its own tables; they are not ours to compare."""
    return not (kind == "table" and name is not None and name.startswith("procrastinate_"))


def run() -> None:
    url = context.config.attributes.get("url") or os.environ["BUTAI_DATABASE_URL"]
    service = context.config.attributes.get("service")
    engine = create_engine(sqlalchemy_url(url))
    given = False

    def give_privileges(ctx: Any, step: Any, heads: Collection[Any], run_args: Any) -> None:  # noqa: ARG001 - Alembic's
        """Called in each migration's transaction: the database is at the newest revision only with the privileges."""
        nonlocal given
        if service and context.get_revision_argument() in heads:
            grant_to_service(driver, service)
            given = True

    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
        connection.commit()
        driver: Any = connection.connection.driver_connection
        try:
            context.configure(
                connection=connection,
                target_metadata=Model.metadata,
                include_name=include_name,
                compare_type=True,
                transaction_per_migration=True,
                on_version_apply=give_privileges,
            )
            with context.begin_transaction():
                context.run_migrations()
            connection.rollback()
            if service and not given:
                # There was nothing to migrate.
                with connection.begin():
                    grant_to_service(driver, service)
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
            connection.commit()
    engine.dispose()


run()
