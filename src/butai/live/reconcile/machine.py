"""The cores that this process may use: its CPU affinity, and the limits of its control groups (cgroups(7))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from butai.config import LiveSettings

LEAST_CORES = 0.05
"""Cores for engines of a machine that is smaller than the reserve: above 0, so that it takes one broadcast."""


def cores_for_engines(settings: LiveSettings) -> float:
    """The cores for engines on this machine: the operator's number, or those of this process less the reserve."""
    if settings.capacity is not None:
        return settings.capacity
    return max(available_cores() - settings.capacity_reserve, LEAST_CORES)


def available_cores(root: Path = Path("/")) -> float:
    """The cores that this process may use. A part of a core is a limit of a control group, as containers have it.

    `root`: the folder that has `proc` and `sys/fs/cgroup`. Files that cannot be read limit nothing.
    """
    return min([float(len(os.sched_getaffinity(0))), *_limits(root)])


def _limits(root: Path) -> Iterator[float]:
    """The limits of all control groups that this process is in: a group's parents limit it too."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        # "0::/path" in version 2; "4:cpu,cpuacct:/path" in version 1.
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        mount = mounts if not controllers else mounts / controllers
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Within a container the path may be the host's, which is not there: then the mount itself is the container's.
        group = mount / path.strip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError, IndexError):
                yield _quota(folder, version_2=not controllers)
            if folder == mount:
                break


def _quota(folder: Path, *, version_2: bool) -> float:
    """Cores of one control group. Raises `OSError`, `ValueError` for a group without a limit."""
    if version_2:
        quota, period = (folder / "cpu.max").read_text().split()[:2]
    else:
        quota = (folder / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu.cfs_period_us").read_text()
    cores = int(quota) / int(period)
    if cores <= 0:
        raise ValueError("-1 is no limit")
    return cores
