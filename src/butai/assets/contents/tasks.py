"""Inspects files for the facts that the library shows and filters by.

`assets.inspect` is enqueued with each upload; `assets.inspect_backlog` finds files that were never inspected, such as
imported ones. Both read a few ranges of the object and write one row, unless the asset has another object by then. A
file that cannot be read has the reason on its row (`inspect_error`), and no other effect.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec
import structlog
from procrastinate import App, JobContext, RetryStrategy
from sqlalchemy import select

from butai.assets import transitions
from butai.assets.contents.children import run_child
from butai.assets.contents.decode_tasks import KINDS, enqueue_decoding
from butai.assets.contents.readers import animations, claims
from butai.assets.contents.readers.document import Facts, Places, document_facts, motion_facts, unknown_licence
from butai.assets.contents.readers.glb import Read, Unparsed, open_glb, open_gltf
from butai.assets.contents.readers.images import image_sizes
from butai.assets.contents.readers.pictures import picture_facts
from butai.assets.contents.readers.sound import sound_facts
from butai.assets.contents.thumbnails import store_thumbnail, wants_thumbnail
from butai.assets.kinds import GLB_JSON_LIMIT, AssetType
from butai.assets.library import Library
from butai.assets.models import Asset
from butai.assets.signatures import SOUND_MIMES, picture_mime
from butai.assets.states import AssetStatus, AssetTrigger
from butai.assets.storage.client import ObjectAbsent, RangeRefused, Store
from butai.assets.uploads.attempts import INSPECT
from butai.audit import actors
from butai.errors import (
    AssetMissing,
    Code,
    DatabaseUnavailable,
    GlbInvalid,
    InspectionTooLarge,
    SizeMismatch,
    Unavailable,
    UploadRefused,
)

log = structlog.get_logger(__name__)

SECONDS = 20.0
"""Most seconds for one file. A valid one takes a tenth of a second."""

READ_LIMIT = GLB_JSON_LIMIT + 8 * 1024**2
"""Most bytes that are read of one file: the largest document, and the heads of its pictures."""

RETRIES = 8
"""Attempts of a job while the store does not answer: after 2, 4, 8, … seconds, over eight minutes in all."""

BACKLOG_BATCH = 200
BACKLOG_AT_ONCE = 4

BACKLOG_SECONDS = 240.0
"""Seconds after which one run of the backlog ends. The next minute's run continues, so that a worker can stop in
between."""

TERMS_LIMIT = 300
"""Most terms of one file that lists filter by: an avatar has some twenty expressions."""

GLB_EXTENSIONS = ("vrm", "glb", "vrma")
SOUNDS = ("mp3", "ogg", "oga", "opus", "wav", "flac", "m4a", "mp4", "aac", "webm")
PICTURES = ("hdr", "exr", "png", "jpg", "jpeg", "webp")


class Reader:
    """Reads ranges of one object, within its size and a `budget` of bytes."""

    def __init__(self, store: Store, object_key: str, size: int, budget: int = READ_LIMIT) -> None:
        self._store, self._key, self._size, self._budget = store, object_key, size, budget
        self.bytes_read = 0

    async def __call__(self, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`, fewer at the end. Raises `InspectionTooLarge`, and the errors of
        `Store.read`."""
        length = min(length, self._size - start)
        if length <= 0:
            return b""
        if self.bytes_read + length > self._budget:
            raise InspectionTooLarge(f"More than {self._budget} bytes would have to be read")
        self.bytes_read += length
        return await self._store.read(self._key, start, length)


async def read_facts(read: Read, size: int, kind: AssetType, extension: str) -> Facts:
    """The facts of a file of `size` bytes. Raises `UploadRefused` for a file that is broken, or too large to
    inspect."""
    if extension in GLB_EXTENSIONS:
        return await _model(read, await open_glb(read, size), kind, "glb")
    if extension == "gltf":
        return await _model(read, await open_gltf(read, size), kind, "gltf")
    if extension == "bvh":
        return motion_facts(await animations.bvh_animation(read, size), "bvh")
    if extension == "fbx":
        return motion_facts(await animations.fbx_animation(read, size), "fbx")
    if extension in SOUNDS:
        sound = await sound_facts(read, size, extension)
        mime = SOUND_MIMES[sound["container"]]
        return Facts(
            {"sound": sound}, [f"format={extension}"], duration=claims.seconds(sound.get("duration")), mime=mime
        )
    if extension in PICTURES:
        picture = await picture_facts(read, size, extension)
        return Facts({"picture": picture}, [f"format={'jpg' if extension == 'jpeg' else extension}"])
    return Facts()


