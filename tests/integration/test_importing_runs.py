"""Runs of an import: of many objects, again, two at once, in trouble and by the command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from butai.assets import keys
from butai.assets.imports.importer import BATCH
from butai.assets.imports.outcomes import ImportStopped, Outcome
from butai.config import Settings
from butai.database import Database
from butai.embedded.seaweed import EmbeddedSeaweed
from tests import files
from tests.conftest import Api
from tests.fakes.store_proxy import StoreProxy
from tests.forked import command
from tests.imports import ODD, Fill, aws_ls, counts, import_, put, quoted, scalar, snapshot, straight
from tests.processes import environment, process


def _many(count: int = 1200) -> dict[str, bytes]:
    """`count` objects: odd names among plain ones, sidecars, and what does not belong into a library."""
    made = dict(ODD)
    made["vrm/plain_thumb.png"] = files.png()
    made["vrm/plain_meta.json"] = b'{"gender": "female", "styleTags": ["cool", "dark"]}'
    made["backup/dump.sql"] = b"x"
    made["vrm/notes.txt"] = b"x"
    made["vrm/empty.vrm"] = b""
    for number in range(count - len(made)):
        name = ("avatar {} 舞", "avatar+{}", "avatar%{}", "avatar {:05}")[number % 4].format(number)
        made[f"vrm/{number % 7}/{name}.vrm"] = b"glTF" + number.to_bytes(4, "big")
    return made


@pytest.fixture(scope="module")
def stock(seaweed: EmbeddedSeaweed) -> str:
    """The prefix of the objects of `_many`, which tests share that leave them as they are."""
    prefix = f"{uuid.uuid4().hex}/"
    asyncio.run(put(seaweed, prefix, _many()))
    return prefix


@pytest.fixture
def settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """As in all modules, but with the prefix of `stock` for a test that has it."""
    if "stock" not in request.fixturenames:
        return settings
    prefix = request.getfixturevalue("stock")
    return replace(settings, store=settings.store.model_copy(update={"prefix": prefix}))


# Runs, and runs again


@pytest.mark.slow
async def test_1200_objects_are_imported_and_a_second_run_changes_nothing(
    api: Api, database: Database, settings: Settings, fill: Fill, stock: str
) -> None:
    objects = _many()
    names = [*objects, "vrm/not there.vrm", "vrm/"]
    began = time.monotonic()
    tally, verdicts = await import_(settings, names)
    print(f"{len(names) / (time.monotonic() - began):.0f} objects/s")
    rest = {"skipped key_invalid": 1, "skipped type_unsupported": 1, "skipped empty": 1, "failed absent": 1}
    # `vrm/` is no key; a real listing's reader would have said `folder`.
    assert counts(tally) == {"added": 1197} | rest | {"skipped key_invalid": 2}
    assert [verdict.entry.key for verdict in verdicts if verdict.reason == "absent"] == [
        settings.store.prefix + "vrm/not there.vrm"
    ]
    first = await snapshot(database)
    assert len(first) == 1197
    events = await scalar(database, "SELECT count(*) FROM asset_events")

    tally, _ = await import_(settings, names)
    assert counts(tally) == {"skipped unchanged": 1197} | rest | {"skipped key_invalid": 2}
    assert await snapshot(database) == first
    assert await scalar(database, "SELECT count(*) FROM asset_events") == events
    assert await scalar(database, "SELECT count(*) FROM assets WHERE sha256 IS NOT NULL") == 0

    await fill({"vrm/plain.vrm": files.vrm(77, 5000)})
    try:
        tally, _ = await import_(settings, names)
        assert (await api.read(keys.read_url("vrm/plain.vrm")))[1] == files.vrm(77, 5000)
    finally:
        await fill({"vrm/plain.vrm": objects["vrm/plain.vrm"]})
    assert counts(tally) == {"skipped unchanged": 1196, "updated changed": 1} | rest | {"skipped key_invalid": 2}
    assert await scalar(database, "SELECT count(*) FROM audit WHERE action = 'asset.import'") == 7


@pytest.mark.slow
async def test_a_run_that_is_killed_goes_on_where_it_was(
    database: Database, settings: Settings, stock: str, tmp_path: Path, as_owner: Callable[[str], None]
) -> None:
    objects = _many(600)
    path = tmp_path / "list.csv"
    path.write_text("key\n" + "\n".join(quoted(settings.store.prefix + name) for name in objects))
    said = tmp_path / "said.txt"
    with process(settings, said, "import", "--listing", str(path), "--rate", "60") as child:
        async with asyncio.timeout(60):
            while not await scalar(database, "SELECT count(*) FROM assets") > 0:
                assert child.poll() is None, said.read_text()
                await asyncio.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
    before = len(await snapshot(database))
    assert 0 < before < 597
    assert before % BATCH == await scalar(database, "SELECT count(*) FROM asset_objects") % BATCH

    tally, _ = await import_(settings, objects)
    assert counts(tally)["skipped unchanged"] == before
    killed = await snapshot(database)
    as_owner("TRUNCATE assets, asset_objects, asset_events CASCADE")
    await import_(settings, objects)
    assert killed == await snapshot(database)
    (row,) = [row for row in killed if row[0] == "vrm/plain.vrm"]
    assert row[10] == "vrm/plain_thumb.png" and json.loads(row[11])["gender"] == "female"


@pytest.mark.slow
async def test_two_runs_at_once_make_one_library(database: Database, settings: Settings, stock: str) -> None:
    objects = _many(500)
    (one, _), (two, _) = await asyncio.gather(
        import_(settings, objects), import_(settings, list(reversed(list(objects))))
    )
    assert one.of(Outcome.ADDED) + two.of(Outcome.ADDED) == 497
    assert one.of(Outcome.FAILED) == two.of(Outcome.FAILED) == 0
    assert await scalar(database, "SELECT count(*) FROM assets") == 497
    (row,) = [row for row in await snapshot(database) if row[0] == "vrm/plain.vrm"]
    assert row[10] == "vrm/plain_thumb.png"


# Trouble


async def test_a_store_that_hides_absence_is_not_believed_to_have_lost_anything(
    settings: Settings, fill: Fill, proxy: StoreProxy, store_keys: Callable[[], list[str]]
) -> None:
    await fill(ODD)
    proxy.hide_absence = True
    # More absent ones at the beginning than a run takes for a refusal: our own object tells that all is well.
    names = [*(f"vrm/gone {number}.vrm" for number in range(400)), *ODD]
    tally, _ = await import_(settings, names)
    assert counts(tally) == {"failed denied_or_absent": 400, "added": len(ODD)}
    assert store_keys() and not any("/butai/import/" in key for key in store_keys())


async def test_credentials_that_are_refused_end_the_run_early(
    settings: Settings, seaweed: EmbeddedSeaweed, proxy: StoreProxy
) -> None:
    wrong = settings.store.model_copy(update={"secret_access_key": SecretStr("canary-wrong-secret")})
    proxy.seen.clear()
    with pytest.raises(ImportStopped, match="butai doctor"):
        await import_(replace(settings, store=wrong), [f"vrm/{number}.vrm" for number in range(5000)])
    assert Counter(seen.status for seen in proxy.seen)[403] >= 100
    assert len(proxy.seen) < 500


@pytest.mark.slow
async def test_a_store_that_stays_away_ends_the_run_and_a_later_one_completes_it(
    database: Database, settings: Settings, stock: str, proxy: StoreProxy
) -> None:
    objects = _many(600)
    await import_(settings, list(objects)[:20])
    fault = proxy.fault("HEAD", status=503)
    with pytest.raises(ImportStopped, match="run this again"):
        await import_(settings, objects)
    assert fault.met >= 100
    proxy.heal()
    await import_(settings, objects)
    assert await scalar(database, "SELECT count(*) FROM assets") == 597


async def test_a_throttled_object_is_tried_again(settings: Settings, fill: Fill, proxy: StoreProxy) -> None:
    await fill(ODD)
    fault = proxy.fault("HEAD", status=503, times=10)
    tally, _ = await import_(settings, ODD)
    assert fault.met == 10
    assert counts(tally) == {"added": len(ODD)}


@pytest.mark.slow
async def test_a_database_that_drops_its_connections_is_waited_for(
    database_url: str, database: Database, settings: Settings, stock: str
) -> None:
    objects = _many(800)
    run = asyncio.create_task(import_(settings, objects, rate=800))
    while not await scalar(database, "SELECT count(*) FROM assets"):
        await asyncio.sleep(0.02)
    with psycopg.connect(database_url, autocommit=True) as connection:
        killed = connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert killed is not None and killed[0] > 0
    tally, _ = await run
    assert tally.of(Outcome.ADDED) == 797


# The command


@pytest.mark.slow
async def test_the_command_prints_a_table_and_writes_a_report(
    settings: Settings, fill: Fill, tmp_path: Path, database: Database
) -> None:
    await fill(ODD)
    listing = aws_ls(settings, tmp_path)
    with listing.open("a") as file:
        file.write(f"2024-05-01 12:00:00          1 {settings.store.prefix}vrm/none.vrm\n\nTotal Objects: 16\n")
        file.write(f"2024-05-01 12:00:00          1 {settings.store.prefix}secret/none.vrm\n")
    report = tmp_path / "report.jsonl"
    done = await command("import", "--listing", str(listing), "--report", str(report), env=environment(settings))
    assert done.returncode == 1, done.stderr
    told = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    expected = {"scanned": "17", "added": "15", "updated": "0", "skipped": "1", "failed": "1"}
    assert told | expected | {"absent": "1", "key_invalid": "1"} == told
    assert "The store does not have it" in done.stdout
    assert "public" in done.stdout
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert {(line["key"].removeprefix(settings.store.prefix), line["outcome"], line["reason"]) for line in lines} == {
        ("vrm/none.vrm", "failed", "absent"),
        ("secret/none.vrm", "skipped", "key_invalid"),
    }
    assert "import.completed" in done.stderr and "Traceback" not in done.stderr
    again = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "butai.cli", "import", "--listing", "-"],
        env=environment(settings),
        input=aws_ls(settings, tmp_path).read_text(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert again.returncode == 0, again.stderr
    assert "unchanged" in again.stdout
    assert await scalar(database, "SELECT count(*) FROM assets WHERE visibility = 'public'") == 15


@pytest.mark.slow
async def test_the_command_says_in_one_line_why_it_cannot_begin(
    settings: Settings, seaweed: EmbeddedSeaweed, tmp_path: Path
) -> None:
    async def refused(expected: str, *arguments: str, settings: Settings = settings, **env: str) -> None:
        done = await command("import", *arguments, env=environment(settings, **env))
        assert done.returncode == 1, done.stdout
        said = [line for line in done.stderr.splitlines() if line.startswith("butai: ")]
        assert len(said) == 1 and expected in said[0], done.stderr
        assert "Traceback" not in done.stderr
        for secret in ("canary", settings.store.secret_access_key.get_secret_value()):
            assert secret not in done.stdout + done.stderr

    listing = tmp_path / "list.csv"
    listing.write_text("key\nvrm/a.vrm\n")
    own = straight(settings, seaweed, seaweed.store.credentials)
    away = "postgresql://u:canary@127.0.0.1:9/x"
    await asyncio.gather(
        refused("--listing FILE, or --list"),
        refused("--listing FILE, or --list", "--list", "--listing", str(listing)),
        refused("No such file", "--listing", str(tmp_path / "none")),
        refused("cannot be written", "--listing", str(listing), "--report", str(tmp_path / "no" / "report")),
        refused("user's id", "--listing", str(listing), "--owner", ""),
        refused("butai migrate", "--listing", str(listing), BUTAI_DATABASE_URL=away),
        refused("provide a listing instead", "--list", settings=own),
    )


@pytest.mark.slow
async def test_the_command_lists_for_an_administrator(
    settings: Settings, seaweed: EmbeddedSeaweed, fill: Fill, database: Database
) -> None:
    await fill(ODD)
    admin = straight(settings, seaweed, seaweed.store.admin)
    done = await command("import", "--list", "--visibility", "private", env=environment(admin))
    assert done.returncode == 0, done.stderr
    assert await scalar(database, "SELECT count(*) FROM assets WHERE visibility = 'private'") == len(ODD)


@pytest.mark.slow
async def test_ctrl_c_shows_how_far_it_came(settings: Settings, stock: str, database: Database, tmp_path: Path) -> None:
    objects = _many(900)
    path = tmp_path / "list.csv"
    path.write_text("key\n" + "\n".join(quoted(settings.store.prefix + name) for name in objects))
    argv = [sys.executable, "-m", "butai.cli", "import", "--listing", str(path), "--rate", "300"]
    child = subprocess.Popen(argv, env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    async with asyncio.timeout(60):
        while not await scalar(database, "SELECT count(*) FROM assets"):
            assert child.poll() is None
            await asyncio.sleep(0.02)
    os.kill(child.pid, signal.SIGINT)
    out, err = await asyncio.to_thread(child.communicate, timeout=20)
    assert child.returncode == 130, err
    assert "interrupted" in err and "Traceback" not in err
    assert "scanned" in out
