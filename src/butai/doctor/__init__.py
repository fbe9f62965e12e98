"""`butai doctor`: checks the service's dependencies, and gives advice for each finding.

It queries the real database and the real store, writes only a few objects of its own below `butai/doctor/`, which it
removes again, and works while some dependencies are down, since that is when it is needed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from io import TextIOWrapper

from butai.config import Settings
from butai.doctor.browsers import examine_browsers
from butai.doctor.capacity import examine_capacity
from butai.doctor.database import connection_secrets, examine_database
from butai.doctor.decoding import examine_decoding
from butai.doctor.findings import Finding, Findings, Level, as_json, as_text
from butai.doctor.ingest import examine_ingest
from butai.doctor.livekit import examine_livekit
from butai.doctor.sign_in import examine_sign_in
from butai.doctor.store import examine_store

AREA_SECONDS = 30.0
"""Most seconds for one area; areas run concurrently."""

Examine = Callable[[Settings, Findings], Awaitable[None]]

AREAS: dict[str, Examine] = {
    "Database": examine_database,
    "Store": examine_store,
    "Browsers and the store": examine_browsers,
    "Sign-in": examine_sign_in,
    "LiveKit": examine_livekit,
    "Encoders": examine_ingest,
    "Decoding files": examine_decoding,
    "Capacity": examine_capacity,
}


def run_doctor(settings: Settings, *, as_json: bool = False) -> int:
    """Runs all checks and prints the findings. Returns the exit status: 1 when a check failed."""
    findings = asyncio.run(examine(settings))
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal without ✓ shows a question mark.
        sys.stdout.reconfigure(errors="replace")
    sys.stdout.write(_written(findings, machine=as_json) + "\n")
    return 1 if any(finding.level is Level.BROKEN for finding in findings) else 0


def _written(findings: list[Finding], *, machine: bool) -> str:
    return as_json(findings) if machine else as_text(findings)


async def examine(settings: Settings) -> list[Finding]:
    """All findings, area by area. Never raises; no text holds a secret."""
    url = settings.database.url.get_secret_value()
    secrets = [*settings.secrets(), *connection_secrets(url)]
    areas = [_examine(Findings(name, secrets), act, settings) for name, act in AREAS.items()]
    return [finding for found in await asyncio.gather(*areas) for finding in found]


async def _examine(findings: Findings, act: Examine, settings: Settings) -> list[Finding]:
    try:
        async with asyncio.timeout(AREA_SECONDS):
            await act(settings, findings)
    except TimeoutError:
        findings.broken(
            "time",
            f"these checks were not finished after {AREA_SECONDS:.0f} s, and were cancelled",
            "something answers very slowly: look at the network between this machine and it",
        )
    except Exception as error:  # noqa: BLE001 - findings so far must be printed in any case
        said = ""
        with suppress(Exception):
            said = str(error).partition("\n")[0]
        findings.broken(
            "checks",
            f"could not go on: {type(error).__name__} {said}".strip(),
            "look at the findings above first; if they are all ok, this is a bug of butai doctor itself",
        )
    return findings.found
