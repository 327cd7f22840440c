"""The page that tells an account in words, tables and pictures."""

import html
import os
from collections.abc import Callable
from typing import Any

from pixace_tf.evaluation.html_parts import (
    count,
    facts,
    figure,
    page,
    paragraph,
    table,
)
from pixace_tf.evaluation.illustrations import Account
from pixace_tf.evaluation.summary import RIVALS, rivals


def render(account: Account) -> str:
    """Return the page of an account, as HTML that needs no other file.

    Args:
        account: As `illustrate` returns it.
    """
    name = os.path.basename(account.figures["record"]["run"])
    sections = [(title, write(account)) for title, write in _SECTIONS.items()]
    return page(
        f"{name}: what the model can do",
        _opening(account.figures),
        [(title, body) for title, body in sections if body],
    )


def _opening(figures: dict[str, Any]) -> str:
    record, palette = figures["record"], figures["palette"]
    height, width = record["image_size"]
    others = rivals(figures)
    rival = min(others, key=others.__getitem__)
    own = figures["bits_per_pixel"]
    share = own / others[rival]
    comparison = (
        f"that is {1 - share:.0%} less than the best of the simple methods "
        "it is held against"
        if share < 1
        else "one of the simple methods needs no more"
    )
    text = (
        f"On {count(figures['pictures'], 'picture')} of {width}x{height} "
        f"pixels, this {record['decoder']} model of "
        f"{record['parameters']:,} parameters needs {_spread(figures)} bits "
        f"for each pixel; {comparison} ({RIVALS[rival]}: "
        f"{others[rival]:.2f}). A pixel is one of {palette['codes']:,} colors "
        f"of the palette {html.escape(palette['name'])}"
    )
    text += (
        ", which keeps the pictures exactly."
        if palette["psnr"] is None
        else f", which keeps the pictures to {palette['psnr']:.1f} dB."
    )
    bound = ", at most" if figures["bits_per_dim_residual"] else ""
    values = {
        "bits per pixel": f"{own:.2f}",
        f"bits per dimension{bound}": f"{figures['bits_per_dim']:.2f}",
        "best simple method": f"{others[rival]:.2f}",
    }
    if figures["completion"]:
        number = figures["completion"]["samples"]
        quality = figures["completion"]["psnr"]["drawn_best"]
        values[f"best of {number} completions"] = f"{quality:.1f} dB"
    if figures["probe"]:
        accuracy = figures["probe"]["accuracy"]
        values["classes by linear probe"] = f"{accuracy:.0%}"
    return "\n".join([paragraph(text, "lead"), facts(values), _seen(figures)])


def _seen(figures: dict[str, Any]) -> str:
    """Say which of the pictures the model has seen before."""
    total = figures["pictures"]
    if figures["in_training"] is None:
        return paragraph(
            "The run has lost its training pictures, so nobody can say whether "
            "the pictures here are new to the model.",
            "note",
        )
    if figures["in_training"]:
        return paragraph(
            f"<b>{figures['in_training']:,} of these {total:,} pictures were "
            "learned from.</b> The likelihood, the completions and the Fréchet "
            "distances below flatter the model by that, and the methods that "
            "count even more; use <code>--validation-only</code>, or other "
            "pictures, for figures that count.",
            "note",
        )
    if figures["in_validation"]:
        return paragraph(
            f"None of the pictures was learned from. "
            f"{figures['in_validation']:,} of {total:,} chose which weights "
            "were kept, by their likelihood, which is a little in the model's "
            "favor.",
            "soft",
        )
    return paragraph(
        "The model has seen none of these pictures before.", "soft"
    )


