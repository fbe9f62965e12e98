"""Checks whether the servers of outputs that wait can be reached: name, TCP and TLS, and nothing of RTMP.

A connection stays open until the output's attempt takes it, so that nothing but RTMP itself is left to do at the first
picture. Servers that take one connection and no more (`ffmpeg -listen 1`) see that one alone. Where a server hangs up on a
silent one, as most do after a time of their own, it is checked again later, at a slow pace.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence

import structlog

from butai.errors import Code
from butai.relay.messages import HeldOutput, OutputLine, StartOutputLine
from butai.relay.rtmp.addresses import AddressInvalid, parse, server_of
from butai.relay.rtmp.connection import Connection, Target, close, connect
from butai.relay.rtmp.failures import PublishError
from butai.relay.telling import output_line
from butai.relay.timing import RelayTiming

log = structlog.get_logger(__name__)


MOST_CHANGES = 10
"""Changes of one server after which its checks are no quicker than others."""


class Reachability:
    """The checks of one relay. Calls `report` with the first result of each output, and with every change."""

    def __init__(
        self, report: Callable[[OutputLine], None], timing: RelayTiming, tls: ssl.SSLContext | None = None
    ) -> None:
        self._report, self._timing, self._tls = report, timing, tls
        self._checks: dict[HeldOutput, asyncio.Task[None]] = {}
        self._leaving: dict[HeldOutput, asyncio.TimerHandle] = {}
        """The end of the checks of outputs that no longer wait."""
        self._told: dict[HeldOutput, OutputLine] = {}
        self._open: dict[HeldOutput, Connection] = {}

    def watch(self, held: Sequence[HeldOutput]) -> None:
        """Checks these outputs from now on, and no others. The connections of others stay open for `kept_for`. Reports again what
        is known: a controller that was away has not heard it."""
        for gone in self._checks.keys() - self._leaving.keys() - set(held):
            self._leaving[gone] = asyncio.get_running_loop().call_later(self._timing.kept_for, self._end, gone)
        for one in held:
            if (leaving := self._leaving.pop(one, None)) is not None:
                leaving.cancel()
            if one in self._told:
                self._report(self._told[one])
            if one not in self._checks:
                self._checks[one] = asyncio.create_task(self._watch(one))

    def take(self, order: StartOutputLine) -> Connection | None:
        """The open connection to this output's server, which is the caller's from now on. None where there is none. Ends the
        checks of this server."""
        try:
            one = HeldOutput(order.output_id, server_of(order.url), order.allow_private)
        except AddressInvalid:
            return None
        connection = self._open.pop(one, None)
        self._end(one)
        if connection is not None and connection.has_ended:
            connection.writer.transport.abort()
            return None
        return connection

    def _end(self, one: HeldOutput) -> None:
        if (leaving := self._leaving.pop(one, None)) is not None:
            leaving.cancel()
        if (task := self._checks.pop(one, None)) is not None:
            task.cancel()
        self._told.pop(one, None)

    async def close(self) -> None:
        """Ends all checks, and closes their connections."""
        tasks = list(self._checks.values())
        for one in list(self._checks):
            self._end(one)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, one: HeldOutput) -> None:
        wait, changes = self._timing.check_server_every, 0
        while True:
            connection, failure = await self._check(one)
            code = failure.code if failure else ""
            told = self._told.get(one)
            # Another server may have been checked since for one that is leaving.
            if (told is None or code != told.code) and one not in self._leaving:
                changes += 1
                log.info("output.checked", output_id=one.output_id, code=code)
                detail = failure.detail if failure else ""
                self._told[one] = output_line(one.output_id, 0, "connecting", code, detail)
                self._report(self._told[one])
            if connection is not None:
                await self._keep(one, connection)
            # Each change is an event in the timeline.
            hurried = failure is not None and changes <= MOST_CHANGES
            await asyncio.sleep(self._timing.check_again_after if hurried else wait)
            wait = min(wait * 2, self._timing.check_server_cap)

    async def _check(self, one: HeldOutput) -> tuple[Connection | None, PublishError | None]:
        """The connection to its server, or why that cannot be reached."""
        try:
            address, target = parse(one.server), Target(one.server, "", one.allow_private)
            return await connect(target, address, self._timing.rtmp, self._tls), None
        except AddressInvalid as error:
            return None, PublishError(Code.INVALID_DESTINATION, str(error))
        except PublishError as error:
            return None, error

    async def _keep(self, one: HeldOutput, connection: Connection) -> None:
        """Keeps a connection open until the server hangs up or speaks, which a server of RTMP does not do first."""
        _notice_silence(connection.writer)
        self._open[one] = connection
        try:
            with contextlib.suppress(OSError):
                await connection.reader.read(1)
        finally:
            # Unless an attempt has it.
            if self._open.get(one) is connection:
                del self._open[one]
                await close(connection.writer, self._timing.rtmp.close_timeout)


def _notice_silence(writer: asyncio.StreamWriter) -> None:
    """Lets the kernel ask within 20 s whether the other end is still there: routers forget connections on which nothing
    happens."""
    raw = writer.get_extra_info("socket")
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
    ):
        raw.setsockopt(level, option, value)
