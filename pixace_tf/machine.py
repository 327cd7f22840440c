"""What this machine gives a process: CPU cores, a GPU, folders."""

import atexit
import contextlib
import ctypes.util
import importlib.util
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

CACHE_VARIABLE = "PIXACE_TF_CACHE"
_GPU_DEVICES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
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


def has_gpu() -> bool:
    """Tell whether there is a GPU that TensorFlow can use, without asking it.

    TensorFlow also needs cuDNN, from a package or from the system.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    if visible in ("", "-1") or not any(map(os.path.exists, _GPU_DEVICES)):
        return False
    is_installed = importlib.util.find_spec("nvidia") is not None
    return is_installed or ctypes.util.find_library("cudnn") is not None


def cache_folder() -> pathlib.Path | None:
    """Return the folder for files that can be made again, or None for none.

    It is `pixace-tf` in the user's cache folder, or the folder that the
    environment variable `PIXACE_TF_CACHE` names; nothing is kept if the
    variable is empty.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    chosen = os.environ.get(CACHE_VARIABLE, os.path.join(home, "pixace-tf"))
    return pathlib.Path(chosen).absolute() if chosen else None


def provide_home() -> None:
    """Set HOME to a temporary folder if this user has no home folder.

    Without one, as for a number without an account, some imports fail.
    """
    if os.path.expanduser("~") == "~":
        home = tempfile.mkdtemp(prefix="pixace-tf-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["HOME"] = home
