"""Compiled programs outlive the process, and do no harm."""

import os
import subprocess
import sys

import pytest

from pixace_tf import compile_cache
from pixace_tf.machine import CACHE_VARIABLE


def generate(run, out, cache):
    """Paint in a process of its own."""
    command = ["generate", run.path, "--count", "2", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "pixace_tf", *command],
        env={**os.environ, CACHE_VARIABLE: str(cache), "TF_XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out.read_bytes()


def programs(cache):
    return {
        path: path.stat().st_mtime_ns
        for path in cache.rglob("*")
        if path.is_file()
    }


@pytest.mark.soak
def test_a_later_process_finds_what_was_compiled(trained_run, tmp_path):
    cache = tmp_path / "cache"
    first = generate(trained_run, tmp_path / "first.png", cache)
    kept = programs(cache)
    assert kept
    second = generate(trained_run, tmp_path / "second.png", cache)
    assert programs(cache) == kept  # Nothing was compiled again.
    assert second == first
    for path in kept:
        path.write_bytes(path.read_bytes()[:1000])
    third = generate(trained_run, tmp_path / "third.png", cache)
    assert third == first


SQUARE = """
import sys
from pixace_tf import compile_cache
compile_cache.enable()
import tensorflow as tf
tensors = [tf.constant(i) for i in range(int(sys.argv[1]))]
compile_cache.align_names()
square = tf.function(lambda x: x @ x, jit_compile=True, autograph=False)
square(tf.ones((8, 8)))
"""


@pytest.mark.soak
def test_what_was_computed_before_does_not_matter(tmp_path):
    kept = []
    for count in (0, 1000):
        subprocess.run(
            [sys.executable, "-c", SQUARE, str(count)],
            env={
                **os.environ,
                CACHE_VARIABLE: str(tmp_path),
                "TF_XLA_FLAGS": "",
            },
            check=True,
        )
        kept.append(programs(tmp_path))
    assert kept[0]
    assert kept[1] == kept[0]


@pytest.fixture
def no_flags(monkeypatch):
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    return monkeypatch


def flags_with(monkeypatch, folder):
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    compile_cache.enable()
    return os.environ.get("TF_XLA_FLAGS", "")


def test_a_folder_that_others_can_write_to_is_not_used(no_flags, tmp_path):
    """Programs from it are run."""
    assert str(tmp_path) in flags_with(no_flags, tmp_path)
    no_flags.delenv("TF_XLA_FLAGS")
    (folder,) = tmp_path.iterdir()
    folder.chmod(0o777)
    assert not flags_with(no_flags, tmp_path)


def test_it_can_be_switched_off_and_leaves_other_flags(no_flags, tmp_path):
    assert not flags_with(no_flags, "")
    no_flags.setenv("TF_XLA_FLAGS", "--tf_xla_max_cluster_size=9")
    flags = flags_with(no_flags, tmp_path).split()
    assert flags[0] == "--tf_xla_max_cluster_size=9"
    assert len(flags) == 2
    assert not flags_with(no_flags, tmp_path / "other").count("other")


def test_a_program_that_another_process_writes_stays(no_flags, tmp_path):
    flags_with(no_flags, tmp_path)
    (folder,) = tmp_path.iterdir()
    new, old = folder / "new.pb.tmp", folder / "old.pb.tmp"
    for path in (new, old):
        path.write_bytes(b"\x0a\x62")
    os.utime(old, (0, 0))
    no_flags.delenv("TF_XLA_FLAGS")
    flags_with(no_flags, tmp_path)
    assert list(folder.iterdir()) == [new]


def test_the_oldest_programs_go_first(no_flags, tmp_path):
    flags_with(no_flags, tmp_path)
    (folder,) = tmp_path.iterdir()
    for i in range(4):
        path = folder / f"{i}.pb"
        path.write_bytes(b"\x0a\x62" + bytes(98))  # A field of 98 bytes.
        os.utime(path, (i, i))
    no_flags.setattr(compile_cache, "MAX_BYTES", 250)
    no_flags.delenv("TF_XLA_FLAGS")
    flags_with(no_flags, tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["2.pb", "3.pb"]
