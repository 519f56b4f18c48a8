"""Entries of a docstring that several names share, `low, high: bounds`, stay one entry in the Python reference.

Google's style gives every name an entry of its own, so griffe takes what follows the first comma for a type. A space
that it does not divide at keeps the names together.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SHARED = re.compile(r"^( +\w+)((?:, \w+)+)(?=: )", re.MULTILINE)


class SharedEntries(griffe.Extension):
    """Read by mkdocstrings, see mkdocs.yml."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Keep names together."""
        if obj.docstring is not None:
            obj.docstring.value = _SHARED.sub(_joined, obj.docstring.value)


def _joined(names: re.Match[str]) -> str:
    return names[1] + names[2].replace(" ", "\N{NO-BREAK SPACE}")
