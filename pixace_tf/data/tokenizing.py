"""From images to token shards: chunk by chunk, on one machine or on many.

Each chunk is written whole or not at all and depends on nothing but the plan,
so anyone can write a missing one: a command that continues after a kill,
another machine, a worker of Apache Beam.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pixace_tf import console, storage
from pixace_tf.console import ProgressCallback, Say, counted
from pixace_tf.data import image_files, token_shards
from pixace_tf.data.cutting import Cutting
from pixace_tf.data.palette import MAX_ALPHA_BITS, Palette
from pixace_tf.data.parts import TRAIN, describe
from pixace_tf.data.sources import (
    SmallImages,
    Source,
    cannot_cut,
    is_held_out,
    nothing_to_train,
    nothing_usable,
    open_source,
)
from pixace_tf.data.tar_files import ENDING, TarSource
from pixace_tf.data.token_dataset import tokenize as tokenize_images
from pixace_tf.data.token_shards import MANIFEST_FILE, PARTS, PLAN_FILE, Shards
from pixace_tf.data.tokenizer import NATIVE, PixelTokenizer
from pixace_tf.data.transparency import describe as describe_alpha
from pixace_tf.data.transparency import find_alpha
from pixace_tf.data.variants import digest_of
from pixace_tf.errors import UserError
from pixace_tf.storage import StrPath

CHUNK_SIZE = 16_384
# Skipped files that the manifest names; the files of the chunks name all.
MAX_NAMED_SKIPS = 1000
_CUTTING = "cutting"


@dataclasses.dataclass(frozen=True)
class Job:
    """Images to tokenize, and where to.

    Attributes:
        source: A folder, `tfds:NAME[/CONFIG][:SPLIT]`, or as in `TarSource`.
        path: The folder of the shards.
        tokenizer_config: The result of `PixelTokenizer.get_config`.
        max_pixels: Largest image to decode, by its header.
        download: Whether a TensorFlow data set may be downloaded.
        dedup: Whether to keep only the first of equal small images.
        chunk_size: Images in a chunk, or files that are cut; a tar file is
            always one.
        cutting: How to cut the files of a folder into pictures.
    """

    source: str
    path: str
    tokenizer_config: dict[str, Any]
    max_pixels: int = image_files.MAX_PIXELS
    download: bool = False
    dedup: bool = False
    chunk_size: int = CHUNK_SIZE
    cutting: Cutting | None = None

    @functools.cached_property
    def tokenizer(self) -> PixelTokenizer:
        """The tokenizer of the job."""
        return PixelTokenizer(**self.tokenizer_config)

    @functools.cached_property
    def images(self) -> Source:
        """The images of the job, as they are now."""
        options = self.source, self.tokenizer, self.max_pixels
        if ENDING.search(self.source):
            if self.cutting is not None:
                raise UserError(cannot_cut(self.source))
            return TarSource(*options)
        return open_source(
            *options, self.download, self.chunk_size, self.cutting
        )

    def __getstate__(self) -> dict[str, Any]:
        # A worker opens the images itself.
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def file(self, name: str) -> pathlib.Path:
        """Return the path of a file in the folder of the shards."""
        return pathlib.Path(self.path, name)

    def entry(self, chunk: int) -> pathlib.Path:
        """Return the path of the file that marks a chunk as done."""
        return self.file(f"chunk-{chunk:06}.json")

    @functools.cached_property
    def plan(self) -> dict[str, Any]:
        """All that the chunks depend on; only equal plans share a folder."""
        cutting = self.cutting and dataclasses.asdict(self.cutting)
        return {
            # Plans without it stay what they were. JSON has no tuples.
            **({_CUTTING: json.loads(json.dumps(cutting))} if cutting else {}),
            "format": token_shards.FORMAT,
            "tokenizer": self.tokenizer_config,
            "max_pixels": self.max_pixels,
            "dedup": self.dedup,
            "chunk_size": self.chunk_size,
            "num_chunks": self.images.num_chunks,
            "parts": dict(self.images.parts),
            "images": self.images.digest(),
        }

    def check_plan(self) -> None:
        """Compare the images and options with the plan in the folder.

        Raises:
            UserError: If they differ, or the folder has no plan.
        """
        before = None
        if token_shards.is_shards(self.path):
            with contextlib.suppress(OSError, ValueError):
                before = storage.read_json(self.file(PLAN_FILE))
        if not isinstance(before, dict):
            raise UserError(
                f"{self.path} is neither empty nor a folder of token shards."
            )
        begun = f"{self.path} was begun"
        if (set(before) ^ set(self.plan)) - {_CUTTING}:
            raise UserError(
                f"{begun} by another version of this program. Choose another "
                "folder."
            )
        names = [
            name
            for name in (_CUTTING, *self.plan)
            if before.get(name) != self.plan.get(name)
        ]
        if names and set(names) <= {"images", "num_chunks", "parts"}:
            raise UserError(f"{begun} with other images.")
        if names:
            then, now = (plan.get(names[0]) for plan in (before, self.plan))
            raise UserError(
                f"{begun} with another {names[0]}: {then}, now {now}."
            )

    @functools.cached_property
    def row_dtype(self) -> np.dtype:
        """The dtype of the rows."""
        size = self.tokenizer.palette.vocabulary_size
        return token_shards.row_dtype(self.tokenizer.sequence_length, size)

    def missing_chunks(self) -> list[int]:
        """Return the chunks that are not written yet."""
        chunks = range(self.images.num_chunks)
        return [chunk for chunk in chunks if not self.entry(chunk).exists()]


# Writes the chunks of a job.
Runner = Callable[[Job, Sequence[int]], None]


def tokenize(
    source: StrPath,
    out: StrPath,
    tokenizer: PixelTokenizer,
    *,
    is_alpha_open: bool = False,
    shard: tuple[int, int] = (1, 1),
    run: Runner | None = None,
    progress: ProgressCallback | None = None,
    say: Say = print,
    **options: Any,
) -> Shards | None:
    """Write the tokens of images as shards, or continue where it stopped.

    Args:
        source: See `Job`.
        out: Their folder; missing, empty, or begun by the same call.
        tokenizer: Makes the tokens.
        is_alpha_open: Whether to choose the bits of alpha by the images.
        shard: `(i, n)`: write the share of the i-th of n machines, from 1 on.
        run: Writes the chunks; by default one after the other.
        progress: Called with the chunks done and their number.
        say: Takes each line of the report.
        **options: Further attributes of `Job`.

    Returns:
        The shards, or None if other machines still have chunks to write.

    Raises:
        UserError: If there is no usable image, or `out` holds something else.
    """
    source = os.fspath(source)
    job = Job(source, os.fspath(out), tokenizer.get_config(), **options)
    if is_alpha_open:
        job = _with_alpha(job, say)
    _begin(job)
    if job.images.parts:
        say(f"Parts: {describe(job.images.parts)}.")
    missing = job.missing_chunks()
    mine = [chunk for chunk in missing if chunk % shard[1] == shard[0] - 1]
    if run is not None:
        run(job, mine)
    else:
        for chunk in counted(mine, len(mine), progress):
            write_chunk(job, chunk)
    if left := len(job.missing_chunks()):
        count = job.images.num_chunks
        say(f"{left} of {count} chunks are left to the other machines.")
        return None
    is_joined = job.file(MANIFEST_FILE).exists()
    if missing or not is_joined:
        _join(job)
        storage.remove_unfinished(job.path)
    shards = Shards.open(job.path)
    if not missing and is_joined:
        shards.verify()
    console.say_some(say, shards.manifest.get("notes", ()))
    say(_describe(shards))
    return shards


def _with_alpha(job: Job, say: Say) -> Job:
    """Choose the bits of alpha: those of the plan, or by the images."""

    def with_bits(num_bits: int) -> Job:
        palette = dataclasses.replace(
            job.tokenizer.palette, alpha_bits=num_bits
        )
        config = {**job.tokenizer_config, "palette": str(palette)}
        return dataclasses.replace(job, tokenizer_config=config)

    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        before = storage.read_json(job.file(PLAN_FILE))["tokenizer"]["palette"]
        return with_bits(Palette.parse(before).alpha_bits)
    images = with_bits(MAX_ALPHA_BITS).images
    bits = find_alpha(images, is_exact=job.tokenizer.resize == NATIVE)
    if bits:
        say(describe_alpha(bits))
    return with_bits(bits)


def write_chunk(job: Job, chunk: int) -> None:
    """Write the shards of a chunk, then the file that marks it as done."""
    small = job.images.read(chunk)
    labels = sorted(set(small.labels))
    digests = [digest_of(image) for image in small.images]
    rows = np.empty(len(digests), job.row_dtype)
    if digests:
        rows["token_ids"] = tokenize_images(small.images, job.tokenizer)
        places = {name: i for i, name in enumerate(labels)}
        rows["label"] = [places[label] for label in small.labels]
        rows["digest"] = digests
    in_train = _in_train(small, job.images)
    entry: dict[str, Any] = {"labels": labels}
    for part, chosen in zip(PARTS, (in_train, ~in_train), strict=True):
        path = job.file(token_shards.shard_name(chunk, part))
        entry[part] = token_shards.write_shard(path, rows[chosen])
        counts = np.bincount(rows["label"][chosen], minlength=len(labels))
        entry[part]["label_counts"] = counts.tolist()
    entry["has_parts"] = any(small.parts)
    entry["skipped"] = [[s.path, s.reason] for s in small.skipped]
    if small.notes:
        entry["notes"] = small.notes
    storage.write_json(job.entry(chunk), entry)


def _in_train(small: SmallImages, images: Source) -> np.ndarray:
    """Return bool `(N,)`; `_join` leaves out copies between the parts."""
    if images.num_chunks == 1 and small.parts and not any(small.parts):
        # All images are here, so each part is sure to get some.
        return small.in_train()
    pairs = zip(small.parts, small.split_keys(), strict=True)
    in_train = [p == TRAIN or (not p and not is_held_out(k)) for p, k in pairs]
    return np.array(in_train, bool)


def _begin(job: Job) -> None:
    """Write the plan, or compare it with that of the folder."""
    os.makedirs(job.path, exist_ok=True)
    if all(name.startswith(".") for name in os.listdir(job.path)):
        storage.mark_folder(job.path)
        _write_plan(job)
    # Another machine may have written its plan first.
    job.check_plan()


def _write_plan(job: Job) -> None:
    # A link appears whole and, unlike a renamed file, replaces no plan.
    handle, temporary = tempfile.mkstemp(".unfinished", ".plan.", job.path)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(job.plan, file, indent=2)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, job.file(PLAN_FILE))
    except OSError:  # A file system without links.
        storage.write_json(job.file(PLAN_FILE), job.plan)
    finally:
        os.unlink(temporary)


def _join(job: Job) -> None:
    """Write the manifest when all chunks are done."""
    entries = map(job.entry, range(job.images.num_chunks))
    chunks = list(map(storage.read_json, entries))
    skipped = [[s.path, s.reason] for s in job.images.skipped]
    skipped += [entry for chunk in chunks for entry in chunk.pop("skipped")]
    notes = [note for chunk in chunks for note in chunk.pop("notes", ())]
    left_out = _left_out(job, chunks)
    counts = {
        part: sum(c[part]["count"] for c in chunks) - len(left_out[part])
        for part in PARTS
    }
    if not counts["train"]:
        if counts["validation"]:
            raise UserError(nothing_to_train(job.source, job.images.parts))
        named = [image_files.Skipped(*entry) for entry in skipped]
        raise UserError(nothing_usable(job.source, named))
    storage.write_npz(job.file(token_shards.LEFT_OUT_FILE), left_out, {})
    storage.write_json(
        job.file(MANIFEST_FILE),
        {
            "format": token_shards.FORMAT,
            "tokenizer": job.tokenizer_config,
            "vocabulary_size": job.tokenizer.palette.vocabulary_size,
            # These include the copies that are left out.
            "label_counts": _label_counts(chunks),
            "counts": counts,
            "copies_left_out": {p: len(left_out[p]) for p in PARTS},
            "num_skipped": len(skipped),
            "skipped": skipped[:MAX_NAMED_SKIPS],
            **({"notes": notes[:MAX_NAMED_SKIPS]} if notes else {}),
            "chunks": chunks,
        },
    )


def _label_counts(chunks: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return how many images each class has, 0 if none of them train."""
    counts = {part: collections.Counter[str]() for part in PARTS}
    for chunk, part in itertools.product(chunks, PARTS):
        numbers = chunk[part].pop("label_counts")
        pairs = zip(chunk["labels"], numbers, strict=True)
        counts[part].update(dict(pairs))
    return {
        name: count and count + counts["validation"][name]
        for name, count in sorted(counts["train"].items())
    }


