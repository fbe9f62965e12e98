"""The container of the dependencies that the library's routes and tasks share; one for each process."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from butai.assets.reading.delivery import Delivery
from butai.assets.reading.usage import ReadUsage
from butai.assets.storage.client import Store
from butai.assets.uploads.opening import UploadTools
from butai.assets.uploads.part_buffers import PartMemory
from butai.config import AssetSettings, HttpSettings
from butai.database import Database


@dataclass(frozen=True, slots=True)
class Library:
    """Database, store, settings and the services above them. All of them are open while the process serves."""

    database: Database
    store: Store
    uploads: UploadTools
    delivery: Delivery
    settings: AssetSettings
    http: HttpSettings
    reads: ReadUsage


def assemble(database: Database, store: Store, settings: AssetSettings, http: HttpSettings) -> Library:
    """Builds the container on a database and a store that are open already."""
    uploads = UploadTools(database, store, PartMemory(settings.upload_memory_bytes), settings)
    return Library(database, store, uploads, Delivery(store, http), settings, http, ReadUsage(database))


def get_library(request: Request) -> Library:
    """Returns the library of the process that serves `request`."""
    return request.state.library
