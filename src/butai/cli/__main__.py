"""The `butai` command: the only place that chooses adapters and reads the environment."""

from __future__ import annotations

import typer

from butai.cli.commands import demo, library, operations, processes

app = typer.Typer(
    name="butai",
    help="The backend of a browser VTuber studio: an asset library and going live.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (processes, library, operations):
    app.add_typer(commands.app)
app.add_typer(demo.app, name="demo")


def main() -> None:
    """Runs the command line."""
    app()


if __name__ == "__main__":
    main()
