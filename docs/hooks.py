"""Hooks of the site: files from all over the repository, and readable help.

Pages link to files outside of `docs/` as they do on GitHub, for instance to
`../pipelines/results/animals-new.png`. Here such a file becomes a part of the
site, at the same path below `repository/`, and the links follow.
"""

import inspect
import pathlib
import posixpath
import re
from collections.abc import Iterator
from typing import Any

import click
from mkdocs.structure.files import File, Files

from pixace_tf.cli import main

ROOT = pathlib.Path(__file__).parent.parent
DOCS = "docs/"
OUTSIDE = "repository/"
# The target of a link or an image in Markdown, without its anchor.
_TARGET = re.compile(r"(?<=\]\()[^)\s#:]+(?=[)#])")
# Characters that are meant literally in a help text, unless escaped.
_SPECIAL = re.compile(r"(?<!\\)[\[<*]")


def on_config(config: Any) -> None:
    """Turn the help of all commands into Markdown, for mkdocs-click."""
    for command in (main, *main.commands.values()):
        command.help = "\n\n".join(_paragraphs(command.help or ""))
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                parameter.show_default = parameter.show_default is not False


def on_files(files: Files, config: Any) -> Files:
    """Add what pages link to, and what these files link to."""
    waiting = list(files.documentation_pages())
    while waiting:
        page = waiting.pop()
        for target in _TARGET.findall(page.content_string):
            path = _linked(page.src_uri, target)
            uri = _uri(path)
            if path.startswith(DOCS) or files.get_file_from_path(uri):
                continue
            if not (ROOT / path).is_file():
                continue  # The build tells that the link leads nowhere.
            file = File.generated(config, uri, abs_src_path=str(ROOT / path))
            files.append(file)
            if file.is_documentation_page():
                waiting.append(file)
    return files


def on_page_markdown(
    markdown: str, page: Any, config: Any, files: Files
) -> str:
    """Lead links to where their files are in the site, and color commands."""
    place = page.file.src_uri

    def moved(match: re.Match[str]) -> str:
        uri = _uri(_linked(place, match[0]))
        is_known = files.get_file_from_path(uri) is not None
        start = posixpath.dirname(place) or "."
        return posixpath.relpath(uri, start) if is_known else match[0]

    # The lexer of consoles expects prompts.
    return _TARGET.sub(moved, markdown).replace("```console", "```sh")


def _linked(uri: str, target: str) -> str:
    """Return the path in the repository that a page of the site links to."""
    is_outside = uri.startswith(OUTSIDE)
    path = uri.removeprefix(OUTSIDE) if is_outside else DOCS + uri
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def _uri(path: str) -> str:
    """Return the place in the site of a file of the repository."""
    return path.removeprefix(DOCS) if path.startswith(DOCS) else OUTSIDE + path


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text as Markdown.

    What click keeps line by line, after a backspace, is a heading and examples.
    """
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            heading, *lines = paragraph.splitlines()[1:]
            block = "\n".join(line.removeprefix("  ") for line in lines)
            yield heading
            yield f"```sh\n{block}\n```"
        elif paragraph.startswith("```"):  # From an earlier build.
            yield paragraph
        else:
            words = paragraph.split("`")  # Every second one is code.
            words[::2] = [_SPECIAL.sub(r"\\\g<0>", word) for word in words[::2]]
            yield "`".join(words)
