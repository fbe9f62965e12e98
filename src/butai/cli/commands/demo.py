"""`butai demo`: the product at work, with nothing but this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from butai.cli.environment import read_settings

app = typer.Typer(no_args_is_help=True, help="The product at work, with nothing but this machine.")


@app.command("live")
def demo_live(
    seconds: Annotated[float, typer.Option(min=20, max=3600, help="How long on air.")] = 40,
    url: Annotated[str | None, typer.Option(help="Where `butai up` runs; http://127.0.0.1:8080.")] = None,
) -> None:
    """A host goes live on two platforms of this machine; one is killed and comes back, the other goes on.

    Wants a running `butai up`. Ends with 0 when both got what they should.
    """
    from butai.demo.live import run

    raise SystemExit(run(url or f"http://127.0.0.1:{read_settings().http.port}", seconds))


@app.command("library")
def demo_library(
    user: Annotated[str, typer.Option(help="Whose files they become.")] = "demo",
    url: Annotated[str | None, typer.Option(help="Where `butai up` runs; http://127.0.0.1:8080.")] = None,
) -> None:
    """Two avatars, two motions, music and two skies to begin with: made here, free for any use.

    Wants a running `butai up`.
    """
    from butai.demo.library import run

    raise SystemExit(run(url or f"http://127.0.0.1:{read_settings().http.port}", user))
