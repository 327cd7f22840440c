"""What this machine gives a process: CPU cores, a home folder."""

import atexit
import contextlib
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

_PROC_CGROUP = pathlib.Path("/proc/self/cgroup")
_CGROUPS = pathlib.Path("/sys/fs/cgroup")


def num_cores() -> int:
    """Return how many cores' worth of time this process gets, at least 1.

    A container gets fewer than the host, by CPU affinity or by a quota of its
    control group (version 1 or 2).
    """
    return max(1, min([num_schedulable_cores(), *map(math.ceil, _quotas())]))


def num_schedulable_cores() -> int:
    """Return on how many cores threads of this process may run.

    TensorFlow sizes its thread pools by this number.
    """
    if hasattr(os, "sched_getaffinity"):  # Not on macOS.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """Yield the quotas, in cores, of this control group and its ancestors."""
    try:
        lines = _PROC_CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # Version 2 names no controllers.
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = pathlib.PurePosixPath(path.lstrip("/"))
        for parent in (group, *group.parents):
            # The root group and groups outside the container have no files;
            # "max" means no quota.
            with contextlib.suppress(OSError, ValueError):
                quota, period = _limit(_CGROUPS / controllers / parent)
                if quota > 0:  # Version 1 writes -1 for no quota.
                    yield quota / period


def _limit(group: pathlib.Path) -> tuple[int, int]:
    """Return a control group's quota and its period, in microseconds."""
    names = ["cpu.max"]
    if not (group / "cpu.max").exists():
        names = ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    text = " ".join((group / name).read_text() for name in names)
    quota, period = map(int, text.split())
    return quota, period


def provide_home() -> None:
    """Set HOME to a temporary folder if this user has no home folder.

    Without one, as for a number without an account, some imports fail.
    """
    if os.path.expanduser("~") == "~":
        home = tempfile.mkdtemp(prefix="pixace-tf-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["HOME"] = home
