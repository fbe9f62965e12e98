"""The ingest process: takes encoders, checks their keys, and hands what they send to the relays of this machine.

It depends on no other process while it runs: Postgres is needed for the next key, and a relay for its own broadcast alone.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import signal
import socket
import ssl
from pathlib import Path

import structlog

from butai.config import IngestSettings, Settings
from butai.database import Database
from butai.ingest.listening import FolderUnusable, Listening, listen
from butai.ingest.publishers import Publishers
from butai.ingest.server import Ingest
from butai.live.encoders.admission import EncoderAdmission
from butai.web.uvicorn_limits import trusted

log = structlog.get_logger(__name__)

_COUNTED_EVERY = 60.0
"""Seconds between two lines of the log with what has happened meanwhile."""


class CertificateInvalid(Exception):
    """The files of the certificate cannot be used. The text names them."""


class AddressUnusable(Exception):
    """The ingest cannot listen where it is to. The text names the address, or the folder, and the setting."""


def tls_context(settings: IngestSettings) -> ssl.SSLContext | None:
    """What encoders are served with over RTMPS; None without a certificate. Raises `CertificateInvalid`."""
    if settings.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # With a password, though a wrong one, OpenSSL does not ask for one at the terminal.
        context.load_cert_chain(settings.certificate, settings.certificate_key, password="")
    except (OSError, ssl.SSLError) as error:
        # Of a wrong password, a wrong form, and a key of another certificate OpenSSL says little more.
        said = error.strerror or type(error).__name__
        key = f" or BUTAI_INGEST_CERTIFICATE_KEY {settings.certificate_key}" if settings.certificate_key else ""
        raise CertificateInvalid(f"BUTAI_INGEST_CERTIFICATE {settings.certificate}{key}: {said}") from error
    return context


async def run(settings: Settings, folder: Path) -> None:
    """Serves encoders until SIGTERM or SIGINT, which close their connections, or until another ingest has taken over: then those
    that are connected are served to their end. `folder`: that of the relays' sockets.

    Raises `AddressUnusable`, `CertificateInvalid`."""
    tls = tls_context(settings.ingest)
    name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with Database(settings.database) as database:
        publishers = Publishers(folder)
        admission = EncoderAdmission(database, publishers, name)
        publishers.when_ended = admission.left
        ingest = Ingest(admission.admit, trusted=trusted(settings.http.trusted_proxies), tls=tls)
        listening = await _listen(folder, settings.ingest)
        log.info("ingest.started", host=settings.ingest.host, port=listening.port, tls=tls is not None)
        looking = asyncio.create_task(admission.run())
        counting = asyncio.create_task(_log_counts(ingest))
        try:
            await _serve(ingest, listening, stopping)
        finally:
            await ingest.close()
            listening.close()
            for task in (looking, counting):
                task.cancel()
            await asyncio.gather(looking, counting, return_exceptions=True)
            await admission.say_goodbye()
            log.info("ingest.stopped", **ingest.counts)


async def _listen(folder: Path, settings: IngestSettings) -> Listening:
    try:
        return await listen(folder, settings.host, settings.port)
    except FolderUnusable as error:
        raise AddressUnusable(f"BUTAI_RELAY_FOLDER: {error}") from error
    except OSError as error:
        said = error.strerror or type(error).__name__
        if error.errno == errno.EADDRINUSE:
            said += ": choose another port, or the BUTAI_RELAY_FOLDER of the ingest that listens there, to take it over"
        raise AddressUnusable(f"BUTAI_INGEST_PORT {settings.port} of {settings.host}: {said}") from error


async def _serve(ingest: Ingest, listening: Listening, stopping: asyncio.Event) -> None:
    """Returns when the process is to end."""
    stopped = asyncio.create_task(stopping.wait())
    serving = asyncio.create_task(ingest.serve(listening.socket))
    succeeded = asyncio.create_task(listening.wait_for_successor())
    finished: asyncio.Task[None] | None = None
    try:
        done, _ = await asyncio.wait([stopped, serving, succeeded], return_when=asyncio.FIRST_COMPLETED)
        if succeeded not in done:
            for task in done & {serving}:
                task.result()
            return
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        listening.close()
        log.info("ingest.succeeded", connections=ingest.connections)
        finished = asyncio.create_task(ingest.finished())
        await asyncio.wait([stopped, finished], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopped, serving, succeeded, finished):
            if task is not None:
                task.cancel()


async def _log_counts(ingest: Ingest) -> None:
    """Logs what was counted since the last line, where anything was."""
    before = dict[str, int]()
    while True:
        await asyncio.sleep(_COUNTED_EVERY)
        now = dict(ingest.counts)
        new = {name: count - before.get(name, 0) for name, count in now.items() if count != before.get(name, 0)}
        if new:
            log.info("ingest.counted", open=ingest.connections, **new)
        before = now