def _likelihood(account: Account) -> str:
    figures = account.figures
    rows = [
        (name, f"{bits:.3f}", f"{bits / figures['bits_per_pixel']:.0%}")
        for name, bits in figures["channels"].items()
    ]
    rows.append(("the pixel", f"{figures['bits_per_pixel']:.3f}", "100%"))
    lossless = figures["lossless"]
    counted = (
        "The gray bars are simple methods to the same end, on the same "
        "pictures in the same colors. <i>Colors alone</i> knows how often "
        "each color occurs in the training pictures; <i>left neighbor</i> also "
        "sees the pixel to the left, <i>left and above</i> that and the one "
        "above."
        if figures["baselines"]
        else "The simple models that count colors are left out, since the run "
        "has lost its training pictures."
    )
    return "\n".join(
        [
            paragraph(
                "A model that guesses well needs few bits to tell a picture to "
                "someone who has the same model: for each pixel, minus the "
                "base-2 logarithm of the chance it gave to the right color. "
                "All chances together sum to one, so nothing can be gained by "
                "bluffing."
            ),
            _show(
                account,
                "likelihood",
                "Bars of bits per pixel of the model and of simple methods",
                f"{counted} <i>PNG</i> and <i>WebP files</i> are whole files "
                f"with their headers, one for each of "
                f"{count(lossless['pictures'], 'picture')}, packed as small "
                "as the format allows without loss; in pictures this small, "
                "headers weigh much.",
            ),
            paragraph(
                "A pixel is told channel by channel, in this order; each "
                "channel knows those before it."
            ),
            table(("channel", "bits per pixel", "share"), rows, "total"),
            _show(
                account,
                "bits-by-place",
                "Map of the bits each place of the picture needs",
                "Where in a picture the bits go, as a mean over all pictures: "
                "bright places are hard to guess. The first pixel has nothing "
                "to go by, and may lie beyond the scale.",
            ),
            _show(
                account,
                "expected",
                "Two rows of pictures with their bits per pixel",
                "Upper row: the pictures that the model found easiest; lower "
                "row: the hardest ones, hardest first. Below each, its bits "
                "per pixel.",
            ),
        ]
    )


def _comparable(account: Account) -> str:
    figures = account.figures
    error = figures["bits_per_dim_standard_error"]
    spread = "" if error is None else f" &plusmn; {error:.3f}"
    residual = figures["bits_per_dim_residual"]
    dims = f"<b>{figures['bits_per_dim']:.3f}{spread} bits per dimension</b>"
    if residual == 0:
        text = (
            f"Published models are compared by bits per dimension, that is, "
            f"per color channel of each pixel: here {dims}. This palette keeps "
            "all 8 bits of each channel, so the figure is exact. It may stand "
            "beside published ones for the same pictures, provided that they "
            "had this size from the start; scaled-down pictures are another "
            "task."
        )
    else:
        text = (
            "Published models are compared by bits per dimension, that is, per "
            "channel of each pixel of the 8-bit picture. This palette keeps "
            "only a part of that: a code tells which 8-bit colors are "
            "possible, and the bound counts them all as equally likely. That "
            f"gives {dims} as an upper bound. <b>{residual:.3f}</b> of them "
            "are what the palette hides, which this model can never earn "
            "back, so the bound says little beside models that see all colors."
        )
    lossless = figures["lossless"]
    return "\n".join(
        [
            paragraph(text),
            paragraph(
                "Bits per pixel depend on the palette: of fewer colors, each "
                "is easier to guess. They compare models of the same palette "
                "on the same pictures, at the same size, and nothing else."
            ),
            table(
                ("method", "bits per pixel", "a third of it"),
                [
                    (RIVALS[name], f"{bits:.3f}", f"{bits / 3:.3f}")
                    for name, bits in rivals(figures).items()
                ]
                + [
                    (
                        "this model",
                        f"{figures['bits_per_pixel']:.3f}",
                        f"{figures['bits_per_pixel'] / 3:.3f}",
                    )
                ],
                "total",
            ),
            paragraph(
                "The last column is per channel of the pictures in the colors "
                "of the palette"
                + ("." if residual == 0 else ", not of the 8-bit ones.")
                + f" PNG and WebP were tried on "
                f"{count(lossless['pictures'], 'picture')}.",
                "soft",
            ),
        ]
    )


def _palette(account: Account) -> str:
    palette = account.figures["palette"]
    difference = palette["ciede2000"]
    rows = [
        ("colors of the palette", f"{palette['codes']:,}"),
        ("of these in the pictures", f"{palette['colors_used']:,}"),
        ("colors in the originals", f"{palette['colors_in_pictures']:,}"),
        (
            "likeness (PSNR)",
            "exact" if palette["psnr"] is None else f"{palette['psnr']:.2f} dB",
        ),
        (
            "visible difference (CIEDE2000)",
            "scikit-image is missing"
            if difference is None
            else f"{difference:.2f}",
        ),
    ]
    return "\n".join(
        [
            paragraph(
                "The model sees and paints in the colors of its palette, "
                f"{html.escape(palette['name'])}; what this loses is lost "
                "before it begins. PSNR measures the loss in decibels, higher "
                "is nearer; CIEDE2000 is the mean difference of colors as "
                "people see them, where about 1 is just visible side by side."
            ),
            table((), rows),
            _show(
                account,
                "palette",
                "Pictures before and after the palette",
                "Above: evaluated pictures at the model's size. Below: the "
                "same in the colors of the palette.",
            ),
        ]
    )


