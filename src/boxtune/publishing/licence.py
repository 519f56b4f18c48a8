"""The licence of a model as the hub writes it (huggingface.co/docs/hub/repositories-licenses).

huggingface_hub brings no list of the hub's identifiers, and a list of our own would grow old: what has their form is
taken, and the hub itself refuses one that it does not know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from boxtune.errors import ConfigError

_IDENTIFIER: Final = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
_LINK: Final = re.compile(r"https?://[!-~]+")
_LONGEST: Final = 64


@dataclass(frozen=True)
class Licence:
    """What the head of a model card says; checked.

    Args:
        identifier: as in the hub's list, such as `apache-2.0`, or `other`.
        name: of another licence, in the form of an identifier; with `other` alone.
        link: address of its text.

    Raises:
        ConfigError: not in the form that the hub takes.
    """

    identifier: str
    name: str | None = None
    link: str | None = None

    def __post_init__(self) -> None:
        _check("--license", self.identifier, "apache-2.0, mit, cc-by-4.0, or other with --license-name")
        if self.identifier != "other" and (self.name is not None or self.link is not None):
            raise ConfigError(
                f"--license-name and --license-link go with --license other: leave them out with {self.identifier}."
            )
        if self.identifier == "other" and self.name is None:
            raise ConfigError("--license other says nothing alone: name the licence, --license-name my-licence-1.0.")
        if self.name is not None:
            _check("--license-name", self.name, "my-licence-1.0")
        if self.link is not None and not _LINK.fullmatch(self.link):
            raise ConfigError(f"--license-link {self.link!a} is no address: write it as https://…, without spaces.")

    @property
    def front(self) -> dict[str, str]:
        """Keys of the card's head."""
        keys = {"license": self.identifier, "license_name": self.name, "license_link": self.link}
        return {key: value for key, value in keys.items() if value is not None}


def licence_of(identifier: str | None, name: str | None, link: str | None) -> Licence | None:
    """The licence that the options of a command name; None where they name none.

    Raises:
        ConfigError: see `Licence`; a name or a link alone.
    """
    if identifier is None:
        if name is not None or link is not None:
            raise ConfigError("--license-name and --license-link go with --license other: add it, or leave them out.")
        return None
    return Licence(identifier, name, link)


def _check(option: str, text: str, examples: str) -> None:
    if len(text) > _LONGEST or not _IDENTIFIER.fullmatch(text):
        lower = text.lower()
        meant = f"Did you mean {lower}? " if _IDENTIFIER.fullmatch(lower) else ""
        raise ConfigError(
            f"{option} {text[:_LONGEST]!a} is no licence as the hub writes them, in small letters, digits, dots and "
            f"dashes. {meant}Examples: {examples}."
        )
