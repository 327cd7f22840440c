import os
import subprocess
import sys

import pytest

from pixace_tf import machine


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host of 64 cores whose control groups are in a folder."""
    affinity = set(range(64))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda pid: affinity, raising=False
    )
    monkeypatch.setattr(machine, "_PROC_CGROUP", tmp_path / "proc")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return write


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        *(("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2)),
        *(("5000 100000", 1), ("9900000 100000", 64)),
    ],
)
def test_a_quota_of_version_2_limits_cores(host, quota, cores):
    host("proc", "0::/\n")
    host("cpu.max", quota + "\n")
    assert machine.num_cores() == cores


def test_the_tightest_quota_of_all_ancestors_counts(host):
    host("proc", "0::/kube.slice/pod:7\n")
    host("kube.slice/cpu.max", "300000 100000\n")
    host("kube.slice/pod:7/cpu.max", "max 100000\n")
    assert machine.num_cores() == 3


@pytest.mark.parametrize(("quota", "cores"), [(-1, 64), (400000, 4)])
def test_a_quota_of_version_1_limits_cores(host, quota, cores):
    # A container sees its group as the root but its name on the host.
    host("proc", "4:memory:/docker/5\n3:cpu,cpuacct:/docker/5\n0::/docker/5\n")
    host("cpu,cpuacct/cpu.cfs_quota_us", f"{quota}\n")
    host("cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    host("memory/cpu.cfs_quota_us", "100000\n")
    host("memory/cpu.cfs_period_us", "100000\n")
    assert machine.num_cores() == cores


def test_affinity_limits_cores(host, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert machine.num_cores() == machine.num_schedulable_cores() == 2


def test_without_affinity_and_groups_the_host_counts(host, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.num_cores() == 64


def test_an_unreadable_group_is_no_limit(host):
    host("proc", "0::/\n")
    host("cpu.max", "")
    assert machine.num_cores() == 64


def test_a_user_without_a_home_folder_can_import_what_needs_one():
    script = """
import os, pathlib, pwd
os.environ.pop("HOME", None)
def getpwuid(number):
    raise KeyError(number)
pwd.getpwuid = getpwuid
import pixace_tf
import kagglehub
print(pathlib.Path.home())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not os.path.exists(done.stdout.strip())