def _left_out(
    job: Job, chunks: Sequence[dict[str, Any]]
) -> dict[str, np.ndarray]:
    """Return by part which rows are copies of others, sorted int64.

    Without parts in the source, the pixels decide on which side a row lies, so
    copies lie on one side and are left out only with `Job.dedup`. Of pixel art,
    the variants of a sprite decide, which may lie in other chunks.
    """
    left_out = {part: np.zeros(0, np.int64) for part in PARTS}
    for part in PARTS if job.dedup else ():
        digests = np.concatenate(list(_digests(job, chunks, part)))
        _, first = np.unique(digests, return_index=True)
        left_out[part] = np.setdiff1d(np.arange(len(digests)), first)
    is_pixel_art = job.tokenizer.resize == NATIVE
    if is_pixel_art or any(chunk["has_parts"] for chunk in chunks):
        held_out = np.concatenate(list(_digests(job, chunks, "validation")))
        also_train = np.zeros(len(held_out), bool)
        for digests in _digests(job, chunks, "train"):
            also_train |= np.isin(held_out, digests)
        left_out["validation"] = np.union1d(
            left_out["validation"], np.flatnonzero(also_train)
        )
    return left_out


def _digests(
    job: Job, chunks: Sequence[dict[str, Any]], part: str
) -> Iterator[np.ndarray]:
    """Yield the digests of each chunk, S16 `(N,)`, after an empty array."""
    yield np.zeros(0, "S16")
    for chunk, entry in enumerate(chunks):
        if entry[part]["count"]:
            path = job.file(token_shards.shard_name(chunk, part))
            rows = token_shards.read_shard(path, job.row_dtype)
            yield rows["digest"].copy()


def _describe(shards: Shards) -> str:
    manifest = shards.manifest
    counts, copies = manifest["counts"], manifest["copies_left_out"]
    reasons = collections.Counter(reason for _, reason in manifest["skipped"])
    most = "".join(f", most: {r}" for r, _ in reasons.most_common(1))
    return (
        f"{counts['train']:,} images to train on, {counts['validation']:,} to "
        f"validate, {sum(copies.values()):,} copies left out, "
        f"{manifest['num_skipped']:,} skipped{most}: {shards.path}"
    )