def _completions(account: Account) -> str:
    figures = account.figures["completion"]
    if figures is None:
        return _missing(account, "completion")
    names = {
        "drawn": "drawn by the model, mean",
        "drawn_best": f"the best of {figures['samples']} drawings",
        "nearest": "lower half of the nearest training picture",
        "nearest_best": f"the best of {figures['samples']} nearest",
        "mirrored": "upper half, turned upside down",
        "palette": "hidden half itself, in the palette",
    }
    rows = [
        (text, f"{figures['psnr'][name]:.2f} dB")
        for name, text in names.items()
        if name in figures["psnr"]
    ]
    return "\n".join(
        [
            paragraph(
                f"From {count(figures['pictures'], 'picture')}, the lower "
                f"{figures['hidden_rows']} of {figures['rows']} rows were "
                f"hidden, and drawn {figures['samples']} times each, from the "
                "upper ones alone. The table tells how near that comes to what "
                "was hidden, beside rivals that do not draw at all."
            ),
            table(("lower half", "PSNR"), rows),
            paragraph(
                "A drawing may be good and yet not what was hidden: PSNR "
                "rewards the cautious gray mean, which no sample is. The best "
                "of several tells whether the truth is among what the model "
                "holds possible. Each figure is a mean over pictures of "
                "decibels, at most 59, the error of rounding.",
                "soft",
            ),
            _show(
                account,
                "completed",
                "Rows of original, kept half, drawings and rivals",
                "Each row: the original, what was kept, drawings of the model, "
                "and the rivals, each with the PSNR of its lower half.",
            ),
        ]
    )


def _new_pictures(account: Account) -> str:
    return _show(
        account,
        "new",
        "A grid of new pictures",
        "Painted from nothing, at temperature 1 and with all filters off: what "
        "the model believes, not a choice. The seeds are 0, 1, 2 and so on.",
    )


def _nearest(account: Account) -> str:
    figures = account.figures["nearest"]
    if figures is None:
        return _missing(account, "nearest")
    rows = [
        (
            count(figures["new"], "new picture"),
            f"{figures['new_median']:.1f}",
            f"{figures['new_least']:.1f}",
        )
    ]
    if figures["held_out"]:
        rows.append(
            (
                count(figures["held_out"], "unseen real picture"),
                f"{figures['held_out_median']:.1f}",
                f"{figures['held_out_least']:.1f}",
            )
        )
    copies = figures["copies"]
    return "\n".join(
        [
            paragraph(
                "Does the model paint, or remember? For each new picture, the "
                "nearest training picture was looked up"
                + (
                    ", mirrored ones included"
                    if account.figures["record"]["arguments"]["flip"]
                    else ""
                )
                + ". Distances are typical differences of a color channel, in "
                "levels of 0 to 255. Real pictures that were not learned from "
                "are the yardstick: new ones that lie much nearer are "
                "memorized. "
                + (
                    f"<b>{count(copies, 'new picture')} equal a training "
                    "picture to the pixel.</b>"
                    if copies
                    else "No new picture equals a training picture."
                )
            ),
            table(("to the nearest training picture", "median", "least"), rows),
            _show(
                account,
                "nearest",
                "Pairs of a new picture and the nearest training picture",
                "The new pictures that lie nearest to a training picture, "
                "nearest first, with the distance; right of each, that "
                "training picture.",
            ),
        ]
    )


def _frechet(account: Account) -> str:
    figures = account.figures["frechet"]
    if figures is None:
        return _missing(account, "frechet")
    accuracy = figures["held_out_accuracy"]
    known = (
        ""
        if accuracy is None
        else f" (it names {accuracy:.0%} of the unseen pictures rightly)"
    )
    names = {
        "samples": "new pictures of the model",
        "palette_floor": "real pictures in the colors of the palette",
        "real": "real pictures before the palette",
    }
    return "\n".join(
        [
            paragraph(
                "A network describes each picture by "
                f"{count(figures['features'], 'number')}; the Fréchet "
                "distance tells how differently two crowds of pictures spread "
                "in these numbers. 0 is alike. The network is "
                f"{html.escape(figures['network'])}{known}. Each crowd has "
                f"{count(figures['pictures'], 'picture')} and stands against "
                f"{count(figures['reference_pictures'], 'training picture')} "
                "in the colors of the palette."
            ),
            table(
                ("crowd", "Fréchet distance"),
                [(text, f"{figures[k]:.3g}") for k, text in names.items()],
            ),
            paragraph(
                "Real pictures through the palette are the floor: as near as a "
                "perfect model would come with so few pictures. The distance "
                "shrinks as the crowd grows and depends on the network, so it "
                "compares with nothing but figures of the same number and "
                "network, and not with published FID.",
                "soft",
            ),
        ]
    )


