"""The worth of each part of the recipe, at equal time or equal pictures.

An arm changes the recipe of today in one or more ways, joined by `+`:

- the size of a part, such as `hidden_dim=192` (every size of `decoder_config`);
- an argument of AdamW, such as `weight_decay=0.1`;
- `rate:embed=3`: weights with `embed` in their path learn three times as fast;
- `batch_size=8`, `learning_rate=2` (times that of the preset), `dropout=0.1`;
- `orders=0.8`, several raster orders, so many images in the first one;
- `labels=0.5`, class folders as labels, so many images without theirs;
- `head_hidden_dim=128`, the width of the head's hidden layers;
- or a name in `CHANGES`, such as `cosine`.

`recipe` is that of today. Arms train one after the other, each in a process of
its own, for the same minutes without compilation, or with `--pictures` on as
many pictures, which does not depend on what else the machine does. The results
are kept as they come, and what is there already is not measured again.

Command:  python pipelines/ablate.py FOLDER --arms recipe,cosine \
              --minutes 1,5,20 --seeds 2 --out pipelines/results/ablation-NAME
Hardware: 2 CPU cores
Time:     minutes x arms x seeds, and 40 seconds on top of each
Expected: pipelines/results/ablation-*.md and .png
"""

import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import ablation_layers
import click
import keras
import numpy as np
from matplotlib.figure import Figure
from origin import origin

from pixace_tf.data import labels, raster_orders, token_dataset
from pixace_tf.data.palette import Palette
from pixace_tf.data.tokenizer import PixelTokenizer
from pixace_tf.model import (
    causal_lm,
    multiscale_decoder,
    pixel_inputs,
    transformer_stack,
)
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import (
    LEARNING_RATES,
    decoder_config,
    head_hidden_dim,
)
from pixace_tf.painting import sheets
from pixace_tf.sampling.likelihood import Scorer
from pixace_tf.storage import write_atomic
from pixace_tf.training import schedule
from pixace_tf.training.compile import compile_model

VALIDATION_IMAGES = 400
_WHOLE_NUMBERS = ("batch_size", "head_hidden_dim")


@dataclasses.dataclass
class Recipe:
    """How to build and train a model.

    Attributes:
        decoder_config: Sizes that differ from the preset's.
        optimizer: Arguments of AdamW that differ from those of `fit`.
        learning_rate: The peak, as a multiple of the preset's.
        rates: Learning rates of weights, relative to that of all, by a part of
            their paths.
        dropout: Rate in `[0, 1)`.
        batch_size: Images per update.
        head_hidden_dim: Width of the head's hidden layers, or 0 for that of
            the package.
        schedule: Takes the share of the budget and the updates, and returns
            the learning rate relative to its peak.
        layer: Class of the decoder layers, or None for that of the package.
        stack: Class of the stacks, or None for that of the package.
        decoder: Class of the decoder, or None for that of the package.
        layer_of_local: Class of the layers of the local stack, or None.
        model: Class of the model.
        inputs: Names of `pixel_inputs` that get other values.
        plain_shares: How many of the images are read in the first `orders`, and
            how many without their `labels`; by default all.
        prepare: Called with the new model.
    """

    decoder_config: dict[str, int] = dataclasses.field(default_factory=dict)
    optimizer: dict[str, float] = dataclasses.field(default_factory=dict)
    learning_rate: float = 1.0
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    dropout: float = 0.0
    batch_size: int = 4
    head_hidden_dim: int = 0
    schedule: Callable[[float, int], float] = schedule.learning_rate_share
    layer: Any = None
    stack: Any = None
    decoder: Any = None
    layer_of_local: Any = None
    model: Any = PixaceCausalLM
    inputs: dict[str, Any] = dataclasses.field(default_factory=dict)
    plain_shares: dict[str, float] = dataclasses.field(default_factory=dict)
    prepare: list[Callable[[PixaceCausalLM], None]] = dataclasses.field(
        default_factory=list
    )


def cosine(share: float, updates: int) -> float:
    """Warm up as `fit` does, then fall as a cosine does."""
    low = schedule.FINAL_LEARNING_RATE_SHARE
    line = low + (1 - low) * (1 - share)
    curve = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))
    return schedule.learning_rate_share(share, updates) * curve / line


