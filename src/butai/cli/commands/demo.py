"""`butai demo`: demonstrations on this machine, without any account."""

from __future__ import annotations

from typing import Annotated

import typer

from butai.cli.environment import read_settings

app = typer.Typer(no_args_is_help=True, help="Demonstrations on this machine, without any account.")


@app.command("live")
def demo_live(
    seconds: Annotated[float, typer.Option(min=20, max=3600, help="Seconds on air.")] = 40,
    url: Annotated[str | None, typer.Option(help="The URL of `butai up`; http://127.0.0.1:8080.")] = None,
) -> None:
    """A host goes live on two platforms of this machine; one is killed and recovers, the other continues.

    Needs a running `butai up`. The exit status is 0 when both platforms got the expected media.
    """
    from butai.demo.live import run

    raise SystemExit(run(url or f"http://127.0.0.1:{read_settings().http.port}", seconds))


@app.command("library")
def demo_library(
    user: Annotated[str, typer.Option(help="The owner of the files.")] = "demo",
    url: Annotated[str | None, typer.Option(help="The URL of `butai up`; http://127.0.0.1:8080.")] = None,
) -> None:
    """Uploads two avatars, two motions, music and two skies, generated here and free for any use.

    Needs a running `butai up`.
    """
    from butai.demo.library import run

    raise SystemExit(run(url or f"http://127.0.0.1:{read_settings().http.port}", user))
