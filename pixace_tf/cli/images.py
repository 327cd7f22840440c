"""Commands for images: check, tokenize, compare palettes, draw."""

import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from pixace_tf.cli.group import main, needs_tensorflow, say
from pixace_tf.cli.options import (
    BIT_WIDTHS,
    IMAGE_SIZE,
    SHARE,
    download,
    handing_over,
    max_megapixels,
    options_of,
    scale,
)
from pixace_tf.training.pixel_art import settled, suggestion
from pixace_tf.training.training_arguments import TrainingArguments

if TYPE_CHECKING:
    from pixace_tf.data.image_files import Skipped
    from pixace_tf.painting.cut_sheet import CutScan

# The fields of `TrainingArguments` that cut files into pictures.
CUTTING = ("tiles", "tiles_gap", "tiles_margin", "frames")


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options_of(TrainingArguments, *CUTTING)
@click.option(
    "--out",
    default="tiles.png",
    help="With --tiles or --frames: the picture to write, which shows the cut.",
)
@max_megapixels
@handing_over(arguments=TrainingArguments)
def scan(
    folder: str, as_json: bool, out: str, arguments: TrainingArguments
) -> None:
    """List the files below DIR that will not load, and why.

    With --tiles or --frames, also show how `fit` will cut them: the number of
    tiles, of empty and of equal ones, and a picture of the first sheets.

    \b
    Examples:
      pixace-tf scan data/animals
      pixace-tf scan sheets --tiles 16 --tiles-gap 1    # look at tiles.png
    """
    from pixace_tf import console
    from pixace_tf.data import image_files, pixel_art
    from pixace_tf.painting import sheets
    from pixace_tf.painting.cut_sheet import scan_cut

    sheets.check_image_path(out)
    cutting, max_pixels = arguments.cutting, arguments.max_pixels
    with console.ProgressBar("Reading images") as bar:
        result = image_files.scan(folder, max_pixels, bar.count)
    if cutting is not None:
        with console.ProgressBar("Cutting") as bar:
            cut = scan_cut(result, cutting, max_pixels, bar.count)
        _report_cut(cut, out, as_json)
        return
    if as_json:
        say(json.dumps(_listed(result.loads, result.skipped)))
        return
    _say_skipped(result.skipped)
    say(f"{len(result.loads)} load, {len(result.skipped)} skipped.")
    if pixel_art.is_likely(folder):
        say(suggestion(folder))


def _report_cut(cut: "CutScan", out: str, as_json: bool) -> None:
    """Write the picture that shows a cut, and report the counts."""
    from pixace_tf import console
    from pixace_tf.painting import sheets

    if picture := cut.picture():
        sheets.save_image(picture, out)
    if as_json:
        report = {**_listed(cut.loads, cut.skipped), **cut.as_json()}
        say(json.dumps({**report, "picture": out if picture else None}))
        return
    _say_skipped(cut.skipped)
    console.say_some(say, cut.lines())
    say(f"{len(cut.loads)} load, {len(cut.skipped)} skipped.")
    say(cut.summary() + (f": {out}" if picture else "."))


def _listed(loads: list[str], skipped: "list[Skipped]") -> dict[str, Any]:
    reasons = [{"path": s.path, "reason": s.reason} for s in skipped]
    return {"loads": loads, "skipped": reasons}


def _say_skipped(skipped: "list[Skipped]") -> None:
    from pixace_tf.data.image_files import printable

    for entry in skipped:
        say(f"skipped {printable(entry.path)}: {entry.reason}")


