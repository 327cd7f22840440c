import os
import pty
import subprocess
import sys

import pytest
from PIL import Image

from pixace_tf import console
from pixace_tf.cli import terminal

# Shows an image twice in a terminal, with a bar, then says that it is done.
SHOW = """
from PIL import Image
from pixace_tf import console
from pixace_tf.cli import terminal
console.DELAY_S = 0.0
with console.ProgressBar("Work") as bar:
    bar.count(2, 8)
terminal.show(Image.new("RGB", (4, 4), (255, 0, 0)), True)
print("done")
"""
CLOSED = """
import sys
from pixace_tf.cli import main
from pixace_tf.cli.group import Commands
import click
@main.command()
@click.argument("path")
def write(path):
    from PIL import Image
    from pixace_tf import console
    from pixace_tf.cli import terminal
    with console.ProgressBar("Work") as bar:
        bar.count(2, 8)
    image = Image.new("RGB", (4, 4))
    image.save(path)
    click.echo("to the output")
    click.echo("to the errors", err=True)
    terminal.show(image, True)
main(["write", sys.argv[1]])
"""


@pytest.mark.parametrize(
    ("counts", "line"),
    [((2, 8), "Work:  25% 2/8\n"), ((3, 0), "Work:   0% 3\n")],
)
def test_a_log_gets_a_line_now_and_then(capsys, monkeypatch, counts, line):
    with console.ProgressBar("Work") as bar:
        bar.count(*counts)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(console, "LOG_INTERVAL_S", 0.0)
        bar.count(*counts)
    assert capsys.readouterr().err == line


def in_silent_terminal(term, **variables):
    """Return the exit code and the output in a terminal without answers."""
    parent, child = pty.openpty()
    # Rows and columns, so that the terminal has a size.
    subprocess.run(["stty", "rows", "24", "cols", "80"], stdin=child)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TERM")}
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**kept, "TERM": term, **variables},
    )
    os.close(child)
    output = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # The other side is closed.
            break
        output += part
    os.close(parent)
    return process.wait(), output


@pytest.mark.parametrize(
    ("term", "variables"),
    [
        ("xterm-256color", {}),
        ("dumb", {}),
        ("xterm-kitty", {}),
        ("xterm", {"TERM_PROGRAM": "vscode"}),
    ],
)
def test_a_terminal_without_answers_shows_no_error(term, variables):
    code, output = in_silent_terminal(term, **variables)
    assert code == 0, output
    assert output.endswith(b"done\r\n")
    assert b"Traceback" not in output
    assert b"Failed" not in output


def test_an_unknown_terminal_is_asked_nothing_and_shows_half_blocks():
    _, output = in_silent_terminal("xterm-256color")
    assert "▀".encode() in output
    assert b"25%" in output
    # Queries for attributes, for the size of a cell and for Kitty's protocol.
    for query in (b"\x1b[c", b"\x1b[16t", b"\x1b_G"):
        assert query not in output


def test_half_blocks_have_the_pixels_of_the_image():
    image = Image.new("RGB", (2, 4))
    colors = [(i, 2 * i, 255 - i) for i in range(8)]
    image.putdata(colors)
    text = terminal.half_blocks(image, 2)
    assert text.plain == "▀▀\n▀▀\n"
    found = {}
    for i, span in enumerate(text.spans):
        line, column = divmod(i, 2)
        above, _, below = str(span.style).partition(" on ")
        found[column, 2 * line] = above
        found[column, 2 * line + 1] = below
    assert found == {
        (i % 2, i // 2): "#{:02x}{:02x}{:02x}".format(*color)
        for i, color in enumerate(colors)
    }


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_cost_no_picture(tmp_path, closed):
    path = tmp_path / "picture.png"
    done = subprocess.run(
        [
            "sh",
            "-c",
            f'"$0" -c "$1" "$2" {closed}',
            sys.executable,
            CLOSED,
            str(path),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with Image.open(path) as image:
        assert image.size == (4, 4)
    if closed == "<&-":
        assert done.stdout == "to the output\n"
        assert done.stderr == "to the errors\n"