async def _model(read: Read, document: Unparsed, kind: AssetType, form: str) -> Facts:
    if document.is_small:
        found, places = document_facts(document.parsed(), kind, form)
    else:
        found, places = await _in_child(document, kind, form)
    del document
    if sizes := await image_sizes(read, places):
        found.sections["model"]["image_sizes"] = sizes
        found.sections["model"]["largest_image"] = max(sizes, key=lambda size: size[0] * size[1])
    return found


async def _in_child(document: Unparsed, kind: AssetType, form: str) -> tuple[Facts, Places]:
    """As `document_facts`, in a process of its own. Raises `GlbInvalid`, `InspectionTooLarge`, and `RuntimeError` for a process
    that failed."""
    start, length = document.binary or (-1, 0)
    with tempfile.NamedTemporaryFile(prefix="butai-decode-", suffix=".json") as file:
        await asyncio.to_thread(file.write, document.text)
        file.flush()
        answer, problem = await run_child(
            "butai.assets.contents.readers.model_child", kind, form, str(start), str(length), file.name, seconds=SECONDS
        )
    if answer.get("error") == GlbInvalid.code:
        raise GlbInvalid("The JSON chunk is not a JSON object")
    if problem is Code.DECODE_FAILED:
        raise RuntimeError("the process that reads a large document failed")
    if problem is not None or "error" in answer:
        # Of time or of memory.
        raise InspectionTooLarge
    return msgspec.convert(answer["facts"], Facts), [(first, many) for first, many in answer["places"]]


# One asset


@dataclass(frozen=True, slots=True)
class _Target:
    """The asset of an inspection, as it was when the inspection began."""

    id: UUID
    object_key: str
    etag: str | None
    size: int
    type: AssetType
    extension: str


def _target(asset: Asset) -> _Target:
    extension = asset.wanted_key.rpartition(".")[2].lower()
    size = asset.size_bytes or 0
    return _Target(asset.id, asset.object_key or "", asset.etag, size, AssetType(asset.type), extension)


async def inspect_asset(context: JobContext, asset_id: str, object_key: str) -> None:
    """Inspects one object, if it is still the asset's. Idempotent."""
    library: Library = context.additional_context["library"]
    async with library.database.transaction() as session:
        asset = await session.get(Asset, UUID(asset_id))
    if (
        asset is None
        or asset.sidecar is not None
        or asset.object_key != object_key
        or asset.inspected_key == object_key
    ):
        return
    target = _target(asset)
    try:
        await _inspect(library, target)
    except DatabaseUnavailable:
        raise
    except Unavailable as error:
        if context.job.attempts < RETRIES:
            raise
        await _write(library, target, None, error.code)


async def _inspect(library: Library, target: _Target) -> None:
    """Reads the object and writes its facts. Raises `Unavailable` for failures of store and database, having written
    nothing."""
    began = time.monotonic()
    reader = Reader(library.store, target.object_key, target.size)
    facts, problem = None, None
    try:
        async with asyncio.timeout(SECONDS):
            facts = await read_facts(reader, target.size, target.type, target.extension)
    except TimeoutError:
        problem = Code.INSPECTION_TIMEOUT
    except UploadRefused as error:
        problem = error.code
    except ObjectAbsent:
        problem = AssetMissing.code
    except RangeRefused:
        problem = SizeMismatch.code
    except Unavailable:
        raise
    except Exception:
        # A bug in a reader must not keep the other files from being read.
        log.exception("asset.inspection_crashed", asset_id=str(target.id))
        problem = Code.INSPECTION_FAILED
    if facts is not None and facts.thumbnail is not None:
        await _keep_thumbnail(library, target, *facts.thumbnail)
    await _write(library, target, facts, problem)
    log.info(
        "asset.inspected",
        asset_id=str(target.id),
        error_code=problem,
        bytes_read=reader.bytes_read,
        milliseconds=round((time.monotonic() - began) * 1000),
    )