CHANGES: dict[str, Callable[[Recipe], None]] = {
    "recipe": lambda recipe: None,
    "cosine": lambda recipe: setattr(recipe, "schedule", cosine),
    "glorot_init": lambda recipe: recipe.prepare.append(
        ablation_layers.glorot_outputs
    ),
    "qk_norm": lambda recipe: setattr(
        recipe, "layer", ablation_layers.QueryKeyNormLayer
    ),
    "gelu": lambda recipe: setattr(recipe, "layer", ablation_layers.GeluLayer),
    "skips": lambda recipe: setattr(recipe, "stack", ablation_layers.SkipStack),
    "copy_prior": lambda recipe: setattr(
        recipe, "model", ablation_layers.CopyPriorLM
    ),
    "no_local_attention": lambda recipe: setattr(
        recipe, "layer_of_local", ablation_layers.FeedForwardLayer
    ),
    "neighbors_6": lambda recipe: recipe.inputs.update(
        NEIGHBORS=ablation_layers.SIX_NEIGHBORS
    ),
    "neighbors_24": lambda recipe: recipe.inputs.update(
        NEIGHBORS=ablation_layers.MANY_NEIGHBORS, MARGIN=3
    ),
    "neighbor_states": lambda recipe: setattr(
        recipe,
        "decoder",
        ablation_layers.looking(ablation_layers.NeighborStates),
    ),
    "neighbor_states_32": lambda recipe: setattr(
        recipe,
        "decoder",
        ablation_layers.looking(ablation_layers.WideNeighborStates),
    ),
    "row_above": lambda recipe: setattr(
        recipe, "decoder", ablation_layers.looking(ablation_layers.RowAbove)
    ),
}


def parse(arm: str) -> Recipe:
    """Return the recipe of an arm.

    Raises:
        click.ClickException: If a part of the arm is not known.
    """
    recipe = Recipe()
    for part in arm.split("+"):
        name, _, value = part.partition("=")
        if not value and name in CHANGES:
            CHANGES[name](recipe)
        elif value and name.startswith("rate:"):
            recipe.rates[name.removeprefix("rate:")] = float(value)
        elif value and name in ("orders", "labels"):
            recipe.plain_shares[name] = float(value)
        elif value and name in ("learning_rate", "dropout"):
            setattr(recipe, name, float(value))
        elif value and name in _WHOLE_NUMBERS:
            setattr(recipe, name, int(value))
        elif value and name == "embedding_dim":
            recipe.inputs["EMBEDDING_DIM"] = int(value)
        elif value and name in ("beta_1", "beta_2", "weight_decay"):
            recipe.optimizer[name] = float(value)
        elif value.isdigit():
            recipe.decoder_config[name] = int(value)
        else:
            raise click.ClickException(
                f"A part of an arm is NAME=VALUE or one of "
                f"{', '.join(CHANGES)}. Received: {part}"
            )
    return recipe


def train(case: dict[str, Any]) -> dict[str, Any]:
    """Train one arm; see `measure` for what is in a case."""
    recipe, size = parse(case["arm"]), case["image_size"]
    tokenizer = PixelTokenizer((size, size), Palette.parse(case["palette"]))
    data = token_dataset.load(case["folder"], tokenizer, case["cache"])
    data.save(case["cache"])
    keras.utils.set_random_seed(case["seed"])
    orders = raster_orders.vector_rows(
        (size, size), case["flip"], "orders" in recipe.plain_shares
    )
    names = labels.choose(data.label_counts(), "labels" in recipe.plain_shares)
    raster_orders.FIRST_SHARE = recipe.plain_shares.get("orders", 1.0)
    vars(token_dataset)["NULL_SHARE"] = recipe.plain_shares.get("labels", 1.0)
    model = build(recipe, case["preset"], tokenizer, orders, names)
    peak = recipe.learning_rate * LEARNING_RATES[case["preset"]]
    compile_model(model, peak, True)
    adapt(model.optimizer, recipe)
    batches = iter(
        token_dataset.training_batches(
            data.rows(model.labels),
            tokenizer.image_size,
            recipe.batch_size,
            case["seed"],
            model.orders,
        )
    )
    model.optimizer.learning_rate.assign(0.0)
    model.train_on_batch(*next(batches))  # It compiles.
    losses: list[float] = []
    times: list[float] = []
    share = 0.0
    while share < 1:
        factor = recipe.schedule(share, len(losses))
        model.optimizer.learning_rate.assign(peak * factor)
        begin = time.perf_counter()
        losses.append(float(model.train_on_batch(*next(batches))))
        times.append(time.perf_counter() - begin)
        if case["unit"] == "minutes":
            share = sum(times) / 60 / case["budget"]
        else:
            share = len(losses) * recipe.batch_size / case["budget"]
    scorer = Scorer(model, 4)
    bits = scorer.bits(data.validation[:VALIDATION_IMAGES])
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "bits_per_pixel": float(bits.mean()),
        "training_bits_per_pixel": float(np.mean(tail) / math.log(2)),
        "parameters": model.num_parameters,
        "pixels": len(losses) * recipe.batch_size * size * size,
        "updates": len(losses),
        "pixels_per_second": recipe.batch_size * size**2 / np.median(times),
    }


