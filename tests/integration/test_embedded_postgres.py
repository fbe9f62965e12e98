"""The embedded Postgres: starts, survives, and dies with its parent."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from butai.database import migrate
from butai.embedded import postgres
from butai.embedded.folder import read_state, write_state
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.process import StartError
from tests.embedded_servers import alive, ask, family, holder, said, temporary_folder
from tests.waiting import holds_within


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user may pass, unlike pytest's own, so that each test says what is closed."""
    with temporary_folder("postgres", 0o755) as path:
        yield path


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A data folder whose cluster has been made, and that no server uses."""
    with temporary_folder("postgres", 0o755) as path:
        with EmbeddedPostgres(path / "pg"):
            pass
        yield path / "pg"


@pytest.fixture
def made(template: Path, folder: Path) -> Path:
    """A copy of `template`, for tests that are about what comes after the first start."""
    subprocess.run(["cp", "-a", str(template), str(folder / "pg")], check=True)
    return folder / "pg"


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddedPostgres]:
    """A server in a folder that was empty, for tests that do it no harm."""
    with temporary_folder("postgres", 0o755) as path, EmbeddedPostgres(path / "pg") as server:
        yield server


def test_an_empty_folder_becomes_a_database_of_the_service_role(running: EmbeddedPostgres) -> None:
    with psycopg.connect(running.owner_url) as connection:
        connection.execute("CREATE EXTENSION pg_trgm")
    with psycopg.connect(running.url) as connection:
        row = connection.execute(
            "SELECT current_user, current_database(), rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert row == ("butai", "butai", False, True)
    assert ask(running.admin_url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is True
    for name, value in (("fsync", "on"), ("synchronous_commit", "on"), ("wal_compression", "pglz")):
        assert ask(running.url, f"SHOW {name}") == value
    assert ask(running.url, "SHOW server_encoding") == "UTF8"


def test_a_folder_whose_tables_belong_to_the_services_role_gets_an_owner(folder: Path) -> None:
    before = EmbeddedPostgres(folder / "pg")
    before.start()
    with psycopg.connect(before._url("postgres", before._state["admin_password"], "butai"), autocommit=True) as admin:
        admin.execute("REASSIGN OWNED BY butai_owner TO butai")
        admin.execute("DROP ROLE butai_owner")
    migrate(before.url, "0017")
    with psycopg.connect(before.url) as connection:
        connection.execute("INSERT INTO audit (action, result) VALUES ('asset.edit', 'ok')")
    before.stop()
    state = read_state(folder / "pg" / "postgres.json")
    write_state(folder / "pg" / "postgres.json", {name: state[name] for name in ("password", "admin_password", "port")})
    for _ in range(2):
        with EmbeddedPostgres(folder / "pg") as database:
            assert database.url == before.url
            assert ask(database.owner_url, "SELECT count(*) FROM pg_class WHERE relowner = 'butai'::regrole") == 0
            assert ask(database.url, "SELECT action FROM audit") == "asset.edit"
            for statement in ("DELETE FROM audit", "ALTER TABLE audit DISABLE TRIGGER ALL", "CREATE TABLE a (a int)"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    ask(database.url, statement)
            migrate(database.owner_url, service_url=database.url)
            assert ask(database.url, "SELECT has_table_privilege('audit_counts', 'INSERT')") is True
            assert database._state["owner_password"] not in database.log_file.read_text()


def test_it_listens_on_loopback_alone_and_on_a_socket_in_its_folder(running: EmbeddedPostgres) -> None:
    assert running.child is not None
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(running.child.pid).net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert running.socket_dir is not None
    password = running.url.split(":")[2].split("@")[0]
    socket_url = f"host={running.socket_dir} port={running.port} user=butai password={password} dbname=butai"
    assert ask(socket_url, "SELECT inet_client_addr() IS NULL") is True


@pytest.mark.parametrize(
    ("answer", "ready"),
    [
        (b"E\0\0\0%SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0", False),
        (b"", False),
        (b"E\0\0\0%SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0", True),
        (b"R\0\0\0\x17\0\0\0\nSCRAM-SHA-256\0\0", True),
    ],
)
def test_a_server_is_ready_that_begins_a_connection(answer: bytes, ready: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(100).endswith(b"user\0butai\0database\0butai\0\0")
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert (postgres.refusal(server.getsockname()[1]) == "") == ready
        thread.join()


def test_a_running_server_is_ready_and_a_port_without_one_is_not(running: EmbeddedPostgres) -> None:
    assert postgres.refusal(running.port) == ""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "refused" in postgres.refusal(port)


def test_a_wrong_password_is_refused_on_the_port_and_on_the_socket(running: EmbeddedPostgres) -> None:
    for host in ("127.0.0.1", str(running.socket_dir)):
        for user in ("butai", "postgres"):
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                psycopg.connect(host=host, port=running.port, user=user, password="wrong", dbname="butai")


def test_secrets_are_readable_by_their_owner_only_and_never_on_a_command_line(running: EmbeddedPostgres) -> None:
    assert running.child is not None
    secrets = [url.split(":")[2].split("@")[0] for url in (running.url, running.admin_url)]
    assert stat.S_IMODE((running.data_dir / "postgres.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(running.data_dir.stat().st_mode) == 0o700
    said = running.log_file.read_text()
    for pid in [running.child.pid, *family(running.child.pid)]:
        # Postgres' own workers come and go.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            said += Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
    assert "postgres" in said
    assert not [secret for secret in secrets if secret in said]


def test_data_port_and_passwords_survive_a_stop(made: Path) -> None:
    first = EmbeddedPostgres(made)
    url, owner_url = first.start(), first.owner_url
    with psycopg.connect(owner_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    first.stop()
    with EmbeddedPostgres(made) as second:
        assert (second.url, second.owner_url) == (url, owner_url)
        assert ask(url, "SELECT 7") == 7
        assert ask(owner_url, "SELECT number FROM kept") == 7


def test_a_taken_port_is_replaced_by_another(made: Path) -> None:
    first = EmbeddedPostgres(made)
    first.start()
    port = first.port
    first.stop()
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        with EmbeddedPostgres(made) as second:
            assert second.port != port
            assert ask(second.url, "SELECT 1") == 1


def test_a_second_start_in_the_same_folder_is_one_clear_line(running: EmbeddedPostgres) -> None:
    with pytest.raises(StartError, match="another process already runs the Postgres") as raised:
        EmbeddedPostgres(running.data_dir).start()
    assert "\n" not in str(raised.value)
    assert ask(running.url, "SELECT 1") == 1


def test_a_killed_postmaster_is_back_although_a_backend_is_busy(made: Path) -> None:
    database = EmbeddedPostgres(made)
    database.start()
    assert database.child is not None
    try:
        with psycopg.connect(database.owner_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
        busy = psycopg.connect(database.url)
        backend = busy.info.backend_pid
        # A client-less loop: this backend looks neither at its socket nor for its postmaster.
        busy.pgconn.send_query(b"DO $$ BEGIN LOOP END LOOP; END $$")
        assert holds_within(lambda: psutil.Process(backend).cpu_percent(0.05) > 20, 60)

        os.kill(database.child.pid, signal.SIGKILL)
        assert holds_within(lambda: database.child is not None and database.child.poll() == -signal.SIGKILL, 30)
        assert alive([backend]), "the busy backend must outlive its postmaster for this test to mean anything"
        database.launch()
        database.wait_ready()
        assert not alive([backend])
        assert ask(database.owner_url, "SELECT number FROM kept") == 7
        busy.close()
    finally:
        database.stop()


def test_a_left_over_lock_file_that_names_a_strangers_process_does_not_keep_it_from_starting(made: Path) -> None:
    first = EmbeddedPostgres(made)
    first.start()
    assert first.child is not None
    lock = made / "cluster" / "postmaster.pid"
    content = lock.read_text()
    owner = lock.stat()
    first.stop(fast=True)
    # As after a crash, when the number has meanwhile gone to another program of the same user.
    stranger = subprocess.Popen(
        ["sleep", "600"],
        user=owner.st_uid if os.geteuid() == 0 else None,
        group=owner.st_gid if os.geteuid() == 0 else None,
    )
    try:
        lock.write_text("\n".join([str(stranger.pid), *content.splitlines()[1:]]) + "\n")
        lock.chmod(0o600)
        os.chown(lock, owner.st_uid, owner.st_gid)
        with EmbeddedPostgres(made) as second:
            assert ask(second.url, "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_nothing_outlives_its_killed_parent(made: Path) -> None:
    parent = holder(EmbeddedPostgres, made)
    url = said(parent)
    busy = psycopg.connect(url)
    backend = busy.info.backend_pid
    busy.pgconn.send_query(b"DO $$ BEGIN LOOP END LOOP; END $$")
    assert holds_within(lambda: psutil.Process(backend).cpu_percent(0.05) > 20, 60)
    pids = family(parent.pid)
    assert backend in pids
    parent.kill()
    parent.wait()
    assert holds_within(lambda: not alive(pids), 30), [psutil.Process(pid).cmdline() for pid in alive(pids)]
    busy.close()


def test_acknowledged_rows_survive_killing_everything_at_random_moments(made: Path) -> None:
    acknowledged = 0
    cut_short = 0
    for round_number in range(4):
        parent = holder(EmbeddedPostgres, made)
        assert said(parent)
        owner = EmbeddedPostgres(made)
        owner._state = read_state(made / "postgres.json")
        with psycopg.connect(owner.owner_url, autocommit=True) as connection:
            if round_number == 0:
                connection.execute("CREATE TABLE numbers (number integer PRIMARY KEY)")
            found = connection.execute("SELECT count(*), max(number) FROM numbers").fetchone()
            # One more than acknowledged may be there: committed, but its answer was cut off.
            assert found is not None
            assert found[0] >= acknowledged
            assert found[0] == (found[1] or 0)
            acknowledged = found[0]
            before = acknowledged
            doomed = [parent.pid] if random.random() < 0.5 else [*family(parent.pid), parent.pid]
            stop_at = time.monotonic() + random.uniform(0.1, 0.5)
            try:
                while True:
                    connection.execute("INSERT INTO numbers VALUES (%s)", [acknowledged + 1])
                    acknowledged += 1
                    if time.monotonic() > stop_at and parent.poll() is None:
                        for pid in doomed:
                            with contextlib.suppress(ProcessLookupError):
                                os.kill(pid, signal.SIGKILL)
            except psycopg.OperationalError:
                cut_short += 1
        parent.wait()
        assert acknowledged > before
    assert cut_short == 4
    with EmbeddedPostgres(made) as database:
        statement = f"SELECT count(*) FROM numbers WHERE number <= {acknowledged}"
        assert ask(database.owner_url, statement) == acknowledged


def test_killed_during_the_very_first_start_the_next_start_works(folder: Path) -> None:
    interrupted = 0
    for delay in (0.02, 0.1, 0.3):
        parent = holder(EmbeddedPostgres, folder / "pg")
        assert holds_within((folder / "pg" / "cluster.new").exists, 60)
        time.sleep(delay)
        parent.kill()
        parent.wait()
        interrupted += not (folder / "pg" / "cluster").exists()
    assert interrupted >= 1
    with EmbeddedPostgres(folder / "pg") as database:
        assert ask(database.url, "SELECT 1") == 1
        assert not (folder / "pg" / "cluster.new").exists()


def test_a_dead_postmaster_that_nobody_reaps_does_not_keep_the_next_one_from_starting(made: Path) -> None:
    first = EmbeddedPostgres(made)
    first.start()
    assert first.child is not None
    pid = first.child.pid
    os.kill(pid, signal.SIGKILL)
    # Not waited for, so it stays a zombie, as in a container whose first process reaps no children.
    assert holds_within(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 30)
    assert (made / "cluster" / "postmaster.pid").read_text().startswith(f"{pid}\n")
    os.close(first._owner_lock or -1)
    with EmbeddedPostgres(made) as second:
        assert ask(second.url, "SELECT 1") == 1
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    first.child.stop()
