"""Objects that others have put into the bucket, and runs of the importer over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import SecretStr
from sqlalchemy import text
from yarl import URL

from butai.assets.imports.importer import BATCH, Importer
from butai.assets.imports.listing_formats import ListedObject
from butai.assets.imports.listings import FileListing, Listing
from butai.assets.imports.outcomes import ImportOptions, ImportVerdict, Tally
from butai.assets.storage import sigv4
from butai.assets.storage.client import Store
from butai.config import Settings
from butai.database import Database
from butai.embedded.seaweed import EmbeddedSeaweed
from tests import files

ODD = {
    "vrm/plain.vrm": files.vrm(1),
    "vrm/with space.vrm": files.vrm(2),
    "vrm/a+b.vrm": files.vrm(3),
    "vrm/100%.vrm": files.vrm(4),
    "vrm/a%20b.vrm": files.vrm(5),
    "vrm/舞台/アバター (1).vrm": files.vrm(6),
    "vrm/e\u0301 in two characters.vrm": files.vrm(7),
    "vrm/'quotes' & \"more\", <tags>.vrm": files.vrm(8),
    "AvatarSample_A.vrm": files.vrm(9),
    "models/b.glb": files.glb(),
    "animations/wave.bvh": files.BVH,
    "fbx/walk.fbx": files.FBX,
    "bgm/song #1?.mp3": files.MP3,
    "hdr/sky.hdr": files.HDR,
    "scene/room.png": files.png(),
}
"""Public keys, as they stand in the bucket behind the test's prefix, and their bytes."""


Fill = Callable[[dict[str, bytes]], Any]


async def put(seaweed: EmbeddedSeaweed, prefix: str, objects: dict[str, bytes]) -> None:
    """Puts objects into the bucket as its administrator: nothing of the service is involved."""
    store, gate = seaweed.store, asyncio.Semaphore(32)
    async with aiohttp.ClientSession() as http:

        async def one(key: str, body: bytes) -> None:
            path = sigv4.encode_path(prefix + key)
            url = sigv4.presign("PUT", f"{store.endpoint}/{store.bucket}/{path}", store.admin, store.region, expires=60)
            async with gate, http.put(URL(url, encoded=True), data=body) as answer:
                assert answer.status == 200, await answer.text()

        await asyncio.gather(*(one(key, body) for key, body in objects.items()))


class Names:
    """A listing in memory, with lines of the test's choice."""

    def __init__(self, settings: Settings, names: Iterable[str]) -> None:
        self._lines = [ListedObject(settings.store.prefix + name) for name in names]

    async def batches(self, size: int) -> AsyncIterator[list[ListedObject]]:
        for start in range(0, len(self._lines), size):
            yield self._lines[start : start + size]

    def progress(self) -> tuple[int, int | None]:
        return 0, None


async def import_(
    settings: Settings, listing: Listing | Iterable[str], **chosen: Any
) -> tuple[Tally, list[ImportVerdict]]:
    """One run; every verdict in order."""
    chosen = {"visibility": "public", "strip_prefix": settings.store.prefix} | chosen
    verdicts: list[ImportVerdict] = []
    source = listing if not isinstance(listing, Iterable) or isinstance(listing, FileListing) else None
    async with Database(settings.database) as database, Store(settings.store) as store:
        importer = Importer(database, store, ImportOptions(**chosen), verdicts.append)
        if source is None:
            source = Names(settings, listing)  # pyright: ignore[reportArgumentType]
        tally = await importer.run(source.batches(BATCH), lambda _tally: None)
    assert tally.scanned == len(verdicts) == sum(tally.counts.values())
    return tally, verdicts


def counts(tally: Tally) -> dict[str, int]:
    """`added`, and `outcome reason` for the rest."""
    return {f"{outcome} {reason}".strip(): count for (outcome, reason), count in tally.counts.items()}


async def snapshot(database: Database) -> list[tuple[Any, ...]]:
    """The whole index, without what differs from run to run."""
    async with database.transaction() as session:
        rows = await session.execute(
            text(
                """SELECT a.wanted_key AS name, a.wanted_key, a.type, a.sidecar, a.status, a.visibility, a.owner_user_id,
                          a.size_bytes, a.etag, a.mime_type, a.own_thumbnail_key, a.meta::text, a.tags, a.object_key,
                          o.origin, o.state, o.asset_id = a.id
                   FROM assets a LEFT JOIN asset_objects o ON o.object_key = a.object_key
                   ORDER BY a.wanted_key, a.owner_user_id"""
            )
        )
        return [tuple(row) for row in rows]


async def scalar(database: Database, statement: str) -> Any:
    async with database.transaction() as session:
        return await session.scalar(text(statement))


def odd_keys(settings: Settings) -> list[str]:
    """Where the objects of `ODD` are in the bucket."""
    return [settings.store.prefix + key for key in ODD]


def quoted(*values: str) -> str:
    """A line of a CSV file."""
    return ",".join('"' + value.replace('"', '""') + '"' for value in values)


def aws_ls(settings: Settings, folder: Path) -> Path:
    """What `aws s3 ls` prints of `ODD`, in a file."""
    path = folder / "ls.txt"
    path.write_text("".join(f"2024-05-01 12:00:00 {1:>10} {key}\n" for key in odd_keys(settings)))
    return path


def straight(settings: Settings, seaweed: EmbeddedSeaweed, credentials: sigv4.Credentials) -> Settings:
    """The same service, not behind the proxy, which fails the suite for every List request."""
    mine = settings.store.model_copy(
        update={
            "endpoint": seaweed.store.endpoint,
            "access_key_id": SecretStr(credentials.access_key_id),
            "secret_access_key": SecretStr(credentials.secret_access_key),
        }
    )
    return replace(settings, store=mine)
