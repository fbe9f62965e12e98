"""What an operator is told of a patrol: one digest of a round that changed something, and that one stopped.

Called by `patrolling`, in the transaction of what is told of.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from butai.alerts.service import digest, raise_alert
from butai.assets.patrol.models import Finding, PatrolRun
from butai.assets.storage.canary import StoreUnreliable
from butai.errors import Code

MOST_NAMED = 20
"""Files that a message names; all of them are at `GET /api/assets/patrol`."""


def files(count: int) -> str:
    """A number of files, in words."""
    return "1 file" if count == 1 else f"{count} files"


def named(title: str, keys: Sequence[str]) -> str:
    """A title, and the first of the keys."""
    more = f"\n… and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    return f"{title}:\n" + "\n".join(keys[:MOST_NAMED]) + more


async def tell_digest(session: AsyncSession, run_id: int) -> None:
    """One message about all that this run changed; none when it changed nothing."""
    name = Finding.detail["s3_key"].astext
    started = select(PatrolRun.started_at).where(PatrolRun.id == run_id).scalar_subquery()
    found: dict[str, Sequence[str]] = {}
    for what, condition in (
        ("lost", (Finding.kind == "missing") & (Finding.run_id == run_id)),
        ("recovered", (Finding.resolution == "recovered") & (Finding.resolved_at >= started)),
        ("changed in the store", (Finding.kind == "mismatch") & (Finding.run_id == run_id)),
    ):
        keys = (await session.scalars(select(name).where(condition).order_by(name))).all()
        if keys:
            found[what] = keys
    if found:
        title = "Patrol: " + ", ".join(f"{files(len(keys))} {what}" for what, keys in found.items())
        body = "\n\n".join(named(what.capitalize(), keys) for what, keys in found.items())
        await digest(session, title, body, "warning" if set(found) != {"recovered"} else "info")


async def tell_stop(session: AsyncSession, stopped: StoreUnreliable) -> None:
    """Raises the alert of a run that stopped."""
    titles = {
        Code.PATROL_UNRELIABLE: "The patrol cannot believe the store",
        Code.PATROL_MASS_MISSING: "Very many files seem to be gone from the store",
    }
    advice = "No file was marked. `butai doctor` tells what the store allows; the next patrol tries again."
    await raise_alert(
        session,
        key=stopped.code,
        code=stopped.code,
        severity="failure",
        title=titles[stopped.code],
        body=f"{stopped.detail[:1].upper()}{stopped.detail[1:]}. {advice}",
    )
