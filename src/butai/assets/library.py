"""What the library's routes and tasks need of their process, put together once by `butai.api` and `butai.worker`."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from butai.assets.reading.delivery import Delivery
from butai.assets.reading.usage import ReadUsage
from butai.assets.storage.client import Store
from butai.assets.uploads.part_buffers import PartMemory
from butai.assets.uploads.streaming import UploadTools
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
    reads: ReadUsage


def assemble(database: Database, store: Store, settings: AssetSettings, http: HttpSettings) -> Library:
    """Puts a library together from opened parts."""
    uploads = UploadTools(database, store, PartMemory(settings.upload_memory_bytes), settings)
    return Library(database, store, uploads, Delivery(store, http), settings, http, ReadUsage(database))


def get_library(request: Request) -> Library:
    """The process's library."""
    return request.state.library
