"""What a GPU gives: speed, memory and stability of training, beside PyTorch.

Needs Keras with JAX and, for the peer, PyTorch; no TensorFlow. Each row is a
process of its own and is written as soon as it is known; the same command goes
on with what is missing. With --learn it trains on pictures instead, and tells
the bits per channel of others.

Command:  python pipelines/gpu_check.py --out gpu_check
Hardware: one NVIDIA GPU with 40 GB or more
Time:     9 minutes; a minute with --smoke on a CPU
Expected: pipelines/results/gpu-check.md
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import numpy as np

os.environ["KERAS_BACKEND"] = "jax"
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
                "steps": 10 if is_small else 1000 if is_long else 100,
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


def train(
    preset: str,
    batch_size: int,
    decoder: str,
    precision: str,
    steps: int,
    smoke: bool,
    **unused: Any,
) -> dict[str, Any]:
    """Train on drawn faces by `model.fit`; speed, memory and loss."""
    import jax

    from pixace_tf.training.compile import compile_model

    model = build(preset, decoder, precision, PALETTE)
    compile_model(model, 1e-3, True)
    token_ids = drawn_tokens(4 if smoke else 256)

    def run(count: int) -> float:
        """Take some steps; return their mean loss in bits."""
        order = np.resize(
            np.random.default_rng(count).permutation(len(token_ids)),
            count * batch_size,
        )
        history = model.fit(
            token_ids[order],
            token_ids[order],
            batch_size=batch_size,
            shuffle=False,
            verbose=0,
        )
        return history.history["loss"][-1] / math.log(2)

    begin = time.perf_counter()
    losses = [run(1)]
    first_seconds = time.perf_counter() - begin
    run(2)
    begin = time.perf_counter()
    losses += [run(steps // 10) for _ in range(10)]
    spent = time.perf_counter() - begin
    if not all(map(math.isfinite, losses)):
        raise SystemExit(f"The loss is not a number: {losses}")
    return {
        "parameters": model.num_parameters,
        "first_seconds": first_seconds,
        "pixels_per_second": steps // 10 * 10 * batch_size * SIZE**2 / spent,
        "flops_per_pixel": 3 * forward_flops(model) / SIZE**2,
        "peak_bytes": peak_bytes(jax),
        "steps": steps,
        "losses": losses,
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
    # Of each pixel: two operations for a weight of a product, and attention.
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
    import keras

    from pixace_tf.training.compile import compile_model
    from pixace_tf.training.schedule import learning_rate_share

    keras.utils.set_random_seed(0)
    palette = "rgb 8,8,8"
    model = build(preset, "multiscale", "mixed_bfloat16", palette, dropout)
    compile_model(model, 1e-3, True)
    pictures, others = (
        tokens_of(np.load(path)["x"], palette) for path in (train, validation)
    )
    rng = np.random.default_rng(0)
    curve: list[list[float]] = []
    begin, steps = time.perf_counter(), 0
    per_dimension = 1 / math.log(2) / 3
    share = 0.0

    class Clock(keras.callbacks.Callback):
        """Keeps the learning rate and the end."""

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            nonlocal share, steps
            share = (time.perf_counter() - begin) / 60 / minutes
            share = min(share, 1.0)
            if steps % 8 == 0:
                # JAX's state lies outside of the variables during training.
                self.model.jax_state_sync()
                rate = 1e-3 * learning_rate_share(share, steps)
                self.model.optimizer.learning_rate.assign(rate)
            steps += 1
            self.model.stop_training = share >= 1

    while share < 1:
        grid = pictures.reshape(-1, SIZE, SIZE)
        is_mirrored = rng.random(len(grid)) < 0.5
        grid = np.where(is_mirrored[:, None, None], grid[:, :, ::-1], grid)
        shuffled = rng.permutation(grid.reshape(len(grid), -1))
        most = len(shuffled) // batch_size * batch_size
        history = model.fit(
            shuffled[:most],
            shuffled[:most],
            batch_size=batch_size,
            shuffle=False,
            verbose=0,
            callbacks=[Clock()],
        )
        if share >= 1 or len(curve) < 8 * share:
            loss = model.evaluate(others, others, batch_size=50, verbose=0)
            curve.append(
                [
                    time.perf_counter() - begin,
                    steps,
                    history.history["loss"][-1] * per_dimension,
                    loss * per_dimension,
                ]
            )
    return {"parameters": model.num_parameters, "curve": curve}


def build(
    preset: str,
    decoder: str,
    precision: str,
    palette: str,
    dropout: float = 0.0,
) -> Any:
    """Return a model of this program."""
    from pixace_tf.model.causal_lm import PixaceCausalLM
    from pixace_tf.model.presets import decoder_config

    return PixaceCausalLM(
        (SIZE, SIZE),
        palette,
        decoder,
        decoder_config(preset, decoder, SIZE),
        dropout=dropout,
        dtype=precision,
    )


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
    """Return the operations of a forward pass over one picture, by XLA."""
    import jax

    def shapes(variables: Any) -> list[Any]:
        return [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in variables]

    def forward(weights: Any, others: Any, token_ids: Any) -> Any:
        return model.stateless_call(weights, others, token_ids)[0]

    # Only XLA for CPUs counts them before it compiles.
    with jax.default_device(jax.devices("cpu")[0]):
        lowered = jax.jit(forward).lower(
            shapes(model.trainable_variables),
            shapes(model.non_trainable_variables),
            jax.ShapeDtypeStruct((1, model.sequence_length), "int32"),
        )
    return float(lowered.cost_analysis()["flops"])


def peak_bytes(jax: Any) -> int:
    """Return the most memory of the device that was in use, 0 if unknown."""
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
