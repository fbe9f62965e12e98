"""Reads the settings for a command, and ends it with one clear line where they are not sufficient."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

from butai import log
from butai.config import Settings

if TYPE_CHECKING:
    from butai.database import Database

T = TypeVar("T")


def read_settings() -> Settings:
    """Reads the settings from the environment and sets up logging, with every secret known by value.

    A setting that is wrong ends the process with one line.
    """
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    try:
        settings = Settings()
    except SettingsError as error:
        fail(str(error))
    except ValidationError as error:
        finding = error.errors()[0]
        name = ".".join(str(part) for part in finding["loc"])
        fail(f"{error.title}: {name}: {finding['msg']}")
    log.configure(settings.log, settings.secrets())
    return settings


def fail(message: str) -> NoReturn:
    """Ends the process with status 1 and one line on stderr."""
    print(f"butai: {message}", file=sys.stderr)
    raise SystemExit(1)


def with_services(settings: Settings, *, store: bool = True) -> Settings:
    """Returns `settings` if a database is named, and a store where that is needed; ends the process otherwise."""
    if not settings.database.url.get_secret_value():
        fail("BUTAI_DATABASE_URL is not set, such as postgresql://user:password@host:5432/butai (or run: butai up)")
    if store and not settings.store.endpoint:
        fail("BUTAI_S3_ENDPOINT is not set, such as https://s3.eu-west-1.amazonaws.com (or run: butai up)")
    return settings


async def with_database(act: Callable[[Database], Awaitable[T]]) -> T:
    """Opens the database for one act. An error of ours ends the process with its text."""
    from butai.database import Database
    from butai.errors import ButaiError

    async with Database(with_services(read_settings(), store=False).database) as database:
        try:
            return await act(database)
        except ButaiError as error:
            fail(error.detail)
