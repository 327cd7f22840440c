"""Speed, memory and stability of training on a GPU, beside PyTorch.

It trains as `fit` does, with Keras's JAX backend unless KERAS_BACKEND names
another one. Needs TensorFlow for the data and, for the peer, PyTorch. Each row
is measured in its own process and written at once; the same command goes on
with the missing rows. With --learn it trains on pictures instead, and tells the
bits per channel of others.

Command:  python pipelines/gpu_check.py --out gpu_check
Hardware: one NVIDIA GPU with 40 GB or more
Time:     9 minutes; a minute with --smoke on a CPU
Expected: not measured yet; pipelines/results/gpu-check.md shows the bare step
          of `model.fit`, which took all data from the memory of the device
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import numpy as np

os.environ.setdefault("KERAS_BACKEND", "jax")
HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE / "peers"), str(HERE.parent)]

SIZE = 32
PALETTE = "rgb 4,5,4"
DECODERS = ("multiscale", "transformer", "reformer")
LONG_CASE = "multiscale", "mixed_float16", 1
GIB = 1 << 30


@click.command()
@click.option("--out", required=True, help="Name of the .json and the .md.")
@click.option("--preset", default="base", show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--minutes", default=9.0, show_default=True)
@click.option("--smoke", is_flag=True, help="Small and short, on any machine.")
@click.option(
    "--learn",
    nargs=2,
    metavar="TRAIN VALIDATION",
    help="Train on the uint8 pictures `x` of an .npz, in RGB 888, instead.",
)
@click.option("--dropout", default=0.1, show_default=True, help="For --learn.")
def main(
    out: str,
    preset: str,
    batch_size: int,
    minutes: float,
    smoke: bool,
    learn: tuple[str, str] | None,
    dropout: float,
) -> None:
    """Measure what training takes on this machine."""
    if smoke:
        preset, batch_size = "pico", 2
    case = {"preset": preset, "batch_size": batch_size, "smoke": smoke}
    cases = list(all_cases(case))
    if learn:
        paths = dict(zip(("train", "validation"), learn, strict=True))
        more = {"what": "learn", "dropout": dropout, "minutes": minutes}
        cases = [{**case, **paths, **more}]
    begin = time.monotonic()
    known = known_rows(pathlib.Path(f"{out}.json"))
    rows: list[dict[str, Any]] = []
    for chosen in cases:
        before = [row for row in known if chosen.items() <= row.items()]
        if before:
            rows.append(before[0])
            continue
        left = 60 * minutes - (time.monotonic() - begin)
        rows.append({**chosen, **answer_of(chosen, left + 60 * bool(learn))})
        pathlib.Path(f"{out}.json").write_text(json.dumps(rows, indent=1))
        pathlib.Path(f"{out}.md").write_text(table(rows))
        click.echo(f"{len(rows)} of {len(cases)}: {line_of(rows[-1])}")
    click.echo(table(rows))


def known_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return the rows of a run before that were measured."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text())
    return [row for row in rows if "error" not in row]


def all_cases(case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the cases, what matters most first."""
    is_small = case["smoke"]
    yield {"what": "products", "smoke": is_small}
    yield {
        **case,
        "what": "peer",
        "decoder": "PyTorch",
        "precision": "bfloat16",
        "steps": 2 if is_small else 100,
    }
    for precision, share in (
        ("mixed_float16", 1),
        ("mixed_bfloat16", 1),
        # A second batch size tells what memory each picture takes.
        ("mixed_float16", 4),
        ("float32", 1),
    ):
        if is_small and precision != "mixed_float16":
            continue
        for decoder in DECODERS[: 1 if is_small else None]:
            # So many that overflows would show.
            is_long = (decoder, precision, share) == LONG_CASE
            yield {
                **case,
                "what": "train",
                "decoder": decoder,
                "precision": precision,
                "batch_size": case["batch_size"] // share or 1,
                "steps": 30 if is_small else 1000 if is_long else 100,
            }


