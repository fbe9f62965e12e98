"""The parts of an upload in pieces: at most one is sent while the next one fills."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from butai.assets import keys
from butai.assets.tus.digests import Digests
from butai.assets.tus.writer import Writer
from butai.assets.uploads.part_buffers import PART_BYTES, Part, PartMemory


class Counted(PartMemory):
    """Memory that counts the parts that are taken."""

    def __init__(self) -> None:
        super().__init__(10 * PART_BYTES)
        self.taken = self.most = 0

    def take(self) -> Part:
        self.taken += 1
        self.most = max(self.most, self.taken)
        return super().take()

    def give(self, part: Part) -> None:
        self.taken -= 1
        super().give(part)


class Store:
    """Part n is stored when `let(n)` was called."""

    def __init__(self) -> None:
        self.begun = 0
        self._let = [asyncio.Event() for _ in range(9)]

    def let(self, number: int) -> None:
        self._let[number].set()

    async def store(self, _: Writer, part: Part, _offset: int, _digest: object) -> None:
        self.begun += 1
        await self._let[self.begun].wait()
        assert part.full


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()

    async def store(writer: Writer, *given: Any) -> None:
        await made.store(writer, *given)

    async def commit(*_: object) -> None:
        """Nothing is kept here."""

    monkeypatch.setattr(Writer, "_store", store)
    monkeypatch.setattr(Writer, "_commit", commit)
    return made


def writer(memory: PartMemory) -> Writer:
    begun = PART_BYTES
    row = SimpleNamespace(
        id=uuid.uuid4(),
        writer=1,
        upload_offset=begun,
        upload_length=9 * PART_BYTES,
        parts=[[1, "etag", begun]],
        expires_at=datetime.now(UTC),
    )
    tools: Any = SimpleNamespace(memory=memory)
    return Writer(tools, Digests(), row, b"", "id", None)  # pyright: ignore[reportArgumentType]


async def test_a_part_that_is_stored_in_the_same_pass_makes_room_for_the_next_one(store: Store) -> None:
    memory = Counted()

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(1, 5):
            yield bytes(PART_BYTES)
            # The part before ends in the pass of the event loop in which this one is full.
            store.let(number - 1)
            await asyncio.sleep(0)
        for number in range(9):
            store.let(number)

    await writer(memory).take(chunks(), keys.parse("scene/big.glb"))
    assert store.begun == 4
    assert (memory.most, memory.taken) == (2, 0)


async def test_parts_are_given_back_when_the_client_or_the_request_ends(store: Store) -> None:
    memory = Counted()

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(PART_BYTES)
        yield bytes(PART_BYTES)
        await asyncio.Event().wait()

    task = asyncio.create_task(writer(memory).take(chunks(), keys.parse("scene/big.glb")))
    while store.begun == 0:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)
    assert memory.taken == 0
