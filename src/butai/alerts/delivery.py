"""Sends messages to the services of `BUTAI_ALERT_URLS`, through Apprise.

An Apprise URL nearly always holds a secret, so none is ever stored or logged: rows keep a fingerprint, errors a
service's name and one word of a fixed list.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import func, text, update

from butai.alerts.models import AlertMessage
from butai.config import AlertSettings
from butai.database import Database

log = structlog.get_logger(__name__)

TIME_LIMIT = 30.0
"""Seconds for one service, over Apprise's own limits of 4 seconds for a connection and 4 for an answer."""

# Both put the URL into their warnings, errors and exceptions.
for _name in ("apprise", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)
    logging.getLogger(_name).propagate = False

if TYPE_CHECKING:
    import apprise


class AlertNotDelivered(Exception):
    """Some services have not accepted the message. Those that have are on its row, and are not sent it again."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service of `BUTAI_ALERT_URLS`. `name` (`discord`, `json`) and `fingerprint` may be shown; the repr has no
    URL."""

    name: str
    fingerprint: str
    plugin: apprise.NotifyBase | None
    """None for a URL that Apprise cannot read."""

    def __repr__(self) -> str:
        return f"Service({self.name})"


def services(settings: AlertSettings) -> list[Service]:
    """The services that are configured, each once, in the order given."""
    if not settings.urls.get_secret_value().strip():
        return []
    # Imported here: a worker without any service saves its 20 MiB.
    import apprise

    asset = apprise.AppriseAsset(app_id="Butai", app_desc="Butai", app_url="", async_mode=False)
    # A comma may be part of a URL (several receivers of one mail); before a scheme it separates two.
    parts = re.split(r"\s+|,+(?=[\w+.-]+://)", settings.urls.get_secret_value())
    found: dict[str, Service] = {}
    for url in (part.strip(",") for part in parts):
        if url:
            fingerprint = hashlib.sha256(url.encode()).hexdigest()[:12]
            plugin = apprise.Apprise.instantiate(url, asset=asset)
            # An unknown scheme may be a secret that was pasted without its URL.
            name = url.partition("://")[0].lower() if plugin is not None else "unreadable URL"
            found.setdefault(fingerprint, Service(name, fingerprint, plugin))
    return list(found.values())


async def send(service: Service, severity: str, title: str, body: str) -> str | None:
    """Sends once. Returns None when the service has accepted the message, else `refused`, `timeout`, `unknown` (a URL
    that Apprise cannot read) or `failed`."""
    plugin = service.plugin
    if plugin is None:
        return "unknown"

    from apprise import NotifyFormat, NotifyType

    def notify() -> bool:
        return bool(
            plugin.notify(
                title=title,
                # Apprise does not send an empty body.
                body=body or title,
                notify_type=NotifyType(severity),
                body_format=NotifyFormat.TEXT,
            )
        )

    try:
        async with asyncio.timeout(TIME_LIMIT):
            return None if await asyncio.to_thread(notify) else "refused"
    except TimeoutError:
        return "timeout"
    except Exception:  # noqa: BLE001 - apprise and its plugins raise anything
        # The exception's text and traceback may quote the URL.
        return "failed"


async def deliver(database: Database, settings: AlertSettings, message_id: int) -> None:
    """Sends a message to each service that has not accepted it yet. Raises `AlertNotDelivered` when one still has not.

    A service gets it twice only when this process dies after the service's answer and before the row is written.
    """
    targets = await asyncio.to_thread(services, settings)
    async with database.transaction() as session:
        message = await session.get(AlertMessage, message_id)
    if message is None or message.delivered_at is not None:
        return
    if not targets:
        log.info("alert.no_receiver", message_id=message_id, kind=message.kind, title=message.title)
        return
    failures: list[str] = []
    for target in targets:
        if target.fingerprint in message.delivered_to:
            continue
        reason = await send(target, message.severity, message.title, message.body)
        if reason is not None:
            failures.append(f"{target.name}: {reason}")
            continue
        async with database.transaction() as session:
            await session.execute(
                update(AlertMessage)
                .where(AlertMessage.id == message_id, ~AlertMessage.delivered_to.contains([target.fingerprint]))
                .values(delivered_to=func.array_append(AlertMessage.delivered_to, target.fingerprint))
            )
    async with database.transaction() as session:
        await session.execute(
            update(AlertMessage)
            .where(AlertMessage.id == message_id)
            .values(
                attempts=AlertMessage.attempts + 1,
                error="; ".join(failures) or None,
                delivered_at=text("NULL") if failures else func.now(),
            )
        )
    if failures:
        log.warning("alert.not_delivered", message_id=message_id, reasons=failures)
        # Without a cause, which could quote a URL: the job's failure is stored with its text.
        raise AlertNotDelivered(f"message {message_id}: {'; '.join(failures)}")
    log.info("alert.delivered", message_id=message_id, kind=message.kind, services=len(targets))
