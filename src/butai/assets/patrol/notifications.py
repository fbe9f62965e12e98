"""The patrol's notifications for operators: one digest of a run that changed something, and an alert of one that
stopped.

Sent in the transaction of the change itself, so that neither exists without the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from butai.alerts.service import raise_alert, send_message
from butai.assets.patrol.finding_states import FindingKind, FindingState
from butai.assets.patrol.models import Finding, PatrolRun
from butai.assets.storage.canary import StoreUnreliable
from butai.errors import Code

MOST_LISTED = 20
"""Most files that a message names; `GET /api/assets/patrol` has all of them."""


def count_files(count: int) -> str:
    """A number of files, in words."""
    return "1 file" if count == 1 else f"{count} files"


def list_keys(title: str, keys: Sequence[str]) -> str:
    """A title, and the first `MOST_LISTED` of the keys, one a line."""
    more = f"\n… and {len(keys) - MOST_LISTED} more" if len(keys) > MOST_LISTED else ""
    return f"{title}:\n" + "\n".join(keys[:MOST_LISTED]) + more


async def send_digest(session: AsyncSession, run_id: int) -> None:
    """Sends one message about all changes of this run; none when it changed nothing."""
    name = Finding.detail["s3_key"].astext
    started = select(PatrolRun.started_at).where(PatrolRun.id == run_id).scalar_subquery()
    changes: dict[str, Sequence[str]] = {}
    for what, condition in (
        ("lost", (Finding.kind == FindingKind.MISSING) & (Finding.run_id == run_id)),
        ("recovered", (Finding.resolution == FindingState.RECOVERED) & (Finding.resolved_at >= started)),
        ("changed in the store", (Finding.kind == FindingKind.MISMATCH) & (Finding.run_id == run_id)),
    ):
        keys = (await session.scalars(select(name).where(condition).order_by(name))).all()
        if keys:
            changes[what] = keys
    if changes:
        title = "Patrol: " + ", ".join(f"{count_files(len(keys))} {what}" for what, keys in changes.items())
        body = "\n\n".join(list_keys(what.capitalize(), keys) for what, keys in changes.items())
        await send_message(session, title, body, "warning" if set(changes) != {"recovered"} else "info")


async def raise_stop_alert(session: AsyncSession, stopped: StoreUnreliable) -> None:
    """Raises the alert of a run that stopped, under the code it stopped with."""
    titles = {
        Code.PATROL_UNRELIABLE: "The store's answers cannot be trusted",
        Code.PATROL_MASS_MISSING: "Very many files seem to be missing from the store",
    }
    advice = "No file was marked. `butai doctor` shows what the store allows; the next patrol tries again."
    await raise_alert(
        session,
        key=stopped.code,
        code=stopped.code,
        severity="failure",
        title=titles[stopped.code],
        body=f"{stopped.detail[:1].upper()}{stopped.detail[1:]}. {advice}",
    )
