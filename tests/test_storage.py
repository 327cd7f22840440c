import contextlib
import errno
import fcntl
import importlib
import os
import pathlib
import resource
import shutil
import stat
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

import pixace_tf
from pixace_tf import storage
from pixace_tf.data import token_shards
from pixace_tf.errors import UserError

ARRAYS = {
    "layer/kernel": np.arange(12, dtype=np.uint16).reshape(4, 3),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(4, 3)),
    "empty": np.zeros((0, 5), np.int32),
    "scalar": np.float16(3),
}


@pytest.fixture
def path(tmp_path):
    storage.write_npz(tmp_path / "a.npz", ARRAYS, {"n": [1]})
    return tmp_path / "a.npz"


def peak_bytes(function, *arguments):
    tracemalloc.start()
    try:
        function(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_arrays_come_back_as_they_were(path):
    arrays, meta = storage.read_npz(path)
    assert meta == {"n": [1]}
    assert list(arrays) == list(ARRAYS)
    with storage.open_npz(path) as file:
        for name, array in ARRAYS.items():
            assert file.shapes[name] == array.shape
            assert file.dtypes[name] == arrays[name].dtype == array.dtype
            np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.parametrize("rows", [slice(1, 3), [3, 0], slice(0)], ids=str)
def test_rows_are_those_of_the_array(path, rows):
    with storage.open_npz(path) as file:
        for name in ("layer/kernel", "fortran"):
            expected = ARRAYS[name][rows]
            np.testing.assert_array_equal(file.read(name, rows), expected)
        assert file.read("empty", slice(1)).shape == (0, 5)


def test_only_what_is_asked_for_is_read(tmp_path):
    arrays = {"large": np.zeros((1000, 10_000), np.uint8), "small": np.ones(3)}
    storage.write_npz(tmp_path / "a.npz", arrays, {})

    def look():
        with storage.open_npz(tmp_path / "a.npz") as file:
            assert file.shapes["large"] == (1000, 10_000)
            file.read("small")
            assert file.read("large", [0, 999]).shape == (2, 10_000)

    assert peak_bytes(look) < 1 << 20


def header(shape, descr="|u1"):
    """A `.npy` of that shape without its numbers."""
    text = repr({"descr": descr, "fortran_order": False, "shape": shape})
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode()


def zip_of(path, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("meta.npy", header((2,)) + b"{}")
        archive.writestr("x.npy", content)


def test_a_file_by_hand_is_read(tmp_path):
    """The next test then refuses files for the right reasons."""
    zip_of(tmp_path / "a.npz", header((3,)) + b"\1\2\3")
    assert storage.read_npz(tmp_path / "a.npz")[0]["x"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "compression"),
    [
        (header((10**8,)) + bytes(10**8), zipfile.ZIP_DEFLATED),
        (header((10**12,)) + bytes(10), zipfile.ZIP_STORED),
        (header((10**12, 0)) + bytes(10), zipfile.ZIP_STORED),
        (header((1,), "|O") + bytes(8), zipfile.ZIP_STORED),
        (b"no array", zipfile.ZIP_STORED),
        (b"", zipfile.ZIP_STORED),
    ],
    ids=["deflated", "longer", "no bytes", "objects", "text", "empty"],
)
def test_more_than_the_file_holds_is_refused(tmp_path, content, compression):
    zip_of(tmp_path / "a.npz", content, compression)

    def read():
        with pytest.raises(UserError, match=r"a\.npz is damaged"):
            storage.read_npz(tmp_path / "a.npz")

    assert peak_bytes(read) < 1 << 20


def test_a_damaged_byte_is_noticed(path):
    content = bytearray(path.read_bytes())
    content[content.index(ARRAYS["fortran"].tobytes("F")) + 6] ^= 1
    path.write_bytes(content)
    with storage.open_npz(path) as file:
        assert file.meta == {"n": [1]}
        file.read("layer/kernel")
        with pytest.raises(UserError, match="damaged"):
            file.read("fortran")


def test_every_cut_is_noticed(path):
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="damaged"):
            storage.read_npz(path)


def test_a_missing_file_or_array_is_told(path):
    with (
        pytest.raises(UserError, match="damaged"),
        storage.open_npz(path) as file,
    ):
        file.read("other")
    os.remove(path)
    with pytest.raises(UserError, match="missing"):
        storage.read_npz(path)


def test_errors_of_the_reader_stay_as_they_are(path):
    with pytest.raises(KeyError), storage.open_npz(path):
        raise KeyError("mine")


