"""The parts of a page that needs only itself: style, tables, pictures."""

import base64
import html
from collections.abc import Sequence

_STYLE = """
:root { color-scheme: light; --ink: #23211e; --soft: #6d675e; --line: #ded9d0;
  --paper: #fff; --accent: #2f6690; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 1.25rem 5rem; max-width: 62rem;
  background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.6 Charter, "Bitstream Charter", "Source Serif 4", Georgia,
    "DejaVu Serif", serif; }
h1, h2, th, td, figcaption, nav, .fact { font-family: system-ui,
  -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans",
  sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3.5rem 0 .75rem;
  padding-top: 1rem; border-top: 1px solid var(--line); }
p { max-width: 42rem; margin: 0 0 1rem; }
.lead { font-size: 1.15rem; }
.soft { color: var(--soft); }
.note { max-width: 42rem; margin: 1.25rem 0; padding: .75rem 1rem;
  background: #fbf1d9; border-left: .25rem solid #d9a520; }
.facts { display: grid; gap: .75rem; margin: 1.5rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.fact { padding: .75rem 1rem; background: #f4f1ea; font-size: .85rem;
  line-height: 1.35; color: var(--soft); }
.fact b { display: block; font-size: 1.6rem; line-height: 1.25;
  color: var(--ink); font-variant-numeric: tabular-nums; }
nav { margin: 1.5rem 0 0; font-size: .9rem; line-height: 2; }
nav a { margin-right: 1rem; white-space: nowrap; }
a { color: var(--accent); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0 1.5rem; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right;
  border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; color: var(--soft); }
table.words td { text-align: left; overflow-wrap: anywhere; }
table.words td:first-child { white-space: nowrap; overflow-wrap: normal; }
table.total tr:last-child td { font-weight: 600; }
figure { margin: 1.5rem 0; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { max-width: 42rem; margin-top: .5rem; font-size: .88rem;
  line-height: 1.45; color: var(--soft); }
@media (max-width: 30rem) {
  body { padding-top: 1.5rem; font-size: 1rem; }
  h1 { font-size: 1.6rem; }
  th, td { padding-right: .6rem; font-size: .85rem; }
  /* What is written in pictures would shrink too far; they scroll. */
  figure img { width: 40rem; max-width: none; }
}
"""
# No part of the page may be fetched from anywhere.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, opening: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return a whole page.

    Args:
        title: Plain text.
        opening: HTML below the title.
        sections: Titles, plain text, and their HTML.
    """
    title = html.escape(title)
    links = "".join(
        f'<a href="#{_anchor(name)}">{html.escape(name)}</a> '
        for name, _ in sections
    )
    bodies = "\n".join(
        f'<h2 id="{_anchor(name)}">{html.escape(name)}</h2>\n{body}'
        for name, body in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{opening}
<nav>{links}</nav>
{bodies}
</main>
</body>
</html>
"""


def paragraph(text: str, kind: str = "") -> str:
    """Return HTML as a paragraph; `kind` is "", "lead", "soft" or "note"."""
    return f'<p class="{kind}">{text}</p>' if kind else f"<p>{text}</p>"


def facts(values: dict[str, str]) -> str:
    """Return boxes of short texts with their names."""
    boxes = "".join(
        f'<div class="fact"><b>{value}</b>{name}</div>'
        for name, value in values.items()
    )
    return f'<div class="facts">{boxes}</div>'


def figure(png: bytes, alt: str, caption: str) -> str:
    """Return a picture, its bytes in the page, with HTML below it."""
    data = base64.b64encode(png).decode()
    return (
        '<figure><div class="wide">'
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}">'
        f"</div><figcaption>{caption}</figcaption></figure>"
    )


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = ""
) -> str:
    """Return a table.

    Args:
        head: HTML above each column; may be empty.
        rows: HTML of the cells.
        kind: "total" stresses the last row, "words" aligns all to the left.
    """
    top = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table class="{kind}">'
        + (f"<thead><tr>{top}</tr></thead>" if head else "")
        + f"<tbody>{lines}</tbody></table></div>"
    )


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where that is due."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
