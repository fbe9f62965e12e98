"""What the library's routes and tasks need of their process, put together once by `butai.api` and `butai.worker`."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from butai.assets.delivery import Delivery
from butai.assets.parts import PartMemory
from butai.assets.reads import Reads
from butai.assets.resumable.digests import Digests
from butai.assets.resumable.uploads import Resumables
from butai.assets.storage import Store
from butai.assets.uploads import UploadTools
from butai.config import AssetSettings, HttpSettings
from butai.database import Database


@dataclass(frozen=True, slots=True)
class Library:
    """The parts of the library in one process."""

    database: Database
    store: Store
    uploads: UploadTools
    delivery: Delivery
    settings: AssetSettings
    http: HttpSettings
    reads: Reads
    resumables: Resumables


def assemble(database: Database, store: Store, settings: AssetSettings, http: HttpSettings) -> Library:
    """Puts a library together from opened parts."""
    uploads = UploadTools(database, store, PartMemory(settings.upload_memory_bytes), settings)
    return Library(
        database, store, uploads, Delivery(store, http), settings, http, Reads(database), Resumables(uploads, Digests())
    )


def library(request: Request) -> Library:
    """The process's library."""
    return request.state.library