@main.command()
@click.argument("source", metavar="IMAGES")
@click.argument("out", metavar="OUT", type=click.Path(file_okay=False))
@options_of(TrainingArguments, "image_size", "bit_widths", "color_space")
@options_of(TrainingArguments, "alpha", "resize", "trim", "anchor")
@options_of(TrainingArguments, "pixel_art", *CUTTING)
@click.option(
    "--shard",
    type=SHARE,
    default="1/1",
    help="This machine is the I-th of N that share the folder OUT. Each takes "
    "a part; the last one to finish joins the parts.",
)
@click.option(
    "--dedup",
    is_flag=True,
    help="Drop images that equal another one after scaling.",
)
@click.option(
    "--chunk-size",
    type=click.IntRange(1),
    default=16384,
    help="Images in a shard; an interrupted command repeats the last one. "
    "A tar file is always one shard.",
)
@click.option(
    "--runner",
    metavar="RUNNER",
    help="Run on Apache Beam: DirectRunner, FlinkRunner, SparkRunner or "
    "DataflowRunner. Its workers see IMAGES and OUT at the same paths.",
)
@click.option(
    "--runner-option",
    "runner_options",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of Beam, such as direct_num_workers=4; can be repeated.",
)
@max_megapixels
@download
@handing_over(arguments=TrainingArguments)
@needs_tensorflow
def tokenize(
    source: str,
    out: str,
    arguments: TrainingArguments,
    shard: tuple[int, int],
    dedup: bool,
    chunk_size: int,
    runner: str | None,
    runner_options: tuple[str, ...],
) -> None:
    """Write the tokens of IMAGES to OUT, for data sets larger than memory.

    IMAGES is a folder, tfds:NAME[/CONFIG][:SPLIT], or tar files in the layout
    of WebDataset: a path or gs:// address, with wildcards in quotes. OUT gets
    ArrayRecord files and a manifest, and `pixace-tf fit OUT` trains on it. You
    can interrupt it at any time: the same command goes on where it stopped.

    \b
    Examples:
      pixace-tf tokenize photos photo-tokens
      pixace-tf tokenize 'shards/train-*.tar' tokens --image-size 24
      pixace-tf tokenize photos tokens --shard 2/4    # the second of 4
      pixace-tf tokenize photos tokens --runner DirectRunner \\
          --runner-option direct_num_workers=4
    """
    from pixace_tf import console
    from pixace_tf.data import tokenizing

    arguments = settled(arguments, say)
    run = None
    if runner is not None:
        from pixace_tf.data.beam import BeamRunner

        run = BeamRunner(runner, runner_options)
    with console.ProgressBar("Tokenizing") as bar:
        shards = tokenizing.tokenize(
            source,
            out,
            arguments.tokenizer(),
            is_alpha_open=arguments.alpha is None,
            shard=shard,
            run=run,
            progress=bar.count,
            say=say,
            max_pixels=arguments.max_pixels,
            download=arguments.download,
            dedup=dedup,
            chunk_size=chunk_size,
            cutting=arguments.cutting,
        )
    if shards is not None:
        say(f"Now try: pixace-tf fit {shlex.quote(out)}")


@main.command()
@click.argument("pictures", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--bit-widths",
    type=BIT_WIDTHS,
    multiple=True,
    default=["5,4,4", "4,3,3", "3,2,2"],
    help="Bits per color channel; repeat it for more columns.",
)
@click.option("--color-space", default="hsv", type=click.Choice(["hsv", "rgb"]))
@click.option("--image-size", type=IMAGE_SIZE, default="64")
@click.option("--out", default="palette.png", help="The sheet to write.")
@scale
def palette(
    pictures: tuple[str, ...],
    bit_widths: tuple[tuple[int, int, int], ...],
    color_space: str,
    image_size: tuple[int, int],
    out: str,
    scale: int | None,
) -> None:
    """Show each IMAGE with several bit widths, with PSNR and colors used.

    \b
    Example:
      pixace-tf palette cat.jpg --bit-widths 5,4,4 --bit-widths 3,2,2
    """
    from pixace_tf.data.palette import Palette
    from pixace_tf.data.tokenizer import PixelTokenizer
    from pixace_tf.painting import sheets
    from pixace_tf.painting.palette_sheet import palette_sheet

    sheets.check_image_path(out)
    tokenizers = [
        PixelTokenizer(image_size, Palette(color_space, widths))
        for widths in bit_widths
    ]
    sheets.save_image(palette_sheet(pictures, tokenizers, scale), out)
    say(f"{len(pictures)} pictures under {len(tokenizers)} palettes: {out}")


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--count", type=click.IntRange(1), default=1600)
@click.option("--seed", type=click.IntRange(0), default=0)
def draw(folder: str, count: int, seed: int) -> None:
    """Draw labeled cartoon animal faces in DIR, as images to learn from.

    \b
    Example:
      pixace-tf draw data/animals --count 1600 --seed 0
    """
    from pixace_tf import console
    from pixace_tf.data import cartoons

    with console.ProgressBar("Drawing") as bar:
        paths = cartoons.draw_folder(folder, count, seed, bar.count)
    say(f"{len(paths)} pictures: {folder}")