def test_only_folders_with_our_mark_go(tmp_path):
    strangers = {".vim.new", ".link.new", ".file.new", "a.new"}
    for name in (".vim.new", "a.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "letter.txt").write_text("dear")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".link.new").symlink_to(tmp_path / "nowhere")
    (tmp_path / ".file.new").touch()
    with storage.new_folder(tmp_path / "report"):
        pass
    storage.remove_folder(tmp_path / "report")
    assert set(os.listdir(tmp_path)) == strangers


def test_what_a_living_process_writes_stays(tmp_path):
    with (
        storage.new_folder(tmp_path / "slow") as folder,
        storage.new_file(tmp_path / "file") as file,
    ):
        for path in (folder, file):
            os.utime(path, (0, 0))
        storage.remove_unfinished(tmp_path)
        with storage.new_folder(tmp_path / "quick"):
            pass
        pathlib.Path(folder, "x").touch()
    assert set(os.listdir(tmp_path)) == {"slow", "quick", "file"}
    assert os.listdir(tmp_path / "slow") == ["x"]


KILLED = """
import os, signal
from pixace_tf import storage
with storage.new_folder("slow"), storage.new_file("file"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_wrote_goes(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path)
    assert len(os.listdir(tmp_path)) == 2
    storage.remove_unfinished(tmp_path)
    assert len(os.listdir(tmp_path)) == 1
    with storage.new_folder(tmp_path / "quick"):
        pass
    assert os.listdir(tmp_path) == ["quick"]


def test_a_failed_folder_leaves_nothing(tmp_path):
    def write():
        with storage.new_folder(tmp_path / "a") as folder:
            pathlib.Path(folder, "x").touch()
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert not os.listdir(tmp_path)


def test_new_files_get_the_usual_rights(tmp_path):
    old = os.umask(0o027)
    try:
        with pytest.MonkeyPatch.context() as patch:
            # Other threads would make files that anyone can write.
            patch.setattr(os, "umask", None)
            storage.write_atomic(tmp_path / "file", b"")
            with storage.new_folder(tmp_path / "folder"):
                pass
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


SHIM = r"""
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>
int fsync(int fd) {
  struct stat s;
  errno = fstat(fd, &s) || S_ISDIR(s.st_mode) ? EINVAL : ENOTSUP;
  return -1;
}
int flock(int fd, int operation) { errno = ENOSYS; return -1; }
int chmod(const char *path, mode_t mode) { errno = EPERM; return -1; }
"""
WORK = """
import os
from pixace_tf import storage
with storage.lock(".", "held"), storage.lock(".", "held"):
    storage.write_json("a.json", [1])
    with storage.new_folder("folder") as folder:
        storage.write_atomic(os.path.join(folder, "x"), b"x")
storage.remove_unfinished(".")
storage.remove_folder("folder")
assert sorted(os.listdir()) == [".lock", "a.json", "shim.c", "shim.so"]
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_a_file_system_without_sync_and_locks_is_enough(tmp_path):
    (tmp_path / "shim.c").write_text(SHIM)
    command = ["gcc", "-shared", "-fPIC", "-o", "shim.so", "shim.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-c", WORK],
        cwd=tmp_path,
        env={**os.environ, "LD_PRELOAD": str(tmp_path / "shim.so")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "The file system of . has no locks"
    ] * 2


def fail_with(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def test_without_locks_nothing_is_taken_for_abandoned(tmp_path, monkeypatch):
    (tmp_path / ".a.unfinished").touch()
    monkeypatch.setattr(fcntl, "flock", fail_with(errno.ENOLCK))
    storage.remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == [".a.unfinished"]


@pytest.mark.slow
def test_fit_and_generate_need_neither_sync_nor_locks(
    cartoon_folder, tmp_path, monkeypatch, capsys
):
    from pixace_tf.painting.local import generate
    from pixace_tf.training.fit import fit
    from pixace_tf.training.training_arguments import TrainingArguments

    sync = os.fsync

    def sync_files_only(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(file)

    monkeypatch.setattr(os, "fsync", sync_files_only)
    monkeypatch.setattr(fcntl, "flock", fail_with(errno.ENOSYS))
    run = fit(
        str(cartoon_folder),
        TrainingArguments(
            preset="pico",
            decoder="transformer",
            image_size=(2, 3),
            epochs=1,
            jit_compile=False,
        ),
        runs_dir=str(tmp_path),
        say=lambda line: None,
    )
    assert generate(run, 1).shape == (1, 1, 2, 3, 3)
    assert capsys.readouterr().err.count("has no locks") == 1


def test_a_disk_that_fails_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail_with(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        storage.write_json(tmp_path / "a.json", 1)
    assert not os.listdir(tmp_path)


def test_a_folder_has_one_holder(tmp_path):
    with contextlib.ExitStack() as stack:
        stack.enter_context(storage.lock(tmp_path, "first"))
        with pytest.raises(UserError, match="second"):
            stack.enter_context(storage.lock(tmp_path, "second"))
    with storage.lock(tmp_path, "third"):
        pass


def test_a_limit_of_files_that_macos_refuses_is_no_error(monkeypatch):
    limits = (10, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)

    def refuse(*_):
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    token_shards._allow_open_files(100_000)


def test_windows_is_told_at_once(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="WSL"):
        importlib.reload(pixace_tf)