def adapt(optimizer: keras.optimizers.Optimizer, recipe: Recipe) -> None:
    """Give an optimizer the arguments and the rates of a recipe."""
    for name, value in recipe.optimizer.items():
        setattr(optimizer, name, value)
    update = optimizer.update_step

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = optimizer._get_variable_index(variable)
        path = optimizer._trainable_variables[index].path
        for part, rate in recipe.rates.items():
            if part in path:
                learning_rate = learning_rate * rate
        update(gradient, variable, learning_rate)

    optimizer.update_step = update_step


def build(
    recipe: Recipe,
    preset: str,
    tokenizer: PixelTokenizer,
    orders: Sequence[int],
    names: Sequence[str],
) -> PixaceCausalLM:
    """Build the model of a recipe, with these orders and labels."""
    image_size = tokenizer.image_size
    sizes = decoder_config(preset, "multiscale", image_size[1])
    own, package = recipe.decoder_config, dict(sizes)
    for prefix in ("", "local_"):  # Heads and feed-forward follow the width.
        width = own.get(f"{prefix}hidden_dim", package[f"{prefix}hidden_dim"])
        head = package[f"{prefix}hidden_dim"] // package[f"{prefix}num_heads"]
        sizes[f"{prefix}num_heads"] = width // head
        wider = (
            package[f"{prefix}intermediate_dim"]
            // (package[f"{prefix}hidden_dim"])
        )
        sizes[f"{prefix}intermediate_dim"] = wider * width
    sizes.update(own)
    if recipe.inputs:
        for module in (pixel_inputs, causal_lm):
            vars(module).update(recipe.inputs)
    if recipe.layer:
        vars(transformer_stack)["CausalDecoderLayer"] = recipe.layer
    if recipe.stack:
        vars(multiscale_decoder)["TransformerStack"] = recipe.stack
    if recipe.layer_of_local:
        ablation_layers.use_local_layer(recipe.layer_of_local)
    if recipe.decoder:
        causal_lm.DECODERS["multiscale"] = recipe.decoder
    model: PixaceCausalLM = recipe.model(
        image_size,
        tokenizer.palette,
        "multiscale",
        sizes,
        dropout=recipe.dropout,
        head_hidden_dim=recipe.head_hidden_dim
        or head_hidden_dim("chain", preset, "multiscale"),
        orders=orders,
        labels=names,
    )
    for prepare in recipe.prepare:
        prepare(model)
    return model


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Train one arm in a process of its own.

    Args:
        case: `folder`, `cache`, `image_size`, `palette`, `preset`, `flip`,
            `arm`, `budget`, its `unit` and `seed`.

    Returns:
        The arm with its figures.

    Raises:
        click.ClickException: If the process failed.
    """
    command = [sys.executable, os.path.abspath(__file__), "--case"]
    done = subprocess.run(
        [*command, json.dumps(case)], capture_output=True, text=True
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["killed"]
        raise click.ClickException(f"{case['arm']} failed: {reason[0]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    key = {name: case[name] for name in ("arm", "budget", "unit", "seed")}
    return {**key, **figures}


def table(records: list[dict[str, Any]]) -> list[str]:
    """Return lines of Markdown: an arm a row, a budget a column."""
    arms = list(dict.fromkeys(r["arm"] for r in records))
    budgets = sorted({r["budget"] for r in records})
    bits = {(r["arm"], r["budget"], r["seed"]): r for r in records}
    unit = records[0]["unit"]
    head = " | ".join(f"{b:g} {unit} | to `{arms[0]}`" for b in budgets)
    lines = [
        f"| arm | parameters | pixels/s | {head} |",
        "|---|" + "---:|" * (2 + 2 * len(budgets)),
    ]
    for arm in arms:
        own = [r for r in records if r["arm"] == arm]
        speed = np.median([r["pixels_per_second"] for r in own])
        cells = [f"`{arm}`", f"{own[0]['parameters'] / 1e6:.2f} M"]
        cells.append(f"{speed:,.0f}")
        for budget in budgets:
            here = [r for r in own if r["budget"] == budget]
            values = [r["bits_per_pixel"] for r in here]
            pairs = [
                r["bits_per_pixel"]
                - bits[arms[0], budget, r["seed"]]["bits_per_pixel"]
                for r in here
                if (arms[0], budget, r["seed"]) in bits
            ]
            cells.append(f"{np.mean(values):.3f}" if values else "")
            cells.append(f"{np.mean(pairs):+.3f}" if pairs else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


@click.command()
@click.argument("folder", required=False)
@click.option("--arms", default="recipe")
@click.option("--minutes", default="1,5,20")
@click.option("--pictures", help="Take these budgets instead of minutes.")
@click.option("--seeds", default=2)
@click.option("--preset", default="nano")
@click.option("--image-size", default=32)
@click.option("--palette", default="hsv 5,4,4")
@click.option("--flip/--no-flip", default=True)
@click.option("--out")
@click.option("--case", hidden=True)
def main(
    folder: str | None,
    arms: str,
    minutes: str,
    pictures: str | None,
    seeds: int,
    out: str | None,
    case: str | None,
    **fixed: Any,
) -> None:
    """Train each arm on FOLDER for each number of minutes."""
    if case is not None:
        click.echo(json.dumps(train(json.loads(case))))
        return
    if folder is None or out is None:
        raise click.UsageError("FOLDER and --out are needed.")
    for arm in arms.split(","):
        parse(arm)
    path = f"{out}.json"
    records = []
    if os.path.exists(path):
        with open(path) as file:
            records = json.load(file)["records"]
    unit = "pictures" if pictures else "minutes"
    is_done = {(r["arm"], r["budget"], r["unit"], r["seed"]) for r in records}
    cache = os.path.abspath(f"{out}.npz")
    todo = [
        {"arm": arm, "budget": budget, "unit": unit, "seed": seed}
        for budget in map(float, (pictures or minutes).split(","))
        for seed in range(seeds)
        for arm in arms.split(",")
        if (arm, budget, unit, seed) not in is_done
    ]
    save = functools.partial(_save, out, fixed, os.path.basename(folder))
    for one in todo:
        record = measure({"folder": folder, "cache": cache, **fixed, **one})
        click.echo(json.dumps(record))
        records.append(record)
        save(records)
    click.echo("\n".join(table(records)))


def draw(records: list[dict[str, Any]]) -> Figure:
    """Return a plot: each arm's difference to the first one."""
    arms = list(dict.fromkeys(r["arm"] for r in records))
    budgets = sorted({r["budget"] for r in records})
    bits = {(r["arm"], r["budget"], r["seed"]): r for r in records}
    figure = Figure((8, 1.2 + 0.28 * len(arms)), layout="constrained")
    axes = figure.add_subplot()
    for index, budget in enumerate(budgets):
        points = [
            (
                record["bits_per_pixel"] - first["bits_per_pixel"],
                arms.index(record["arm"]) + 0.2 * index,
            )
            for record in records
            if record["budget"] == budget
            and (first := bits.get((arms[0], budget, record["seed"])))
        ]
        if not points:
            continue  # The first arm has no such budget.
        label = f"{budget:g} {records[0]['unit']}"
        axes.plot(*zip(*points, strict=True), "o", markersize=4, label=label)
    axes.axvline(0, color="gray", linewidth=1)
    axes.set_yticks(range(len(arms)), arms)
    axes.invert_yaxis()
    axes.set_xlabel("bits/pixel more than the first arm; less is better")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside right upper")  # It would cover points.
    return figure


def _save(
    out: str, fixed: dict[str, Any], name: str, records: list[dict[str, Any]]
) -> None:
    text = json.dumps({"records": records, "origin": origin()})
    write_atomic(f"{out}.json", text.encode())
    lines = [
        f"# Parts of the recipe, on {name}",
        "",
        f"{fixed['preset']} multiscale, {fixed['palette']} at "
        f"{fixed['image_size']}x{fixed['image_size']}; bits per pixel of "
        f"{VALIDATION_IMAGES} validation images after the same "
        f"{records[0]['unit']} of training, compilation apart, and the mean "
        "difference to the first arm with the same seed.",
        "",
        f"![Differences]({os.path.basename(out)}.png)",
        "",
        *table(records),
        "",
        *origin(),
    ]
    write_atomic(f"{out}.md", ("\n".join(lines) + "\n").encode())
    sheets.save_figure(draw(records), f"{out}.png", dpi=110)


if __name__ == "__main__":
    main()
