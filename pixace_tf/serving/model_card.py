"""The page beside a run that says what the model is and how to call it."""

import glob
import importlib.metadata
import json
import os
import shlex
import urllib.parse

from pixace_tf import storage
from pixace_tf.data.image_files import printable
from pixace_tf.runs.run_config import HISTORY_FILE, TOKENS_FILE
from pixace_tf.runs.run_folder import Run
from pixace_tf.sampling import MAX_SERVED_PARTICLES

CARD_FILE = "README.md"

_CALL = """\
## Call it

On this machine, with pixace-tf:

```sh
pixace-tf complete {path} cat.jpg --out completed.png
pixace-tf generate {path} --out new.png
```

From a stock TensorFlow Serving, with nothing of pixace-tf on the server:

```sh
docker run --rm -p 8501:8501 -v {volume} \\
  -e MODEL_NAME={name} tensorflow/serving:2.20.0 \\
  --rest_api_timeout_in_ms=600000
pixace-tf complete --server http://localhost:8501 --model {name} cat.jpg
```

Over REST, one image a row, every input given:

```sh
printf '{{"instances": [{{"image_bytes": {{"b64": "%s"}},
  "prefix_length": {half}, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
  "min_p": 0.0, "seed": 0}}]}}' "$(base64 < cat.jpg | tr -d '\\n')" |
  curl -s http://localhost:8501/v1/models/{url_name}:predict -d @-
```

Any region, painted where `hole.png` is white:

```sh
printf '{{"signature_name": "fill", "instances": [{{
  "image_bytes": {{"b64": "%s"}}, "mask_bytes": {{"b64": "%s"}},
  "particles": 16, "label": "", "guidance": 1.0, "temperature": 1.0,
  "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0}}]}}' \\
  "$(base64 < cat.jpg | tr -d '\\n')" "$(base64 < hole.png | tr -d '\\n')" |
  curl -s http://localhost:8501/v1/models/{url_name}:predict -d @-
```

- `complete`, the default, takes `image_bytes`, `prefix_length`,
  `temperature`, `top_k`, `top_p`, `min_p` and `seed`;
- `complete_tokens` takes `token_ids` instead of `image_bytes`;
- `fill` takes `mask_bytes` (JPEG or PNG of the image's aspect, or of its small
  size; empty paints everything), `particles` (1 to {particles}), `label`
  ({labels}) and `guidance` (1 is off) instead of a prefix; `image_bytes` may be
  empty;
- `generate` takes neither an image nor a prefix;
- `score` takes `image_bytes` alone.

All return `image_bytes` (PNG; from `score` the image scaled down),
`token_ids` and `bits_per_pixel`; `fill` also `mask`, what it has painted.

`prefix_length` counts pixels in raster order, 0 to {length}. The same seed
gives the same image, alone or in a batch. A JPEG is not turned upright by
its EXIF data: that is the client's. A picture that does not load or a value
out of range is refused, and with it the batch that the server has put it into;
`pixace-tf complete` checks both before it sends them.
"""


def write(run: Run, version_path: str) -> str:
    """Return the card of a run, as Markdown.

    Args:
        run: The run, its files beside it.
        version_path: The newest exported version.
    """
    tokenizer, arguments = run.tokenizer, run.arguments
    height, width = tokenizer.image_size
    name = os.path.basename(os.path.abspath(run.path))
    rows = {
        "images": _images(run),
        "image size": f"{width}x{height} pixels, {tokenizer.resize}",
        "palette": f"{tokenizer.palette.name}, "
        f"{tokenizer.palette.vocabulary_size:,} codes",
        "decoder": f"{run.model.get_config()['decoder']}, preset "
        f"{arguments.get('preset', 'unknown')}",
        "parameters": f"{run.model.num_parameters:,}",
        **_learning(run),
        "version": os.path.basename(version_path),
        "made with": ", ".join(
            f"{package} {importlib.metadata.version(package)}"
            for package in ("pixace-tf", "tensorflow", "keras")
        ),
    }
    parts = [
        f"# {name}",
        "A model that finishes half-covered pictures and paints new ones.",
        "\n".join(
            ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]
        ),
        *_previews(run),
        _CALL.format(
            path=shlex.quote(run.path),
            volume=shlex.quote(
                f"{os.path.abspath(run.path)}:/models/{name}:ro"
            ),
            name=shlex.quote(name),
            url_name=urllib.parse.quote(name, safe=""),
            particles=MAX_SERVED_PARTICLES,
            labels=", ".join(map(printable, run.model.labels))
            or "this model knows none, so it is empty",
            half=tokenizer.sequence_length // 2,
            length=tokenizer.sequence_length,
        ),
    ]
    return "\n\n".join(parts)


def _images(run: Run) -> str:
    given = str(run.arguments.get("source", "images"))
    source = os.path.basename(os.path.normpath(given))
    try:
        arrays, meta = storage.read_npz(run.file(TOKENS_FILE))
    except ValueError:
        return source
    num_train = meta.get("num_train", len(arrays["train"]))
    return (
        f"{source}: {num_train:,} for training, "
        f"{len(arrays['validation']):,} for validation"
    )


def _learning(run: Run) -> dict[str, str]:
    try:
        with open(run.file(HISTORY_FILE), encoding="utf-8") as file:
            history = json.load(file)
    except (OSError, ValueError):
        return {}
    scored = [e for e in history if "val_bits_per_pixel" in e]
    if not scored:
        return {}
    best = min(scored, key=lambda e: e["val_bits_per_pixel"])
    return {
        "validation": f"{best['val_bits_per_pixel']:.3f} bits/pixel after "
        f"{best['epoch']:.4g} epochs, {best['seconds'] / 60:.1f} minutes"
    }


def _previews(run: Run) -> list[str]:
    """Link the newest sheets."""
    links = []
    for kind, text in (
        ("completed", "Validation images, completed while training"),
        ("new", "New images"),
    ):
        found = sorted(
            glob.glob(glob.escape(run.file("pictures")) + f"/*-{kind}.png")
        )
        if found:
            links.append(f"![{text}](pictures/{os.path.basename(found[-1])})")
    return links
