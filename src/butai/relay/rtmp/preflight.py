"""A destination tried without going live: each step of the way to it, with how long it took or why it failed.

Called by `butai.live.destinations.service` for a host who wants to know before the show.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, replace

from butai.errors import Code
from butai.relay.rtmp.addresses import IngestAddress
from butai.relay.rtmp.chunks import ProtocolError
from butai.relay.rtmp.connection import Limits, Noted, Target, bearable, connect
from butai.relay.rtmp.failures import PublishError, closed, from_os, refused
from butai.relay.rtmp.session import Connected, Event, Publishing, PublishRefused, Session

BANDWIDTH_TEST = "?bandwidthtest=true"
"""Behind the key: Twitch takes the publish and shows it to nobody."""

SETTLES = 1.0
"""Seconds that a publish must stand: platforms may say yes at first, and hang up when they have looked at the key."""


@dataclass(frozen=True, slots=True)
class Step:
    """`name`: `address`, `dns`, `tcp`, `tls`, `handshake`, `connect`, `publish`. `code` and `detail` where it failed."""

    name: str
    ok: bool
    ms: float
    code: str = ""
    detail: str = ""


async def check(
    target: Target, *, publish: bool, limits: Limits | None = None, tls: ssl.SSLContext | None = None
) -> list[Step]:
    """The steps in their order, up to the first that fails. With `publish` the platform is asked about the key, too."""
    limits = limits or Limits()
    steps: list[Step] = []

    def noted(name: str, seconds: float) -> None:
        steps.append(Step(name, True, round(seconds * 1000, 1)))

    began = time.monotonic()
    name = "address"
    try:
        address = target.address()
        name = "tcp"
        reader, writer = await connect(target, address, limits, tls, noted)
    except PublishError as error:
        notes = getattr(error, "__notes__", [])
        return [*steps, _failed(notes[0] if notes else name, began, error)]
    try:
        began = time.monotonic()
        async with asyncio.timeout(limits.publish_timeout):
            await _talk(target, address, reader, writer, publish, noted)
    except PublishError as error:
        steps.append(_failed(_next(steps), began, error))
    except (OSError, TimeoutError) as error:
        steps.append(_failed(_next(steps), began, from_os(error, _next(steps))))
    finally:
        writer.transport.abort()
    return steps


async def _talk(
    target: Target,
    address: IngestAddress,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    publish: bool,
    noted: Noted,
) -> None:
    session = Session(address, target.key)
    opened = began = time.monotonic()
    step, taken_at = session.step, None
    writer.write(session.take())
    while True:
        settled = asyncio.timeout(None if taken_at is None else max(0.0, taken_at + SETTLES - time.monotonic()))
        try:
            async with settled:
                data = await reader.read(16384)
        except TimeoutError:
            if not settled.expired() or taken_at is None:
                raise
            noted("publish", taken_at - began)
            session.goodbye()
            writer.write(session.take())
            await writer.drain()
            return
        if not data:
            raise closed(session.step, False)
        try:
            events: list[Event] = session.feed(data)
        except ProtocolError as error:
            raise PublishError(Code.DESTINATION_UNREACHABLE, f"not RTMP as we know it: {error}") from None
        if step == "handshake" and session.step != "handshake":
            noted("handshake", time.monotonic() - began)
            began, step = time.monotonic(), session.step
        for event in events:
            match event:
                case PublishRefused():
                    raise refused(event, "publish" if taken_at is not None else session.step, target.key)
                case Connected():
                    noted("connect", time.monotonic() - began)
                    began = time.monotonic()
                    if not publish:
                        # What the session would say next asks for the key.
                        return
                case Publishing():
                    taken_at = time.monotonic()
                case _:
                    pass
        writer.write(session.take())
        bearable(writer, session.received, time.monotonic() - opened)


def bandwidth_test(target: Target) -> Target:
    """The same destination, for a publish that nobody sees (Twitch)."""
    return replace(target, key=target.key + BANDWIDTH_TEST)


def _next(steps: list[Step]) -> str:
    names = ("handshake", "connect", "publish")
    done = {step.name for step in steps}
    return next((name for name in names if name not in done), "publish")


def _failed(name: str, began: float, error: PublishError) -> Step:
    return Step(name, False, round((time.monotonic() - began) * 1000, 1), error.code, error.detail)
