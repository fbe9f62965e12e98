"""Decodes whole files: the waveform and loudness of music, the preview of a sky. One job for each file.

A child process with limits (`readers.decode_child`) decodes each. The jobs have a queue of their own, in which users take
turns. For a file that cannot be decoded, its facts give the reason (`decode_error`).
"""

from __future__ import annotations

import asyncio
import base64
import tempfile
from typing import Any
from uuid import UUID

import structlog
from procrastinate import App, JobContext
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai import jobs
from butai.assets import transitions
from butai.assets.contents.children import run_child
from butai.assets.contents.readers.decode_child import MOST_SECONDS
from butai.assets.contents.thumbnails import store_thumbnail, wants_thumbnail
from butai.assets.kinds import AssetType
from butai.assets.library import Library
from butai.assets.models import Asset, AssetWaveform
from butai.assets.states import AssetTrigger
from butai.assets.storage.client import ObjectAbsent, Store
from butai.audit import actors
from butai.errors import Code, Unavailable, UploadRefused
from butai.jobs import queue
from butai.jobs.retries import AtEndOfTurn

log = structlog.get_logger(__name__)

DECODE = "assets.decode"
"""The task that decodes a file. Arguments: `asset_id`, `object_key`."""

SECONDS = 60.0
"""Most seconds for one file. An hour of music takes ten; the rest is for a busy machine."""

SKIES = ("hdr", "exr")
"""Extensions of pictures that studios read themselves."""

LEAST_BITRATE = 6000
"""Bits per second of the smallest sound that is no silence: Opus has 6 kbit/s at least, MP3 and AAC 8."""

KINDS = {AssetType.BGM: "sound", AssetType.HDR: "picture"}
"""Types of assets that are decoded, and the argument for the child (`sound`, `picture`)."""


async def enqueue_decoding(session: AsyncSession, asset: Asset) -> None:
    """Enqueues the decoding of an asset's object, in the turn of its owner."""
    args = {"asset_id": str(asset.id), "object_key": asset.object_key}
    await jobs.enqueue(session, DECODE, args, turn=f"{DECODE}:{asset.owner_user_id or ''}")


async def decode(context: JobContext, asset_id: str, object_key: str) -> None:
    """Decodes one object, if it is still the asset's. A sound whose head claims more than `MOST_SECONDS`, as far as
    its size allows that, is refused unread. Idempotent. Raises `Unavailable` when the store fails."""
    library: Library = context.additional_context["library"]
    async with library.database.transaction() as session:
        asset = await session.get(Asset, UUID(asset_id))
    kind = KINDS.get(AssetType(asset.type)) if asset is not None else None
    if asset is None or kind is None or asset.object_key != object_key or asset.sidecar is not None:
        return
    if context.job.queue != queue.DECODE:
        # Of a version whose jobs had one queue.
        async with library.database.transaction() as session:
            await enqueue_decoding(session, asset)
        return
    if kind == "picture" and not await wants_thumbnail(library, asset.id, object_key):
        return
    if kind == "sound" and _claims_too_much(asset):
        await _write(library, asset.id, object_key, kind, {}, Code.DECODE_TOO_LONG)
        return
    suffix = asset.wanted_key.rpartition(".")[2].lower()
    found, problem = await _decoded(library.store, object_key, kind, suffix)
    if problem is None and kind == "picture":
        try:
            body = base64.b64decode(found["jpeg"])
            await store_thumbnail(library, asset.id, object_key, body, "image/jpeg")
        except UploadRefused:
            problem = Code.DECODE_FAILED
    if "picture" in asset.facts:
        problem = of_a_read_head(problem, suffix)
    await _write(library, asset.id, object_key, kind, found, problem)
    log.info("asset.decoded", asset_id=asset_id, kind=kind, error_code=problem)


def of_a_read_head(problem: str | None, suffix: str) -> str | None:
    """What the failed decoding of a picture means whose head was read: of a sky, that it has no preview. Browsers show more
    kinds of them than ffmpeg does: some compressions, layers, orientations."""
    return Code.NO_PREVIEW if problem == Code.DECODE_FAILED and suffix in SKIES else problem


def _claims_too_much(asset: Asset) -> bool:
    """Whether a sound's head claims more than `MOST_SECONDS`, and its size can be true: three MiB of FLAC can be five hours of
    silence, which no other format can."""
    seconds, sound = asset.duration_seconds or 0.0, asset.facts.get("sound", {})
    possible = sound.get("container") == "flac" or (asset.size_bytes or 0) * 8 >= LEAST_BITRATE * seconds
    return seconds > MOST_SECONDS and possible


async def _decoded(store: Store, object_key: str, kind: str, suffix: str) -> tuple[dict[str, Any], str | None]:
    # ffmpeg recognises some formats by their file names.
    with tempfile.NamedTemporaryFile(prefix="butai-decode-", suffix=f".{suffix}") as file:
        try:
            async with store.open(object_key) as body:
                async for chunk in body.chunks():
                    await asyncio.to_thread(file.write, chunk)
        except ObjectAbsent:
            return {}, Code.ASSET_MISSING
        file.flush()
        return await decode_file(kind, file.name)


async def decode_file(kind: str, path: str) -> tuple[dict[str, Any], str | None]:
    """The child's answer, or a code: `decode_failed`, `decode_too_long`."""
    found, problem = await run_child("butai.assets.contents.readers.decode_child", kind, path, seconds=SECONDS)
    return ({}, Code.DECODE_TOO_LONG) if "too_long" in found else (found, problem)


async def _write(
    library: Library, asset_id: UUID, object_key: str, kind: str, found: dict[str, Any], problem: str | None
) -> None:
    async with library.database.transaction() as session:
        asset = await transitions.lock(session, asset_id)
        if asset is None or asset.object_key != object_key:
            return
        facts = {name: value for name, value in asset.facts.items() if name != "decode_error"}
        if problem is not None:
            facts["decode_error"] = problem
        elif kind == "sound":
            names = ("loudness_lufs", "peak_dbfs", "sample_rate", "channels")
            measured = {name: found[name] for name in names if found[name] is not None}
            facts["sound"] = {**facts.get("sound", {}), "duration": found["duration"], **measured}
            asset.duration_seconds = found["duration"]
            row = {"asset_id": asset_id, "object_key": object_key, "peaks": found["peaks"]}
            statement = insert(AssetWaveform).values(**row)
            await session.execute(statement.on_conflict_do_update(index_elements=["asset_id"], set_=row))
        asset.facts = facts
        await transitions.move(session, asset, AssetTrigger.INSPECTED, actor=actors.WORKER, error_code=problem)


def register(app: App) -> None:
    """Makes the task known to a procrastinate app."""
    retry = AtEndOfTurn(max_attempts=8, exponential_wait=2, retry_exceptions={Unavailable})
    app.task(name=DECODE, pass_context=True, retry=retry)(decode)
