"""`butai controller` with the reporting relay in the place of the real one: `python -m tests.fakes.controller_process`."""

from __future__ import annotations

import asyncio
import sys

from butai import log
from butai.config import Settings
from butai.controller import run
from butai.live.egress.relay.engine import RelayEgress, default_folder
from butai.live.projects import Projects

RELAY = (sys.executable, "-m", "tests.fakes.reporting_relay")


def main() -> None:
    settings = Settings()
    log.configure(settings.log, settings.secrets())
    asyncio.run(
        run(
            settings,
            lambda name, _database: [
                RelayEgress(
                    settings.live.relay_folder or default_folder(),
                    Projects(settings.livekit, settings.live),
                    bytes.decode,
                    controller=name,
                    command=RELAY,
                )
            ],
        )
    )


if __name__ == "__main__":
    main()