async def _keep_thumbnail(library: Library, target: _Target, start: int, length: int, mime: str) -> None:
    if not await wants_thumbnail(library, target.id, target.object_key):
        return
    try:
        body = await library.store.read(target.object_key, start, length)
        # What the file says of its picture is a claim: exporters write PNG for JPEG, and names that are none.
        await store_thumbnail(library, target.id, target.object_key, body, picture_mime(body) or mime)
    except (UploadRefused, ObjectAbsent, RangeRefused) as error:
        # Not a picture; the file's other facts are kept.
        log.info("thumbnail.refused", asset_id=str(target.id), error=type(error).__name__)


async def _write(library: Library, target: _Target, facts: Facts | None, problem: str | None) -> None:
    """Writes the facts in one transaction, unless the asset has another object by now."""
    found = facts or Facts()
    if target.type is AssetType.VRM and "licence" not in found.sections:
        found = unknown_licence(found)
    async with library.database.transaction() as session:
        asset = await transitions.lock(session, target.id)
        if asset is None or (asset.object_key, asset.etag) != (target.object_key, target.etag):
            return
        asset.facts = found.sections
        asset.inspected_key = target.object_key
        asset.inspect_error = problem
        asset.mime_type = found.mime or asset.mime_type
        asset.triangles = found.triangles
        asset.duration_seconds = found.duration
        asset.terms = list(dict.fromkeys(term.lower() for term in found.terms))[:TERMS_LIMIT]
        detail = {"error_code": problem} if problem else {}
        if target.type in KINDS:
            await enqueue_decoding(session, asset)
        await transitions.move(
            session, asset, AssetTrigger.INSPECTED, actor=actors.WORKER, error_code=problem, detail=detail
        )


# The backlog


async def inspect_backlog(context: JobContext, timestamp: int) -> None:
    """Inspects files that were never inspected, in the order of their ids, until none is left or the run's time is
    over."""
    library: Library = context.additional_context["library"]
    deadline = time.monotonic() + BACKLOG_SECONDS
    after: UUID | None = None
    while time.monotonic() < deadline:
        targets = await _waiting(library, after)
        if not targets:
            return
        after = targets[-1].id
        refused = await _inspect_all(library, targets)
        if len(refused) == len(targets) and len(targets) > 1:
            # The store is down. Nothing was written, so the next run finds them again.
            log.warning("inspection.store_away", error_code=refused[0][1])
            return
        for target, code in refused:
            # One failure among other files that could be read: a 403, which AWS also answers for an absent key.
            await _write(library, target, None, code)


async def _waiting(library: Library, after: UUID | None) -> list[_Target]:
    # Word for word the condition of the index `ix_assets_uninspected`.
    waiting = select(Asset).where(
        Asset.status == AssetStatus.READY,
        Asset.sidecar.is_(None),
        Asset.inspected_key.is_distinct_from(Asset.object_key),
    )
    if after is not None:
        waiting = waiting.where(Asset.id > after)
    async with library.database.transaction() as session:
        rows = await session.scalars(waiting.order_by(Asset.id).limit(BACKLOG_BATCH))
        return [_target(row) for row in rows]


async def _inspect_all(library: Library, targets: Sequence[_Target]) -> list[tuple[_Target, str]]:
    """Inspects these; returns those that the store did not return, with its error code."""
    slots = asyncio.Semaphore(BACKLOG_AT_ONCE)
    refused: list[tuple[_Target, str]] = []

    async def one(target: _Target) -> None:
        async with slots:
            try:
                await _inspect(library, target)
            except DatabaseUnavailable:
                raise
            except Unavailable as error:
                refused.append((target, error.code))

    try:
        async with asyncio.TaskGroup() as group:
            for target in targets:
                group.create_task(one(target))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return refused


def register(app: App) -> None:
    """Makes the tasks known to a procrastinate app."""
    retry = RetryStrategy(max_attempts=RETRIES, exponential_wait=2, retry_exceptions={Unavailable})
    app.task(name=INSPECT, pass_context=True, retry=retry)(inspect_asset)
    backlog = app.task(
        name="assets.inspect_backlog",
        pass_context=True,
        queueing_lock="assets.inspect_backlog",
        lock="assets.inspect_backlog",
    )(inspect_backlog)
    app.periodic(cron="* * * * *")(backlog)
