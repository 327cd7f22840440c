"""The painter file of a run: its graphs and weights for LiteRT.

    painter.tflite
        a LiteRT model with the signatures of `converter`, and behind it a zip
        archive, as in TensorFlow Lite's metadata, with
        pixace.json   what painting needs to know, digests, and a self-test

This module needs no TensorFlow.
"""

import dataclasses
import hashlib
import json
import os
import zipfile
from typing import Any

from pixace_tf import storage
from pixace_tf.errors import UserError
from pixace_tf.sampling.engine import ModelFacts
from pixace_tf.storage import StrPath

FORMAT = 6
_META = "pixace.json"


@dataclasses.dataclass(frozen=True)
class PainterFile:
    """A painter file that is complete.

    Attributes:
        path: The file.
        content: The LiteRT model.
        facts: Facts of the model.
        tokenizer: The configuration of the `PixelTokenizer`.
        weights: The digest of the weights; see `storage.npz_digest`.
        digest: The digest of the LiteRT model.
        self_test: See `self_test`.
    """

    path: str
    content: bytes = dataclasses.field(repr=False)
    facts: ModelFacts
    tokenizer: dict[str, Any]
    weights: str
    digest: str
    self_test: dict[str, Any]

    @classmethod
    def open(cls, path: StrPath) -> "PainterFile":
        """Read and check a file.

        Raises:
            UserError: If it is missing, damaged or made by another version.
        """
        path = os.fspath(path)
        try:
            with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
                meta = json.loads(archive.read(_META))
                version = meta.pop("format")
                if version == FORMAT:
                    file.seek(0)
                    content = file.read(archive.infolist()[0].header_offset)
                    facts = ModelFacts.from_json(meta.pop("facts"))
                    painter = cls(path, content, facts, **meta)
        except FileNotFoundError:
            raise UserError(f"The file {path} is missing.") from None
        except (OSError, MemoryError):
            raise
        except Exception:  # A damaged archive can raise anything.
            raise UserError(f"The file {path} is damaged.") from None
        if version != FORMAT:
            raise UserError(f"{path} was made by another pixace-tf.")
        if _digest(content) != painter.digest:
            raise UserError(f"The file {path} is damaged.")
        return painter


def write(
    path: StrPath,
    content: bytes,
    facts: ModelFacts,
    tokenizer: dict[str, Any],
    weights: str,
    self_test: dict[str, Any],
) -> None:
    """Write a painter file; see `PainterFile` and `storage.write_atomic`."""
    meta = {
        "format": FORMAT,
        "facts": dataclasses.asdict(facts),
        "tokenizer": tokenizer,
        "weights": weights,
        "digest": _digest(content),
        "self_test": self_test,
    }
    with storage.new_file(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(content)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(_META, json.dumps(meta))


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
