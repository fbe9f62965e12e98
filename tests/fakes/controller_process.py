"""`butai controller` with the reporting relay in the place of the real one: `python -m tests.fakes.controller_process`.

`--speed N` divides all durations that are ours by N, those of the settings (`hurried`) with those of the code; `--real` takes
the real relay, and opens stream keys that the service has sealed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace

from butai import log
from butai.config import LiveSettings, RetrySettings, Settings
from butai.controller import run
from butai.live.egress.relay.egress import COMMAND, RelayEgress, default_folder
from butai.live.projects import Projects
from butai.live.reconcile.timing import Timing
from butai.live.stream_keys import Sealer

RELAY = (sys.executable, "-m", "tests.fakes.reporting_relay")


def hurried(live: LiveSettings, speed: float) -> LiveSettings:
    """Settings with their durations divided, as `Timing.faster` does with those of the code."""

    def quick(retry: RetrySettings) -> RetrySettings:
        names = ("base", "cap", "minutes", "stable", "least_wait", "window")
        return retry.model_copy(update={name: getattr(retry, name) / speed for name in names})

    retries = {f"{name}_retry": quick(getattr(live, f"{name}_retry")) for name in ("youtube", "twitch", "custom")}
    return live.model_copy(update={"lease": live.lease / speed, **retries})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--real", action="store_true")
    given = parser.parse_args()
    settings, timing = Settings(), Timing().faster(given.speed)
    settings = replace(settings, live=hurried(settings.live, given.speed))
    log.configure(settings.log, settings.secrets())
    asyncio.run(
        run(
            settings,
            lambda name, _database: [
                RelayEgress(
                    settings.live.relay_folder or default_folder(),
                    Projects(settings.livekit, settings.live),
                    Sealer(settings.live).open if given.real else bytes.decode,
                    controller=name,
                    allow_private=settings.live.allow_private_ingest,
                    command=COMMAND if given.real else RELAY,
                    timing=timing,
                )
            ],
            timing,
        )
    )


if __name__ == "__main__":
    main()
