"""Checks whether the servers of outputs that wait can be reached: name, TCP and TLS, and nothing of RTMP.

A connection is closed at once, and the next check makes another one. An open one would save a few round trips at the first
picture, but servers hang up on silent ones after a time of their own, and count them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence

import structlog

from butai.errors import Code
from butai.relay.messages import HeldOutput, OutputLine
from butai.relay.rtmp.addresses import AddressInvalid, parse
from butai.relay.rtmp.connection import Target, close, connect
from butai.relay.rtmp.failures import PublishError
from butai.relay.telling import output_line
from butai.relay.timing import RelayTiming

log = structlog.get_logger(__name__)


class Reachability:
    """The checks of one relay. Calls `report` with the first result of each output, and with every change."""

    def __init__(
        self, report: Callable[[OutputLine], None], timing: RelayTiming, tls: ssl.SSLContext | None = None
    ) -> None:
        self._report, self._timing, self._tls = report, timing, tls
        self._checks: dict[HeldOutput, asyncio.Task[None]] = {}

    def watch(self, held: Sequence[HeldOutput]) -> None:
        """Checks these outputs from now on, and no others."""
        for gone in self._checks.keys() - set(held):
            self._checks.pop(gone).cancel()
        for one in held:
            if one not in self._checks:
                self._checks[one] = asyncio.create_task(self._watch(one))

    async def close(self) -> None:
        """Ends all checks."""
        tasks = list(self._checks.values())
        self.watch(())
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, one: HeldOutput) -> None:
        told: str | None = None
        wait = self._timing.check_server_every
        while True:
            failure = await self._check(one)
            code = failure.code if failure else ""
            if code != told:
                told, wait = code, self._timing.check_server_every
                log.info("output.checked", output_id=one.output_id, code=code)
                self._report(output_line(one.output_id, 0, "connecting", code, failure.detail if failure else ""))
            await asyncio.sleep(self._timing.check_again_after if failure else wait)
            wait = min(wait * 2, self._timing.check_server_cap)

    async def _check(self, one: HeldOutput) -> PublishError | None:
        """Why the server cannot be reached; None if it can."""
        try:
            address, target = parse(one.server), Target(one.server, "", one.allow_private)
            _, writer = await connect(target, address, self._timing.rtmp, self._tls)
        except AddressInvalid as error:
            return PublishError(Code.INVALID_DESTINATION, str(error))
        except PublishError as error:
            return error
        await close(writer, self._timing.rtmp.close_timeout)
        return None
