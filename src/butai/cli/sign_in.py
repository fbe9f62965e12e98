"""`butai sign-in`: a one-time link into the installation that keeps its data in a folder."""

from __future__ import annotations

import json
from pathlib import Path

from butai.cli.environment import fail
from butai.config import Settings
from butai.embedded.folder import read_state
from butai.embedded.listening import url_from_here
from butai.embedded.process import StartError
from butai.sign_in.codes import CODE_SECONDS, FolderUnsafe, make_code


def running_url(settings: Settings, data_dir: Path) -> str:
    """Where the last `butai up` on this folder is reached, or where `butai api` listens as the settings say."""
    try:
        state = read_state(data_dir.expanduser().absolute() / "up.json")
    except StartError as error:
        fail(str(error))
    return state.get("url") or url_from_here(settings.http.host, settings.http.port)


def link(url: str, code: str) -> str:
    """Opens the page that posts the code. Behind `#`, where no server and no log sees it."""
    return f"{url.rstrip('/')}/sign-in#{code}"


def run_sign_in(settings: Settings, user: str, data_dir: Path | None, url: str | None, *, as_json: bool) -> None:
    """Prints the link, or the body for `POST /api/session`. Ends the process with one line where there is no way in."""
    from butai.errors import InvalidRequest
    from butai.identity.caller import chosen_user_id

    folder = data_dir or settings.up.data_dir
    try:
        code = make_code(folder, chosen_user_id(user))
    except InvalidRequest:
        fail("a user id is 1 to 255 printable characters")
    except FolderUnsafe as error:
        fail(f"{error}: start `butai up` first, or name its folder with --data-dir")
    except OSError as error:
        fail(f"no code can be kept in {folder}: {error.strerror or error} (run this as the user that runs `butai up`)")
    if as_json:
        print(json.dumps({"code": code}))
        return
    print(link(url or running_url(settings, folder), code))
    print(f"Works once, within {CODE_SECONDS / 60:.0f} minutes, and signs in as {user}.")
