import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from pixace_tf import storage
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
    """Which shows that the next test refuses for the right reasons."""
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
