"""Errors for users. Every message says what is wrong, where, and how to mend it, and fits on one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class BoxtuneError(ValueError):
    """Base of all errors that a user can mend; the command line turns it into one line and exit code 2."""


class ConfigError(BoxtuneError):
    """A configuration file, an option or a combination of options is wrong."""


class DataError(BoxtuneError):
    """A data set, one of its records or an image is wrong."""


class TooLargeError(DataError):
    """An image has more bytes or pixels than are taken."""


class ModelError(BoxtuneError):
    """A model folder, an adapter or a model family is wrong or unknown."""


class GroupError(ModelError, KeyError):
    """Trained parameters that belong to no group, so that nobody said how fast they learn."""

    __str__ = Exception.__str__  # that of KeyError puts the message into quotes


class SaveError(BoxtuneError):
    """Something could not be written: no space, no permission."""


class RunError(BoxtuneError):
    """A run was ended by its machine: no memory, or a process that died."""


def some(names: Sequence[str]) -> str:
    """The first eight names of a list that may be long."""
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: `Did you mean 'x'?`, or the known names when none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."
