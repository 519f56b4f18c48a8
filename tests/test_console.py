"""Names of users on the terminal: shown as they are, whatever rich or the terminal would make of them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from boxtune.console import plain, say


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("[red]cup[/x]", "[red]cup[/x]"),
        ("q[/b]z", "q[/b]z"),
        (":cat: 12 \\[a]", ":cat: 12 \\[a]"),
        ("two\nlines\tand a tab", "two\nlines   and a tab"),
        ("é 目 \U0001f600", "é 目 \U0001f600"),
        ("bell\x07 escape\x1b[31m", r"bell\x07 escape\x1b[31m"),
        ("half \udce9", r"half \udce9"),
    ],
)
def test_lines_and_cells_are_shown_as_they_are(said, shown):
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True, color_system=None)
    say(console, said)
    assert file.getvalue() == shown + "\n"
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row(plain(said))
    console.print(table)
    assert " ".join(shown.split()) in " ".join(file.getvalue().split("\n", 1)[1].split())


def test_a_long_line_is_left_to_the_terminal():
    file = io.StringIO()
    say(Console(file=file, width=20), "word " * 20)
    assert file.getvalue().count("\n") == 1
