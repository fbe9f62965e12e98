"""The terminal output of a demonstration: a line for each event, and a table of the current status."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

NAMES = {"youtube": "YouTube", "twitch": "Twitch"}
_COLOURS = {
    "starting": "cyan",
    "live": "bold green",
    "interrupted": "bold yellow",
    "stopping": "cyan",
    "ended": "dim",
    "error": "bold red",
}


def coloured(state: str) -> str:
    """A state in its colour."""
    return f"[{_COLOURS.get(state, 'white')}]{state}[/]"


class Screen:
    """`with Screen() as screen`. Without a terminal it prints the lines only, without the table."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, refresh_per_second=8, transient=True)
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live.is_started:
            self._live.stop()

    def tell(self, text: str) -> None:
        """Prints one line, with the seconds since the beginning."""
        self._console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/]  {text}", soft_wrap=True)

    def show(self, status: Mapping[str, Any]) -> None:
        """Shows the service's status as the table."""
        if not self._live.is_started:
            return
        table = Table(title=f"broadcast: {status['status']}", title_justify="left", expand=False)
        for name in ("platform", "state", "try", "kbit/s", "frames/s", "dropped", ""):
            table.add_column(name, justify="right" if name in ("try", "kbit/s", "frames/s", "dropped") else "left")
        for platform, output in sorted(status["platforms"].items(), reverse=True):
            metrics = output.get("metrics") or {}
            error = output.get("error") or {}
            table.add_row(
                NAMES.get(platform, platform),
                coloured(output["state"]),
                str(output.get("attempt") or ""),
                *(
                    f"{metrics[name]:.0f}" if name in metrics else ""
                    for name in ("bitrate_kbps", "fps", "dropped_frames")
                ),
                escape(error.get("message", "")),
            )
        self._live.update(table)
