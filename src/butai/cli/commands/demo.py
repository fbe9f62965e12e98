"""`butai demo`: demonstrations on this machine, without any account."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from butai.cli.environment import read_settings
from butai.cli.sign_in import running_url

app = typer.Typer(no_args_is_help=True, help="Demonstrations on this machine, without any account.")


@app.command("live")
def demo_live(
    seconds: Annotated[float, typer.Option(min=20, max=3600, help="Seconds on air.")] = 40,
    url: Annotated[str | None, typer.Option(help="The URL of `butai up`, if not the one that it printed.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="The data folder of `butai up`; BUTAI_DATA_DIR, or .butai.")
    ] = None,
) -> None:
    """A host goes live on two platforms of this machine; one is killed and recovers, the other continues.

    Needs a running `butai up`. The exit status is 0 when both platforms got the expected media.
    """
    from butai.demo.live import run

    settings = read_settings()
    folder = data_dir or settings.up.data_dir
    raise SystemExit(run(url or running_url(settings, folder), folder, seconds))


@app.command("library")
def demo_library(
    user: Annotated[str, typer.Option(help="The owner of the files.")] = "demo",
    url: Annotated[str | None, typer.Option(help="The URL of `butai up`, if not the one that it printed.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="The data folder of `butai up`; BUTAI_DATA_DIR, or .butai.")
    ] = None,
) -> None:
    """Uploads two avatars, two motions, music and two skies, generated here and free for any use.

    Needs a running `butai up`.
    """
    from butai.demo.library import run

    settings = read_settings()
    folder = data_dir or settings.up.data_dir
    raise SystemExit(run(url or running_url(settings, folder), folder, user))
