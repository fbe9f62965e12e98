"""The sweep: settles uploads whose process or client has ended.

Their process died, or their client got a signed URL and never reported. What arrived by a signed URL is completed; all
other uploads are given up when their lease has expired.
"""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from butai.assets import ledger
from butai.assets.ledger import Abandoned
from butai.assets.models import Asset
from butai.assets.uploads import signed
from butai.assets.uploads.attempts import UploadAttempt, fail
from butai.assets.uploads.opening import UploadTools
from butai.audit import actors
from butai.errors import QuotaExceeded, TakenDown, Unavailable, UploadInterrupted, UploadRefused

log = structlog.get_logger(__name__)

BATCH = 100
"""Most objects of one sweep; the next one comes ten seconds later."""


async def sweep(tools: UploadTools) -> None:
    """Settles one batch. While the store or the database is unavailable, an object waits for a later sweep."""
    async with tools.database.transaction() as session:
        found = await ledger.take_abandoned(session, datetime.now(UTC), BATCH)
    for each in found:
        asset = None
        if each.line.asset_id is not None:
            async with tools.database.transaction() as session:
                asset = await session.get(Asset, each.line.asset_id)
        try:
            if each.line.origin == "signed" and asset is not None:
                await _settle_signed(tools, each, asset)
            else:
                await _give_up(tools, each)
        except Unavailable as error:
            log.warning("sweep.postponed", object_key=each.line.object_key, error_code=error.code)
            # The others would wait as long, and hold up what else the service does by itself.
            return


async def _settle_signed(tools: UploadTools, each: Abandoned, asset: Asset) -> None:
    try:
        arrival = await signed.settle(tools, each.line, asset, actors.WORKER, None)
    except (UploadRefused, QuotaExceeded, TakenDown) as error:
        log.info("upload.refused_by_sweep", asset_id=str(asset.id), error_code=error.code)
        return
    except UploadInterrupted:
        return
    if arrival is signed.Arrival.COMPLETED:
        log.info("upload.completed_by_sweep", asset_id=str(asset.id))
    elif arrival is signed.Arrival.ABSENT and each.expired:
        await _give_up(tools, each)


async def _give_up(tools: UploadTools, each: Abandoned) -> None:
    line, error = each.line, UploadInterrupted("The upload was not finished in time")
    async with tools.database.transaction() as session:
        await fail(session, UploadAttempt(line.object_key, line.asset_id, line.attempt), error, actor=actors.WORKER)
    log.info("upload.given_up", asset_id=str(line.asset_id), object_key=line.object_key)
