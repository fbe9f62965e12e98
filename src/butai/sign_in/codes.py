"""One-time codes of the development sign-in: made by `butai up` and `butai sign-in`, taken once by the API.

A code is 192 random bits. What is kept of it is a file in a folder of this user's alone (0700): its name is the code's
SHA-256, its content the user and the end. The process that removes the file has taken the code, so several API processes agree,
and none can be taken twice. Nothing that is kept makes a code, and finding one by its hash takes no comparison that a
guess could be timed against. Imports the standard library alone, since `butai up` does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import time
from pathlib import Path

FOLDER = "sign-in"
"""Below the data folder."""

CODE_SECONDS = 600.0
"""Time for which an unused code is valid: enough to change to a browser, too little for a lost code to be found and used."""

_CODE = re.compile(r"[A-Za-z0-9_-]{32}")
_MOST_BYTES = 4096
"""Most bytes of a code's file; a user id has at most 255 characters."""


class FolderUnsafe(Exception):
    """The folder is not there, or others than this process' user may write to it. The text says which."""


def open_folder(data_dir: Path) -> Path:
    """The folder for codes below `data_dir`, made where it is not there. Raises `FolderUnsafe`, `OSError`."""
    folder = data_dir.expanduser().absolute() / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check(folder, os.geteuid())
    return folder


def make_code(data_dir: Path, user: str) -> str:
    """A new code that signs `user` in once, within `CODE_SECONDS`. Forgets those that have ended.

    Raises `FolderUnsafe` where no installation keeps codes below `data_dir`, `OSError` when the file cannot be written.
    """
    folder = data_dir.expanduser().absolute() / FOLDER
    _check(folder, os.geteuid() or None)
    now = time.time()
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < now - CODE_SECONDS:
                path.unlink()
    code = secrets.token_urlsafe(24)
    # Under another name until it is whole: `take_code` finds no half of it.
    scratch = folder / f".{secrets.token_hex(8)}"
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump({"user": user, "ends": now + CODE_SECONDS}, file)
        if os.geteuid() == 0:
            # Made by root for an installation that is not root's: the API has to read it.
            owner = folder.stat()
            os.chown(scratch, owner.st_uid, owner.st_gid)
        scratch.replace(folder / _name(code))
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    return code


def take_code(data_dir: Path, code: str) -> str | None:
    """The user whom the code signs in; the code is good for nothing afterwards. None for one that is not good (any more).

    Raises `FolderUnsafe`: other users could have put codes into such a folder. Raises `OSError` when a code cannot be removed.
    """
    return _user_of(data_dir, code, takes=True)


def read_code(data_dir: Path, code: str) -> str | None:
    """The user whom the code would sign in; it stays good. Raises `FolderUnsafe`, as `take_code`."""
    return _user_of(data_dir, code, takes=False)


def _user_of(data_dir: Path, code: str, *, takes: bool) -> str | None:
    folder = data_dir.expanduser().absolute() / FOLDER
    _check(folder, os.geteuid())
    if not _CODE.fullmatch(code):
        return None
    path = folder / _name(code)
    try:
        with path.open("rb") as file:
            kept = json.loads(file.read(_MOST_BYTES))
        if takes:
            path.unlink()
    except FileNotFoundError:
        return None
    return kept["user"] if time.time() < kept["ends"] else None


def forget_codes(data_dir: Path, user: str) -> None:
    """Removes all codes of a user. Raises `OSError` when one cannot be removed."""
    folder = data_dir.expanduser().absolute() / FOLDER
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError, ValueError):
            if json.loads(path.read_bytes())["user"] == user:
                path.unlink()


def _name(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


def _check(folder: Path, owner: int | None) -> None:
    """Raises `FolderUnsafe` unless the folder belongs to `owner` alone; None: to any one user."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        raise FolderUnsafe(f"there is no {folder}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or owner not in (found.st_uid, None):
        raise FolderUnsafe(f"{folder} is not a folder of this user's alone")
