"""Tests a destination without going live: reports each step with its duration, or the reason of its failure."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from urllib.parse import unquote

from butai.errors import Code
from butai.relay.rtmp.addresses import IngestAddress
from butai.relay.rtmp.chunks import ProtocolError
from butai.relay.rtmp.connection import (
    Limits,
    OnStep,
    Target,
    check_peer_limits,
    connect,
    follow,
    peer_address,
    redirect_failed,
)
from butai.relay.rtmp.failures import PublishError, Redirected, closed, from_os, refused
from butai.relay.rtmp.session import Connected, Event, Publishing, PublishRefused, Session

_BANDWIDTH_TEST = "bandwidthtest"
"""A parameter of the stream key with which Twitch accepts a publish and does not show it, if it is `true`."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `name`: `address`, `dns`, `tcp`, `tls`, `handshake`, `connect`, `publish`. `code`, `detail`: why it
    failed."""

    name: str
    ok: bool
    ms: float
    code: str = ""
    detail: str = ""


async def check(
    target: Target, *, publish: bool, limits: Limits | None = None, tls: ssl.SSLContext | None = None
) -> list[Step]:
    """Returns the steps in order, up to the first that fails; after a redirect, which is followed once, those of the server
    that it names. With `publish`, the stream key is tested, too."""
    limits = limits or Limits()
    try:
        return await _check(target, publish, limits, tls)
    except Redirected as redirect:
        began = time.monotonic()
        try:
            steps = await _check(follow(target, redirect), publish, limits, tls)
        except Redirected as error:
            return [_failed("connect", began, error)]
        return [step if step.ok else _after(redirect, step) for step in steps]


def _after(redirect: Redirected, step: Step) -> Step:
    """A step that failed, of the server that a redirect names."""
    error = redirect_failed(redirect, PublishError(Code(step.code), step.detail))
    return replace(step, code=error.code, detail=error.detail)


async def _check(target: Target, publish: bool, limits: Limits, tls: ssl.SSLContext | None) -> list[Step]:  # noqa: FBT001
    """As `check`, of one host: after a server without a handshake, its other addresses are tried, as a push does."""
    until = time.monotonic() + limits.connect_timeout + limits.silence_timeout
    steps, tried = list[Step](), set[str]()
    while True:
        found, peer = await _try(target, publish, limits, tls, tried)
        if steps and not peer:
            # No other address takes a connection.
            return steps
        steps = found
        if steps[-1].ok or steps[-1].name != "handshake" or not peer or time.monotonic() > until:
            return steps
        tried.add(peer)


async def _try(
    target: Target,
    publish: bool,  # noqa: FBT001
    limits: Limits,
    tls: ssl.SSLContext | None,
    without: Collection[str],
) -> tuple[list[Step], str]:
    """Returns the steps, and the IP address of the connection; an empty one if there was none."""
    steps: list[Step] = []

    def on_step(name: str, seconds: float) -> None:
        steps.append(Step(name, ok=True, ms=round(seconds * 1000, 1)))

    began = time.monotonic()
    name = "address"
    try:
        address = target.address()
        name = "tcp"
        reader, writer = await connect(target, address, limits, tls, on_step, without)
    except PublishError as error:
        notes = getattr(error, "__notes__", [])
        return [*steps, _failed(notes[0] if notes else name, began, error)], ""
    peer = peer_address(writer)
    try:
        began = time.monotonic()
        async with asyncio.timeout(min(limits.silence_timeout, limits.publish_timeout)) as patience:
            await _handshake_and_publish(
                target, address, reader, writer, limits, on_step, patience=patience, publish=publish
            )
    except Redirected:
        raise
    except PublishError as error:
        steps.append(_failed(_next(steps), began, error))
    except (OSError, TimeoutError) as error:
        steps.append(_failed(_next(steps), began, from_os(error, _next(steps))))
    finally:
        writer.transport.abort()
    return steps, peer


async def _handshake_and_publish(
    target: Target,
    address: IngestAddress,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    limits: Limits,
    on_step: OnStep,
    *,
    patience: asyncio.Timeout,
    publish: bool,
) -> None:
    session = Session(address, target.stream_key)
    opened = began = time.monotonic()
    step, accepted_at = session.step, None
    writer.write(session.data_to_send())
    while True:
        settled = asyncio.timeout(
            None if accepted_at is None else max(0.0, accepted_at + limits.settle_time - time.monotonic())
        )
        try:
            async with settled:
                data = await reader.read(16384)
        except TimeoutError:
            if not settled.expired() or accepted_at is None:
                raise
            on_step("publish", accepted_at - began)
            session.goodbye()
            writer.write(session.data_to_send())
            await writer.drain()
            return
        if not data:
            raise closed(session.step, acknowledged=False)
        try:
            events: list[Event] = session.feed(data)
        except ProtocolError as error:
            raise PublishError(Code.DESTINATION_UNREACHABLE, f"not valid RTMP: {error}") from None
        if step == "handshake" and session.step != "handshake":
            on_step("handshake", time.monotonic() - began)
            patience.reschedule(asyncio.get_running_loop().time() + limits.publish_timeout)
            began, step = time.monotonic(), session.step
        for event in events:
            match event:
                case PublishRefused():
                    raise refused(event, "publish" if accepted_at is not None else session.step, target.secrets)
                case Connected():
                    on_step("connect", time.monotonic() - began)
                    began = time.monotonic()
                    if not publish:
                        # The session's next message contains the stream key.
                        return
                case Publishing():
                    accepted_at = time.monotonic()
                case _:
                    pass
        writer.write(session.data_to_send())
        check_peer_limits(writer, session.received, time.monotonic() - opened)


def bandwidth_test(target: Target) -> Target:
    """The same destination with a key whose publish Twitch does not show."""
    key, *hidden = target.key.split("\n")
    # A parameter of that name that the key has already, or one behind a #, would make the publish an ordinary one.
    name, _, query = key.partition("#")[0].partition("?")
    given = re.split("[&;?]", query)
    others = [one for one in given if one and unquote(one.partition("=")[0]).strip().lower() != _BANDWIDTH_TEST]
    tested = f"{name}?{'&'.join([f'{_BANDWIDTH_TEST}=true', *others])}"
    return replace(target, key="\n".join((tested, *hidden)))


def _next(steps: list[Step]) -> str:
    names = ("handshake", "connect", "publish")
    done = {step.name for step in steps}
    return next((name for name in names if name not in done), "publish")


def _failed(name: str, began: float, error: PublishError) -> Step:
    return Step(name, ok=False, ms=round((time.monotonic() - began) * 1000, 1), code=error.code, detail=error.detail)
