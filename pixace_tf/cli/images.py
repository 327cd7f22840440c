"""Commands about images: what loads, what palettes do, what to learn from."""

import json

import click

from pixace_tf.cli.group import main, needs_tensorflow
from pixace_tf.cli.options import BitWidths, ImageSize, max_megapixels, scale


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@max_megapixels
def scan(folder: str, as_json: bool, max_megapixels: float) -> None:
    """Tell which files below DIR will load, and why others will not."""
    from pixace_tf import console
    from pixace_tf.data import image_files

    with console.ProgressBar("Reading images") as bar:
        result = image_files.scan(folder, int(max_megapixels * 1e6), bar.count)
    if as_json:
        skipped = [{"path": s.path, "reason": s.reason} for s in result.skipped]
        loads = [image.path for image in result.loads]
        click.echo(json.dumps({"loads": loads, "skipped": skipped}))
        return
    for entry in result.skipped:
        click.echo(
            f"skipped {image_files.printable(entry.path)}: {entry.reason}"
        )
    click.echo(f"{len(result.loads)} load, {len(result.skipped)} skipped.")


@main.command()
@click.argument("pictures", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--bit-widths",
    type=BitWidths(),
    multiple=True,
    default=["5,4,4", "4,3,3", "3,2,2"],
    help="A column for each.",
)
@click.option("--color-space", default="hsv", type=click.Choice(["hsv", "rgb"]))
@click.option("--image-size", type=ImageSize(), default="64")
@click.option("--out", default="palette.png", help="The sheet to write.")
@scale
@needs_tensorflow
def palette(
    pictures: tuple[str, ...],
    bit_widths: tuple[tuple[int, int, int], ...],
    color_space: str,
    image_size: tuple[int, int],
    out: str,
    scale: int | None,
) -> None:
    """Show what bit widths do to each IMAGE, with PSNR and colors used.

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
    click.echo(
        f"{len(pictures)} pictures under {len(tokenizers)} palettes: {out}"
    )


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--count", type=click.IntRange(1), default=1600)
@click.option("--seed", type=click.IntRange(0), default=0)
def draw(folder: str, count: int, seed: int) -> None:
    """Draw labelled cartoon animal faces into DIR: pictures to learn from.

    \b
    Example:
      pixace-tf draw data/animals --count 1600 --seed 0
    """
    from pixace_tf import console
    from pixace_tf.data import cartoons

    with console.ProgressBar("Drawing") as bar:
        paths = cartoons.draw_folder(folder, count, seed, bar.count)
    click.echo(f"{len(paths)} pictures: {folder}")
