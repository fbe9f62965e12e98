"""`butai suspend` and `butai restore`: the same acts as those of the operations' routes."""

from __future__ import annotations

from butai.audit import Origin, actors
from butai.cli.environment import fail
from butai.config import Settings
from butai.database import Database
from butai.live.projects import Projects
from butai.operations import suspension

_CLI = Origin(actors.COMMAND_LINE)


def _checked(user: str) -> str:
    if not (0 < len(user) <= 255 and user.isprintable()):
        fail("a user id is 1 to 255 printable characters")
    return user


async def suspend(database: Database, settings: Settings, user: str, reason: str) -> None:
    """Suspends a user, and brings down what they have."""
    if not reason.strip() or len(reason) > 500 or "\0" in reason:
        fail("a reason is 1 to 500 characters")
    await suspension.suspend(database, _CLI, _checked(user), reason)
    await _apply(database, settings, user)
    print("Suspended.")


async def restore(database: Database, settings: Settings, user: str) -> None:
    """Ends a suspension, and brings the files back."""
    await suspension.restore(database, _CLI, _checked(user))
    await _apply(database, settings, user)
    print("Restored.")


async def _apply(database: Database, settings: Settings, user: str) -> None:
    await suspension.apply(database, Projects(settings.livekit, settings.live), settings.live, user, _CLI)