def _probe(account: Account) -> str:
    figures = account.figures["probe"]
    if figures is None:
        return _missing(account, "probe")
    rows = [
        (
            f"layer {layer['layer']}"
            + (
                " (chosen)" if layer["layer"] == figures["chosen_layer"] else ""
            ),
            f"{layer['cross_validation']:.1%}",
            f"{layer['accuracy']:.1%}",
        )
        for layer in figures["layers"]
    ]
    rows.append(("raw pixels", "", f"{figures['raw_pixels']:.1%}"))
    rows.append(
        ("always the commonest", "", f"{figures['majority_class']:.1%}")
    )
    classes = len(figures["classes"])
    error = figures["accuracy_standard_error"]
    return "\n".join(
        [
            paragraph(
                "The model was never told what its pictures show. Still, what "
                "it makes of them may tell: from each layer's states, as a "
                f"mean over the picture, the plainest of classifiers learned "
                f"{classes} classes on "
                f"{count(figures['train_pictures'], 'training picture')} and "
                f"named {count(figures['pictures'], 'unseen picture')}. The "
                "layer is chosen by cross-validation on the training pictures; "
                "its share of right answers on the unseen ones is "
                f"<b>{figures['accuracy']:.1%} &plusmn; {error:.1%}</b>. Only "
                "what lies above the same classifier on raw pixels is the "
                "model's own doing."
            ),
            table(("states of", "cross-validated", "unseen"), rows),
            _show(
                account,
                "probe",
                "Right answers after each layer",
                "Share of right answers by layer, beside raw pixels and "
                "beside always naming the commonest class.",
            ),
        ]
    )


def _colors(account: Account) -> str:
    return _show(
        account,
        "colors",
        "Map of the embedded colors",
        "Each dot is a color of the palette, placed by what the model made of "
        "it: the first two principal components of its embedding. Colors that "
        "the model treats alike lie together; the more of the variance the two "
        "axes hold, the more order there is.",
    )


def _curve(account: Account) -> str:
    if "learning-curve" not in account.pictures:
        return ""
    return _show(
        account,
        "learning-curve",
        "Bits per pixel over the minutes of training",
        "Bits per pixel while the model learned. Where validation rises and "
        "training still falls, it began to learn by heart; the weights of the "
        "best validation were kept.",
    )


def _record(account: Account) -> str:
    figures, record = account.figures, account.figures["record"]
    rows = [
        ("command", record["command"] or ""),
        ("date", record["date"]),
        ("run", record["run"]),
        (
            "pictures",
            f"{figures['pictures']:,}, {figures['skipped']:,} files skipped",
        ),
        ("machine", record["machine"]),
        *((name, version) for name, version in record["versions"].items()),
        *(
            (f"fit: {name}", str(value))
            for name, value in record["arguments"].items()
        ),
    ]
    cells = [(html.escape(k), html.escape(v)) for k, v in rows if v]
    return paragraph(
        "All figures of this page, and more digits, are in figures.json "
        "beside it, the pictures as PNG files."
    ) + table((), cells, "words")


def _show(account: Account, name: str, alt: str, caption: str) -> str:
    return figure(account.pictures[name], alt, caption)


def _missing(account: Account, name: str) -> str:
    return paragraph(html.escape(account.figures["missing"][name]), "soft")


def _spread(figures: dict[str, Any]) -> str:
    error = figures["bits_per_pixel_standard_error"]
    spread = "" if error is None else f" &plusmn; {error:.2f}"
    return f"{figures['bits_per_pixel']:.2f}{spread}"


# Title of each section, and what writes it.
_SECTIONS: dict[str, Callable[[Account], str]] = {
    "Likelihood": _likelihood,
    "What may be compared": _comparable,
    "Palette": _palette,
    "Completions": _completions,
    "New pictures": _new_pictures,
    "Nearest neighbors": _nearest,
    "Fréchet distance": _frechet,
    "Linear probe": _probe,
    "Colors": _colors,
    "Learning curve": _curve,
    "Record": _record,
}
