"""Token shards: rows of tokens in ArrayRecord files, and their manifest.

For each chunk of images, a folder of shards has one file of training rows, one
of validation rows, and a JSON file about them; `manifest.json` appears when all
chunks are done. `tokenizing` writes them.

Shapes: N rows of a part, T tokens of a row, B rows of a batch.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from array_record.python.array_record_module import (
    ArrayRecordReader,
    ArrayRecordWriter,
)

from pixace_tf import storage
from pixace_tf.errors import UserError
from pixace_tf.storage import StrPath
from pixace_tf.typing import Tensor

# The plan is written first, the manifest last.
PLAN_FILE = "plan.json"
MANIFEST_FILE = "manifest.json"
LEFT_OUT_FILE = "left-out.npz"
PARTS = ("train", "validation")
FORMAT = 1
# Each row is a group of its own, so that it can be read alone.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_READER_BUFFER_BYTES = 1 << 15
# Files that are open besides the shards.
_OTHER_FILES = 256


def row_dtype(length: int, vocabulary_size: int) -> np.dtype:
    """Return the dtype of a record of T = `length` tokens.

    It packs `token_ids` `(T,)`, uint16 where that is enough, else int32;
    `label`, int32, an index into the labels of the chunk; and `digest`, the 16
    bytes of `variants.digest_of`; all little-endian.
    """
    token = "<u2" if vocabulary_size <= 1 << 16 else "<i4"
    label, digest = ("label", "<i4"), ("digest", "S16")
    return np.dtype([("token_ids", token, (length,)), label, digest])


def shard_name(chunk: int, part: str) -> str:
    """Return the file name of one part of a chunk."""
    return f"chunk-{chunk:06}.{part}.array_record"


def write_shard(path: StrPath, rows: np.ndarray) -> dict[str, Any]:
    """Write rows `(N,)` of `row_dtype` as `storage.new_file` does, if any.

    Returns:
        The entry of the manifest: count, bytes and checksum.
    """
    if not len(rows):
        return {"count": 0, "bytes": 0, "blake2b": ""}
    with storage.new_file(path) as temporary:
        writer = ArrayRecordWriter(temporary, _WRITER_OPTIONS)
        for row in rows:
            writer.write(row.tobytes())
        writer.close()
    return {"count": len(rows), **_measured(path)}


def read_shard(path: StrPath, dtype: np.dtype) -> np.ndarray:
    """Read all rows of a file, `(N,)` of `row_dtype`.

    Raises:
        UserError: If it is missing or damaged.
    """
    with contextlib.closing(_open(os.fspath(path))) as reader:
        return _joined(path, reader.read_all, dtype)


@dataclasses.dataclass(frozen=True)
class Shards:
    """A complete folder of token shards, and its `manifest.json`."""

    path: str
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: StrPath) -> "Shards":
        """Open a folder and check that each shard is there and has its size.

        Raises:
            UserError: If a file is missing or has another format or size.
        """
        path = os.fspath(path)
        try:
            manifest = storage.read_json(os.path.join(path, MANIFEST_FILE))
        except (OSError, ValueError):
            raise UserError(
                f"{path} has no readable {MANIFEST_FILE}. Run pixace-tf "
                "tokenize until it is complete."
            ) from None
        found = manifest.get("format") if isinstance(manifest, dict) else None
        if found != FORMAT:
            raise UserError(
                f"{path} has the format {found} of another version of this "
                "program. Tokenize the images again."
            )
        shards = cls(path, manifest)
        for file_path, entry in shards.files():
            is_file = os.path.isfile(file_path)
            if not is_file or os.path.getsize(file_path) != entry["bytes"]:
                raise UserError(_damaged(file_path))
        return shards

    def files(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the path and the manifest's entry of each shard with rows."""
        for chunk, entry in enumerate(self.manifest["chunks"]):
            for part in PARTS:
                if entry[part]["count"]:
                    name = shard_name(chunk, part)
                    yield os.path.join(self.path, name), entry[part]

    def verify(self) -> None:
        """Raise UserError if a shard differs from its checksum."""
        for path, entry in self.files():
            if _measured(path)["blake2b"] != entry["blake2b"]:
                raise UserError(_damaged(path))

    @property
    def label_names(self) -> list[str]:
        """The classes in order; `[""]` if there are none."""
        return list(self.manifest["label_counts"])

    def digest(self) -> str:
        """Return a hex digest of all rows."""
        chunks = [
            [[entry[part]["blake2b"] for part in PARTS], entry["labels"]]
            for entry in self.manifest["chunks"]
        ]
        digest = hashlib.blake2b(json.dumps(chunks).encode(), digest_size=16)
        for part in PARTS:
            digest.update(self.left_out(part).tobytes())
        return digest.hexdigest()

    def left_out(self, part: str) -> np.ndarray:
        """Return which rows of a part to skip, sorted int64 `(K,)`."""
        path = os.path.join(self.path, LEFT_OUT_FILE)
        with storage.open_npz(path) as file:
            return file.read(part)


