"""`butai suspend` and `butai restore`, the same acts as those of the operations' routes; `butai erase-user`."""

from __future__ import annotations

from butai.assets.storage.client import Store
from butai.audit import Origin, actors
from butai.cli.environment import fail
from butai.config import Settings
from butai.database import Database
from butai.errors import InvalidRequest
from butai.identity.caller import chosen_user_id
from butai.live.projects import Projects
from butai.log import without_names
from butai.operations import erasure, suspension
from butai.sign_in.codes import forget_codes

_CLI = Origin(actors.COMMAND_LINE)


def _checked(user: str) -> str:
    try:
        return chosen_user_id(user)
    except InvalidRequest:
        fail("a user id is 1 to 255 printable characters")


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


async def erase(database: Database, settings: Settings, user: str) -> None:
    """Erases a user, and prints what was erased and what is kept, with the reason."""
    forget_codes(settings.up.data_dir, _checked(user))
    if not await erasure.has_anything(database, user):
        print("Nothing of this user is left.")
        return
    async with Store(settings.store) as store:
        projects = Projects(settings.livekit, settings.live)
        with without_names():
            done = await erasure.erase(database, store, projects, settings.live, _CLI, user)
    print(
        f"Erased: {done.files} files, {done.rooms} rooms with all their broadcasts, {done.destinations} destinations with "
        f"their stream keys, {done.api_keys} API keys.\n{_KEPT.format(entries=done.entries, pseudonym=done.pseudonym)}"
    )


_KEPT = """Kept:
- {entries} entries of the audit trail, so that what was done can still be accounted for: time, action, result and code. The
  user is called {pseudonym} there; names of rooms and files, addresses and details of theirs are gone.
- times, states and codes of the timelines of their rooms, under numbered names.
- the SHA-256 of the public keys of their files and of the names of their rooms: old links lead there, so that they are given to
  no one again. And the random ids of their files, for readers of the feed of changes.
Not here: sessions and accounts are the studio's, logs the machine's; LiveKit and the platforms have records of their own.
Backups have the user until they are deleted: after restoring one, erase the user again. A user of this id who signs in again is
a new one."""
