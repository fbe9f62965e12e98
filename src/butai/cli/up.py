"""`butai up`: everything on one machine, with one command.

Postgres, the S3 store and LiveKit start side by side while the API loads; then the database is migrated, and controller,
worker and ingest start. All of it is kept running until Ctrl-C. It prints a summary (`butai.cli.banner`); details are in
`<data-dir>/logs`.

Nothing heavy is imported here (no FastAPI, no SQLAlchemy): this process runs as long as the service and does little.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import structlog

from butai import __version__
from butai.cli.banner import Running, introduction
from butai.cli.up_environment import OWNERS_URL, make_environment, signs_in, split_secrets
from butai.config import Settings
from butai.embedded.folder import folder_errors, make_folder, read_state, take_lock, write_state
from butai.embedded.lifeline import ControllerProgram
from butai.embedded.listening import readiness, url_from_here, usable_port
from butai.embedded.livekit import MISSING, EmbeddedLiveKit, livekit_binary
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.process import Child, StartError, StopRequested, log_tail, open_log, stop_on
from butai.embedded.seaweed import EmbeddedSeaweed
from butai.embedded.server import wait_until_ready
from butai.embedded.supervisor import Program, Service, Supervisor, describe, start_program
from butai.sign_in.codes import FolderUnsafe, make_code

log = structlog.get_logger(__name__)

_NEEDED = 64 * 1024**2
_LOW_SPACE = 256 * 1024**2
"""Free bytes below which the next large uploads fail: reported once."""
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 60.0
"""Most seconds for the API to become ready once its parts are."""
_INGEST_AFTER = 10.0
"""Seconds until the ingest is loaded, which takes a second of a core: after controller, worker and the first pages."""
_CONSOLE = Path(__file__).parents[1] / "console_dist" / "docs.html"
"""Written when the console is built. `butai.operations.console`, which serves it, is slow to load."""


def run_up(settings: Settings, port: int | None, data_dir: Path | None) -> int:
    """Runs everything until SIGINT, SIGTERM or SIGHUP. Returns the exit status: 0, or 1 after one line on stderr.

    `port` 0 takes any free port. Services that the environment names (BUTAI_DATABASE_URL, BUTAI_S3_ENDPOINT) are used,
    not started."""
    supervisor = Supervisor(_say)
    status = 0
    try:
        stop_on(*_STOPPING)
        stack = _Stack(settings, port, data_dir or settings.up.data_dir, supervisor)
        with contextlib.closing(stack):
            stack.start()
        stack.introduce()
        supervisor.watch(stack.look_at_space)
    except StopRequested:
        _tell("\nStopping.")
    except StartError as error:
        print(f"butai: {error}", file=sys.stderr, flush=True)
        status = 1
    finally:
        supervisor.stop()
        # Everything has ended; one more Ctrl-C while Python exits must not turn this into a failure.
        for number in _STOPPING:
            signal.signal(number, signal.SIG_IGN)
    if status == 0:
        _tell("Stopped.")
    return status


class _Stack:
    """The services of one run, and the values that they pass to each other."""

    def __init__(self, settings: Settings, port: int | None, data_dir: Path, supervisor: Supervisor) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._space_told = False
        self._migration: Child | None = None
        self._folder = make_folder(data_dir, needed_bytes=_NEEDED)
        self._lock = _take_folder(self._folder)
        self._logs = make_folder(self._folder / "logs", needed_bytes=0)
        self._migrate_log = self._logs / "migrate.log"
        _log_to(self._logs / "up.log")
        self._host = settings.http.host
        self._port = usable_port(self._host, settings.http.port if port is None else port)
        self._postgres = (
            None
            if settings.database.url.get_secret_value()
            else EmbeddedPostgres(self._folder / "postgres", log_file=self._logs / "postgres.log")
        )
        self._store = (
            None
            if settings.store.endpoint
            else EmbeddedSeaweed(
                self._folder / "store", bucket=settings.store.bucket, log_file=self._logs / "store.log"
            )
        )
        self._livekit_missing = "" if settings.livekit.url or livekit_binary() else f"going live is off, {MISSING}"
        self._livekit = (
            None
            if settings.livekit.url or self._livekit_missing
            else EmbeddedLiveKit(
                self._folder / "livekit",
                log_file=self._logs / "livekit.log",
                webhooks=[f"{url_from_here(self._host, self._port)}/api/live/webhook"],
            )
        )

    def start(self) -> None:
        """Starts everything. Returns when the API answers that it is ready. Raises `StartError`."""
        _tell(f"Butai {__version__}, data in {self._folder}")
        # All of these choose ports and secrets, so that later services can be configured with them before they run.
        for embedded in (self._postgres, self._store, self._livekit):
            if embedded:
                embedded.prepare()
        address = self._host, self._port
        goes_live = not self._livekit_missing or bool(self._settings.live.livekit_projects_file)
        environment, secrets, for_migration = split_secrets(
            make_environment(
                self._settings,
                self._folder,
                address,
                postgres=self._postgres,
                store=self._store,
                livekit=self._livekit,
                encoders=goes_live,
            )
        )
        python = [sys.executable, "-m", "butai.cli"]
        api = Program([*python, "api"], environment, self._logs / "api.log", secrets=secrets)
        worker = Program([*python, "worker"], environment, self._logs / "worker.log", secrets=secrets)
        controller = ingest = None
        if goes_live:
            argv = [*python, "controller"]
            controller = ControllerProgram(argv, environment, self._logs / "controller.log", secrets=secrets)
            # Of the secrets it needs the database's address alone.
            address_of_tables = {name: value for name, value in secrets.items() if name == "BUTAI_DATABASE_URL"}
            ingest = Program([*python, "ingest"], environment, self._logs / "ingest.log", secrets=address_of_tables)

        services = {
            "postgres": self._postgres,
            "store": self._store,
            "livekit": self._livekit,
            "api": api,
            "worker": worker,
            "ingest": ingest,
            "controller": controller,
        }
        for name, service in services.items():
            if service:
                self._supervisor.add(name, service)
        # The slowest first: the API needs more than a second to load, the store most of one.
        api_log_from = api.log_file.stat().st_size if api.log_file.exists() else 0
        self._supervisor.launch(api)
        self._launch(self._store, self._livekit)
        if self._postgres:
            self._launch_postgres(self._postgres, environment, for_migration)
        owned = bool(for_migration.get(OWNERS_URL))
        if not self._migration and _needs_migration(secrets["BUTAI_DATABASE_URL"], owned=owned):
            self._migration = start_program([*python, "migrate"], environment, for_migration, self._migrate_log)
        self._wait_for_store_and_livekit()
        if self._migration:
            self._wait_for(self._migration)
        self._wait_for_api(api, api_log_from)
        _say("api", f"ready after {_seconds_since_start():.1f} s")
        # Last, since loading them would take a core from the parts that the user waits for.
        self._launch(controller, worker)
        if ingest:
            self._supervisor.launch_in(_INGEST_AFTER, ingest)

    def _launch(self, *services: Service | None) -> None:
        """Starts those that there are."""
        for service in services:
            if service:
                self._supervisor.launch(service)

    def _launch_postgres(
        self, postgres: EmbeddedPostgres, environment: dict[str, str], secrets: dict[str, str]
    ) -> None:
        """Returns when Postgres is ready. The tables of a new cluster are made meanwhile."""
        if not postgres.cluster.exists():
            unlike = ", under a user of its own since it will not run as root" if os.geteuid() == 0 else ""
            _say("postgres", f"creating the database{unlike}")
            argv = [sys.executable, "-m", "butai.embedded.first_tables"]
            self._migration = start_program(argv, environment, secrets, self._migrate_log)
        self._supervisor.launch(postgres)
        postgres.wait_ready()
        _say("postgres", f"ready on 127.0.0.1:{postgres.port}")

    def _wait_for_store_and_livekit(self) -> None:
        if self._store:
            self._store.wait_ready()
            _say("store", f"ready on {self._store.store.endpoint}, bucket {self._store.bucket}")
        if self._livekit:
            self._livekit.wait_ready()
            _say("livekit", f"ready on {self._livekit.livekit.url}")

    def close(self) -> None:
        """Ends background work that is not a service."""
        if self._migration:
            self._migration.stop(signal.SIGKILL)

    def _wait_for(self, migration: Child) -> None:
        """Waits until the tables are up to date. A process of its own does that: Alembic would stay in our memory."""
        _say("database", "migrating the tables")
        if migration.wait(timeout=3600.0) != 0:
            said = log_tail(self._migrate_log, lines=1)
            raise StartError(f"the tables could not be migrated: {said} (see {self._migrate_log})")

    def _wait_for_api(self, api: Program, log_from: int) -> None:
        child = api.child
        assert child is not None, "launched before"

        def why_it_ended() -> str:
            last = log_tail(api.log_file, log_from, lines=1)
            return f"the API ended at once, {describe(child.poll() or 0)}: {last} (see {api.log_file})"

        wait_until_ready(
            child, lambda: readiness(self._host, self._port), why_it_ended, "the API", api.log_file, _PATIENCE
        )

    def introduce(self) -> None:
        """Prints the addresses, the first steps, and what is not configured."""
        url = url_from_here(self._host, self._port)
        state_file = self._folder / "up.json"
        # Read by `butai sign-in` and `butai demo`.
        write_state(state_file, read_state(state_file) | {"url": url})
        running = Running(
            url=url,
            folder=self._folder,
            logs=self._logs,
            code=self._first_code(),
            console_built=_CONSOLE.exists(),
            livekit_url=self._livekit.livekit.url if self._livekit else self._settings.livekit.url,
            livekit_missing=self._livekit_missing,
        )
        _tell(introduction(self._settings, running, _seconds_since_start()))

    def _first_code(self) -> str:
        """The code of the printed link; empty when the development sign-in is off. Raises `StartError`."""
        if not signs_in(self._settings, self._host):
            return ""
        try:
            with folder_errors(self._folder):
                return make_code(self._folder, "demo")
        except FolderUnsafe as error:
            raise StartError(f"{error}: remove it, then start again") from error

    def look_at_space(self) -> None:
        """Reports low disk space, before uploads fail; called now and then."""
        with contextlib.suppress(OSError):
            space = os.statvfs(self._folder)
            free = space.f_bavail * space.f_frsize
            if free < _LOW_SPACE and not self._space_told:
                _say("butai", f"only {free // 1024**2} MiB are free in {self._folder}: uploads will soon fail")
            self._space_told = free < _LOW_SPACE


def _tell(text: str) -> None:
    # The reader may be gone (`butai up | head`), which is no reason to stop.
    with contextlib.suppress(OSError):
        print(text, flush=True)


def _say(name: str, text: str) -> None:
    _tell(f"  {name:10} {text}")


def _seconds_since_start() -> float:
    """Seconds since this process began: the user's wait, including the loading of Python."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _take_folder(folder: Path) -> int:
    """The lock of the data folder, held until this process ends. Raises `StartError` when another `up` holds it."""
    path = folder / "lock"
    # Waits for the children of a killed `up`, which do not hold this lock but end a moment later.
    lock = take_lock(path)
    if lock is None:
        with contextlib.suppress(OSError):
            raise StartError(
                f"butai up already runs on {folder} (process {path.read_text().strip()}): "
                "stop that one, or choose another folder with --data-dir and another port with --port"
            )
        raise StartError(f"butai up already runs on {folder}")
    with folder_errors(folder):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _log_to(path: Path) -> None:
    """Writes our own log events to a file; the terminal gets the progress."""
    with folder_errors(path.parent), open_log(path) as descriptor:
        file = os.fdopen(os.dup(descriptor), "w", buffering=1)
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file))


def _head_revision() -> str:
    """The newest migration's number: files are named `0001_what.py`. Not from `butai.database`, which is slow to
    load."""
    return max(path.name[:4] for path in (Path(__file__).parents[1] / "migrations" / "versions").glob("[0-9]*_*.py"))


def _needs_migration(url: str, *, owned: bool) -> bool:
    """Whether `butai migrate` would change anything for the service's role, which `url` is of. `owned`: whether the owner's
    address is known, which gives that role the privileges it lacks. Raises `StartError` when the database does not answer, or
    when only its owner may read it and is not known."""
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            try:
                if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
                    return True
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
                return row is None or row[0] != _head_revision()
            except psycopg.errors.InsufficientPrivilege as error:
                if owned:
                    return True
                raise StartError(
                    f"the role {connection.info.user} may not read the tables: set {OWNERS_URL} to the address for the "
                    "role that owns them, and start again"
                ) from error
    except psycopg.OperationalError as error:
        first = str(error).strip().splitlines()[0]
        raise StartError(f"the database does not answer: {first}") from error
