"""Where a stream key must never be: logs, answers, events, command lines, environments, files, the database."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from tests.e2e.show import Show, events
from tests.e2e.stage import Stage
from tests.platforms import Platform
from tests.processes import free_port
from tests.waiting import eventually


def spelled(key: str) -> list[bytes]:
    """A key as it may be found."""
    plain = key.encode()
    # Whatever stands before it moves a key in base64: three spellings, without their ends.
    encoded = [base64.b64encode(b"x" * shift + plain)[4:-4] for shift in range(3)]
    return [plain, plain.hex().encode(), *encoded]


def processes() -> Iterator[tuple[str, bytes]]:
    """What `ps axeww` shows of every process but this one, whose the keys are."""
    for folder in Path("/proc").glob("[0-9]*"):
        if folder.name != str(os.getpid()):
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    yield f"{folder.name}/{name}", (folder / name).read_bytes()


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                yield str(path), path.read_bytes()


def rows(url: str) -> Iterator[tuple[str, bytes]]:
    """A dump of every table, as text."""
    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert {"destinations", "outputs", "live_events", "audit", "idempotency_keys"} <= {name for (name,) in names}
        for (name,) in names:
            statement = sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(name))
            for (row,) in connection.execute(statement):
                yield name, row.encode()
    with psycopg.connect(url) as connection:
        for (row,) in connection.execute("SELECT query FROM pg_stat_activity WHERE query IS NOT NULL"):
            yield "pg_stat_activity", row.encode()


async def test_a_stream_key_is_nowhere_but_sealed_in_its_row(stage: Stage, youtube: Platform, twitch: Platform) -> None:
    # One goes well, one is refused, one reaches nobody, one has a name that nobody knows.
    keys = {label: f"canary-{uuid.uuid4().hex}" for label in ("well", "refused", "nobody", "unknown")}
    twitch.refuse.add(keys["refused"])
    urls = {
        "well": youtube.url,
        "refused": twitch.url,
        "nobody": f"rtmp://127.0.0.1:{free_port()}/live",
        "unknown": "rtmp://ingest.butai.invalid/live",
    }
    answers: list[tuple[str, bytes]] = []
    async with Show(stage) as show:
        ids = [await show.destination("custom", urls[label], key, label=label) for label, key in keys.items()]
        await show.host_on()
        async with events(show) as heard:
            await show.start(*ids)
            await show.until_live("well")
            await show.until(lambda: show.state("refused") == "error", 15)
            await show.until(lambda: bool(show.code("nobody") and show.code("unknown")), 25)
            answers += [
                (path, str(await show.call("GET", path)).encode())
                for path in (
                    f"/api/live/status?session_id={show.session}",
                    f"/api/live/broadcasts/{show.session}/timeline",
                    "/api/live/destinations",
                    f"/api/live/audit?room_id={show.room}",
                )
            ]
            tested = await show.call("POST", f"/api/live/destinations/{ids[1]}/test")
            answers.append(("a destination's test", str(tested).encode()))
            seen = list(processes())
            # The relay is among them, or this shows nothing.
            assert any(b"butai.relay" in content for _, content in seen)
            # A restart is where what is kept in memory alone would be missed, and written down.
            stage.kill("controller")
            stage.start("controller")
            youtube.drop(keys["well"])
            await show.until(lambda: "interrupted" in show.changes_of("well"), 15)
            await show.until_live("well")
            await eventually(lambda: len(heard) > 5, 10)
        answers.append(("events", str(heard).encode()))
        assert len(heard) > 5
        await show.stop()
    assert youtube.published(keys["well"]) and twitch.published(keys["refused"], "refused")
    everything = [*answers, *seen, *processes(), *files(stage.folder), *rows(stage.postgres.url)]
    places = {re.sub(r"\d+", "N", place) for place, _ in everything}
    assert {"destinations", "N/environ", "events"} <= places
    assert all(
        any(spelling in base64.b64encode(before + key.encode() + b"/end") for spelling in spelled(key))
        for key in keys.values()
        for before in (b"", b"a", b"ab")
    )
    found = [
        (place, label)
        for place, content in everything
        for label, key in keys.items()
        if any(spelling in content for spelling in spelled(key))
    ]
    assert found == []