def answer_of(case: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Run a case in a process of its own; return what it says."""
    if seconds <= 0:
        return {"error": "no time was left"}
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return {"error": "no time was left"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        errors = [e for e in done.stderr.strip().splitlines() if e.strip()]
        sys.stderr.write(done.stderr[-3000:])
        return {"error": next(reversed(errors), f"exit {done.returncode}")}
    return json.loads(lines[-1])


def line_of(row: dict[str, Any]) -> str:
    """Return in a line what a case was and gave."""
    names = ("what", "decoder", "precision", "batch_size")
    case = " ".join(str(row[name]) for name in names if name in row)
    if "error" in row:
        return f"{case}: {row['error']}"
    rate = row.get("pixels_per_second")
    return case if rate is None else f"{case}: {rate:,.0f} pixels/s"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the answers in Markdown."""
    lines = []
    peak = 0.0
    for row in rows:
        if row["what"] == "products" and "tflops" in row:
            products = row["tflops"]
            peak = max(products.values())
            of_each = ", ".join(f"{k} {v:.4g}" for k, v in products.items())
            lines += [f"{row['device']}, products: {of_each} TFLOP/s", ""]
        if row["what"] == "learn" and "curve" in row:
            lines += [""] * bool(lines)
            lines += [f"Dropout {row['dropout']}, bits per channel:", ""]
            lines += ["| seconds | steps | training | validation |"]
            lines += ["|---:|---:|---:|---:|"]
            lines += [
                f"| {s:.0f} | {n} | {t:.3f} | {v:.3f} |"
                for s, n, t, v in row["curve"]
            ]
    if all(row["what"] == "learn" for row in rows):
        return "\n".join(lines) + "\n"
    lines += [
        "",
        "| model | precision | batch | parameters | pixels/s | ms a step "
        "| of the peak | GiB | first step, s | bits/pixel, from and to |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row["what"] not in ("train", "peer"):
            continue
        name = (
            f"| {row['decoder']} | {row['precision']} | {row['batch_size']} |"
        )
        if "error" in row:
            lines.append(f"{name} {row['error'][:120]} |||||||")
            continue
        rate = row["pixels_per_second"]
        share = rate * row["flops_per_pixel"] / (peak * 1e12) if peak else 0
        lines.append(
            f"{name} {row['parameters']:,} | {rate:,.0f} "
            f"| {1000 * row['batch_size'] * SIZE * SIZE / rate:.1f} "
            f"| {share:.1%} | {row['peak_bytes'] / GIB:.2f} "
            f"| {row['first_seconds']:.0f} "
            f"| {row['losses'][0]:.2f} {row['losses'][-1]:.2f} |"
        )
    return "\n".join([*lines, *_batches_within(rows, 10)]) + "\n"


def _batches_within(rows: list[dict[str, Any]], gigabytes: int) -> list[str]:
    """Infer from two batch sizes what fits, as memory grows evenly."""
    lines = [""]
    for decoder in DECODERS:
        points = sorted(
            (row["batch_size"], row["peak_bytes"])
            for row in rows
            if row.get("decoder") == decoder
            and row["precision"] == "mixed_float16"
            and "peak_bytes" in row
        )
        if len(points) < 2:
            continue
        (small, little), (large, much) = points[0], points[-1]
        each = (much - little) / (large - small)
        fixed = little - small * each
        fits = int((gigabytes * 1e9 - fixed) / each) if each > 0 else 0
        lines.append(
            f"{decoder}: {each / 1e6:.1f} MB a picture, so {fits} pictures "
            f"within {gigabytes} GB."
        )
    return lines


def products(smoke: bool, **unused: Any) -> dict[str, Any]:
    """Time large matrix products: what the device can give."""
    import jax
    import jax.numpy as jnp

    side = 512 if smoke else 8192
    tflops = {}
    for name, dtype, precision in (
        ("float32", "float32", "highest"),
        ("float32 by default", "float32", "default"),
        ("float16", "float16", "default"),
        ("bfloat16", "bfloat16", "default"),
    ):
        keys = jax.random.split(jax.random.key(0))
        a, b = (jax.random.normal(k, (side, side), dtype) for k in keys)

        @jax.jit
        def multiply(a: Any, b: Any, precision: str = precision) -> Any:
            return jnp.matmul(a, b, precision=precision)

        multiply(a, b).block_until_ready()
        begin, count = time.perf_counter(), 10
        for _ in range(count):
            result = multiply(a, b)
        result.block_until_ready()
        spent = (time.perf_counter() - begin) / count
        tflops[name] = 2 * side**3 / spent / 1e12
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "jax": jax.__version__,
        "tflops": tflops,
    }


def fit_tokens(
    model_config: dict[str, Any],
    arguments: dict[str, Any],
    palette: str,
    tokens: tuple[np.ndarray, np.ndarray],
    budget: tuple[int | None, float | None],
) -> tuple[Any, list[dict[str, float]]]:
    """Train by the loop of `fit`.

    Args:
        model_config: See `run_folder.create_run`.
        arguments: `preset`, `batch_size` and `precision`.
        palette: The colors, such as `"rgb 4,5,4"`.
        tokens: Training and validation, int32 `(N, SIZE * SIZE)`.
        budget: Epochs, and minutes; one of them None.

    Returns:
        The model, and the history.
    """
    import keras

    from pixace_tf.data.palette import Palette
    from pixace_tf.data.token_dataset import TokenDataset
    from pixace_tf.data.tokenizer import PixelTokenizer
    from pixace_tf.model.presets import LEARNING_RATES
    from pixace_tf.runs import run_config, run_folder
    from pixace_tf.training import devices, loop
    from pixace_tf.training.training_arguments import TrainingArguments

    devices.leave_gpu_to_backend()
    keras.utils.set_random_seed(0)
    data = TokenDataset(
        train=tokens[0],
        validation=tokens[1],
        train_labels=np.zeros(len(tokens[0]), np.int32),
        validation_labels=np.zeros(len(tokens[1]), np.int32),
        label_names=[""],
        skipped=[],
        fingerprint="",
    )
    rate = LEARNING_RATES[arguments["preset"]]
    arguments = {**arguments, "learning_rate": rate, "seed": 0}
    tokenizer = PixelTokenizer((SIZE, SIZE), Palette.get(palette))
    with tempfile.TemporaryDirectory() as folder:
        run = run_folder.create_run(
            folder, tokenizer, model_config, arguments, arguments["precision"]
        )
        limits = TrainingArguments(
            epochs=budget[0], max_minutes=budget[1], checkpoint_seconds=1e9
        )
        loop.train(run, data, limits, lambda line: None)
        with open(run.file(run_config.HISTORY_FILE)) as file:
            return run.model, json.load(file)


def train(
    preset: str,
    batch_size: int,
    decoder: str,
    precision: str,
    steps: int,
    smoke: bool,
    **unused: Any,
) -> dict[str, Any]:
    """Train on drawn faces; speed, memory and loss."""
    drawn = drawn_tokens(4 if smoke else 256)
    # An eleventh of the epochs compiles.
    token_ids = np.resize(drawn, (steps // 10 * batch_size, SIZE**2))
    model, history = fit_tokens(
        model_config(preset, decoder),
        {"preset": preset, "batch_size": batch_size, "precision": precision},
        PALETTE,
        (token_ids, token_ids[:0]),
        (11, None),
    )
    speed = history[-1]["images_per_second"]
    return {
        "parameters": model.num_parameters,
        "first_seconds": history[0]["seconds"],
        "pixels_per_second": speed * SIZE**2,
        "flops_per_pixel": 3 * forward_flops(model) / SIZE**2,
        "peak_bytes": peak_bytes(),
        "steps": steps,
        "losses": [entry["bits_per_pixel"] for entry in history],
    }


def peer(
    preset: str, batch_size: int, steps: int, smoke: bool, **unused: Any
) -> dict[str, Any]:
    """Train PyTorch's transformer of the same sizes, compiled, in bfloat16."""
    import torch
    import torch_gpt

    from pixace_tf.model.presets import decoder_config

    sizes = decoder_config(preset, "transformer", SIZE)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    model = torch_gpt.PixelGPT(
        sizes["num_layers"], sizes["num_heads"], sizes["hidden_dim"], SIZE**2
    ).to(device)
    step = torch_gpt.training_step(model, not smoke, "bfloat16")
    token_ids = torch.from_numpy(drawn_tokens(4 if smoke else 256)).long()
    token_ids = token_ids.to(device)

    def run(count: int) -> float:
        """Take some steps; return the last loss in bits."""
        for i in range(count):
            index = torch.arange(batch_size) + i * batch_size
            loss = step(token_ids[index % len(token_ids)], 1e-3)
        return loss.item() / math.log(2)

    begin = time.perf_counter()
    losses = [run(1)]
    first_seconds = time.perf_counter() - begin
    run(2)
    begin = time.perf_counter()
    losses.append(run(steps))
    spent = time.perf_counter() - begin
    parameters = sum(p.numel() for p in model.parameters())
    # Per pixel: two operations for each weight of a product, and attention.
    positions = model.positions.numel() + model.embed.weight.numel()
    attention = 2 * sizes["num_layers"] * sizes["hidden_dim"] * SIZE**2
    flops = 3 * (2 * (parameters - positions) + attention)
    return {
        "parameters": parameters,
        "first_seconds": first_seconds,
        "pixels_per_second": steps * batch_size * SIZE**2 / spent,
        "flops_per_pixel": flops,
        "peak_bytes": (
            torch.cuda.max_memory_allocated() if device == "cuda" else 0
        ),
        "steps": steps,
        "losses": losses,
    }


def learn(
    preset: str,
    batch_size: int,
    train: str,
    validation: str,
    dropout: float,
    minutes: float,
    smoke: bool,
    **unused: Any,
) -> dict[str, Any]:
    """Train on pictures in RGB 888, mirrored at random; bits per channel."""
    palette, precision = "rgb 8,8,8", "mixed_bfloat16"
    token_ids, others = (
        tokens_of(np.load(path)["x"], palette) for path in (train, validation)
    )
    model, history = fit_tokens(
        {**model_config(preset, "multiscale", dropout), "orders": (0, 0)},
        {"preset": preset, "batch_size": batch_size, "precision": precision},
        palette,
        (token_ids, others),
        (None, minutes),
    )
    steps = len(token_ids) // batch_size
    curve = [
        [
            entry["seconds"],
            round(entry["epoch"] * steps),
            entry["bits_per_pixel"] / 3,
            entry["val_bits_per_pixel"] / 3,
        ]
        for entry in history
        if "val_bits_per_pixel" in entry
    ]
    return {"parameters": model.num_parameters, "curve": curve}


def model_config(
    preset: str, decoder: str, dropout: float = 0.0
) -> dict[str, Any]:
    """Return the arguments of the model."""
    from pixace_tf.model.presets import decoder_config

    sizes = decoder_config(preset, decoder, SIZE)
    return {"decoder": decoder, "decoder_config": sizes, "dropout": dropout}


def drawn_tokens(count: int) -> np.ndarray:
    """Draw faces; return int32 tokens `(count, SIZE * SIZE)`."""
    from pixace_tf.data import cartoons

    species = list(cartoons.SPECIES)
    faces = [
        cartoons.draw(species[i % len(species)], str(i)).resize((SIZE, SIZE))
        for i in range(count)
    ]
    return tokens_of(np.stack([np.asarray(face) for face in faces]), PALETTE)


def tokens_of(pictures: np.ndarray, palette: str) -> np.ndarray:
    """Pack uint8 RGB pictures `(B, H, W, 3)` to int32 tokens `(B, H * W)`."""
    from pixace_tf.data.palette import Palette

    colors = Palette.get(palette)
    channels = [
        pictures[..., c].astype(np.int32) >> (8 - bits)
        for c, bits in enumerate(colors.bit_widths)
    ]
    return colors.pack(channels).reshape(len(pictures), -1)


def forward_flops(model: Any) -> float:
    """Return the operations of a forward pass over one picture.

    Two for each multiplication of the matrix products, by the law of sizes.
    """
    from pixace_tf.training.size_law import macs_per_pixel

    sizes = model.get_config()["decoder_config"]
    return 2 * macs_per_pixel(sizes, SIZE**2) * SIZE**2


def peak_bytes() -> int:
    """Return the most memory of the device that was in use, 0 if unknown."""
    import keras

    if keras.backend.backend() != "jax":
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            return 0
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    import jax

    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use", 0)


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "products": products,
    "train": train,
    "peer": peer,
    "learn": learn,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        chosen = json.loads(sys.argv[2])
        print(json.dumps(CASES[chosen["what"]](**chosen)))
    else:
        main()
