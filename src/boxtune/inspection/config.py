"""The resolved configuration as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from boxtune.config.checks import check_names
from boxtune.config.load import flatten, load_with_origins
from boxtune.config.schema import Config
from boxtune.console import plain


def meanings(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each dotted key with its description."""
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from meanings(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description or ""


def print_config(path: Path | None, overrides: Iterable[str], console: Console) -> None:
    """Key, value, origin, meaning; values that differ from the default stand out."""
    config, origins = load_with_origins(path, overrides)
    check_names(config)
    described = dict(meanings())
    table = Table(box=None, header_style="bold")
    for heading in ("key", "value", "from", "meaning"):
        table.add_column(heading, overflow="fold")  # a key that is cut cannot be copied
    for key, value in flatten(config.model_dump()):
        changed = origins[key] != "default"
        cells = (key, str(value), origins[key], described.get(key, ""))
        table.add_row(*map(plain, cells), style="bold" if changed else None)
    console.print(table)
