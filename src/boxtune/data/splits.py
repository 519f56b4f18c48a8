"""Names of splits. Every format spells them in its own way; boxtune says `train`, `val` and `test`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from boxtune.errors import DataError

# The splits that everybody knows, in their order.
SPLITS = ("train", "val", "test")
# The one split of a data set that names none.
UNSPLIT = "all"

_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def canonical_split(name: str) -> str:
    """`valid` and `validation` are `val`; a name that is no alias stays what it is."""
    return _ALIASES.get(name.lower(), name)


def split_in_name(name: str) -> str | None:
    """The split that a file or folder name says (`instances_train2017` says `train`), or None.

    A name that says two different splits says none.
    """
    found = {_ALIASES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _ALIASES}
    return found.pop() if len(found) == 1 else None


def in_order(names: Iterable[str]) -> list[str]:
    """Each name once: train, val, test, then others by name."""
    return sorted(set(names), key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))


def choose_splits(available: list[str], wanted: str | None, spec: str) -> list[str]:
    """The splits to read: the wanted one, or all of them.

    Raises:
        DataError: the data set has no such split; names those it has.
    """
    if wanted is None:
        return available
    name = canonical_split(wanted)
    if name not in available:
        raise DataError(f"Data set '{spec}' has no split '{wanted}'. It has: {', '.join(available)}.")
    return [name]