class ShardRows:
    """The rows of one part, "train" or "validation", read when needed.

    For each of the label names, `gather` returns one of `label_numbers`, int32;
    by default 0.

    Attributes:
        shape: `(N, T)`.
        dtype: The dtype of the tokens.
        failure: Why `gather` could not read a row, or None.
    """

    def __init__(
        self, shards: Shards, part: str, label_numbers: np.ndarray | None = None
    ) -> None:
        self._path, self._part = shards.path, part
        chunks = shards.manifest["chunks"]
        counts = np.array([c[part]["count"] for c in chunks], np.int64)
        self._ends = np.cumsum(counts)
        self._begins = self._ends - counts
        left_out = shards.left_out(part)
        # For each skipped row, the number of kept rows before it.
        self._gaps = left_out - np.arange(len(left_out))
        names = {name: i for i, name in enumerate(shards.label_names)}
        self._places = [
            np.array([names[label] for label in chunk["labels"]], np.int32)
            for chunk in chunks
        ]
        length = math.prod(shards.manifest["tokenizer"]["image_size"])
        self._row_dtype = row_dtype(length, shards.manifest["vocabulary_size"])
        self.dtype = self._row_dtype["token_ids"].base
        self.shape = int(counts.sum()) - len(left_out), length
        if label_numbers is None:
            label_numbers = np.zeros(len(names), np.int32)
        self._label_numbers = label_numbers
        self._readers: dict[int, ArrayRecordReader] = {}
        self.failure: UserError | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self.shape[0] * self.shape[1]

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Return tokens `(B, T)` for integers `(B,)`."""
        return self.read(np.asarray(index))[0]

    def read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the rows of some integers `(B,)` in `[0, N)`.

        Returns:
            Tokens `(B, T)`, and int32 indices into `Shards.label_names` `(B,)`.

        Raises:
            UserError: If a shard is missing or damaged.
        """
        at = index + np.searchsorted(self._gaps, index, side="right")
        chunks = np.searchsorted(self._ends, at, side="right")
        rows = np.empty(len(index), self._row_dtype)
        labels = np.empty(len(index), np.int32)
        for chunk in np.unique(chunks).tolist():
            chosen = np.flatnonzero(chunks == chunk)
            positions = (at[chosen] - self._begins[chunk]).tolist()
            rows[chosen] = self._read_records(chunk, positions)
            labels[chosen] = self._places[chunk][rows["label"][chosen]]
        return rows["token_ids"], labels

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """See `MemoryRows.gather`."""
        token_ids, labels = tf.numpy_function(
            self._read_or_note, [index], [tf.int32, tf.int32], stateful=False
        )
        token_ids = tf.ensure_shape(token_ids, (None, self.shape[1]))
        return token_ids, tf.ensure_shape(labels, (None,))

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _read_or_note(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read rows; keep the error, since TensorFlow wraps it in another."""
        try:
            token_ids, labels = self.read(index)
        except UserError as error:
            self.failure = error
            raise
        return token_ids.astype(np.int32), self._label_numbers[labels]

    def _read_records(self, chunk: int, positions: Sequence[int]) -> np.ndarray:
        path = os.path.join(self._path, shard_name(chunk, self._part))
        if chunk not in self._readers:
            if not self._readers:
                _allow_open_files(len(self._ends) + _OTHER_FILES)
            self._readers[chunk] = _open(path)
        return _joined(
            path, lambda: self._readers[chunk].read(positions), self._row_dtype
        )


def is_shards(path: StrPath) -> bool:
    """Tell whether a folder has token shards, complete or not.

    Other programs write a plan.json, too, so the mark of `tokenize` counts.
    """
    files = (os.path.join(path, f) for f in (storage.MARK_FILE, PLAN_FILE))
    return all(map(os.path.isfile, files))


def _open(path: str) -> ArrayRecordReader:
    try:
        return ArrayRecordReader(
            path,
            options=_READER_OPTIONS,
            file_reader_buffer_size=_READER_BUFFER_BYTES,
        )
    except Exception as error:  # A damaged file can raise anything.
        if "Too many open files" in str(error):
            raise UserError(
                f"{os.path.dirname(path)} has more shards than this system "
                "lets a program open; raise the limit with ulimit -n."
            ) from None
        raise UserError(_damaged(path)) from None


def _joined(
    path: StrPath, read: Callable[[], Sequence[bytes]], dtype: np.dtype
) -> np.ndarray:
    """Return the records that a function reads, or raise UserError."""
    try:
        rows = np.frombuffer(b"".join(read()), dtype)
    except Exception:  # A damaged file can raise anything.
        rows = np.zeros(0, dtype)
    if not len(rows):  # A truncated file gives no records.
        raise UserError(_damaged(path))
    return rows


def _measured(path: StrPath) -> dict[str, Any]:
    with open(path, "rb") as file:
        new = functools.partial(hashlib.blake2b, digest_size=16)
        digest = hashlib.file_digest(file, new)
        return {"bytes": file.tell(), "blake2b": digest.hexdigest()}


def _damaged(path: StrPath) -> str:
    return (
        f"The shard {os.fspath(path)} is missing or damaged. Remove it and its "
        "chunk-*.json, and run pixace-tf tokenize again."
    )


def _allow_open_files(count: int) -> None:
    """Raise the limit of open files, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        count = min(count, hard)
    if soft < count:
        # macOS allows fewer files than its hard limit says.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
