"""Words on the terminal. What a user has named is shown as it is: `[red]cup[/x]` is a label, not rich's markup."""

from __future__ import annotations

import re
from typing import Final

from rich.console import Console
from rich.text import Text

_UNSHOWABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def say(console: Console, line: str) -> None:
    """Print a line as it is: no markup, no colouring of numbers, wrapped by the terminal alone."""
    console.print(plain(line), soft_wrap=True)


def plain(text: str) -> Text:
    """Text as it is, for a line or the cell of a table.

    What a terminal obeys or cannot show (control characters, half characters of names that are not UTF-8) is written
    out, as `\\x1b`; so are signs that turn the direction of what follows.
    """
    return Text(_UNSHOWABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text))
