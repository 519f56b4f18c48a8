"""`boxtune recipes`."""

from __future__ import annotations

import dataclasses
import json as json_module
from typing import Annotated

import typer


def command(
    json: Annotated[bool, typer.Option("--json", help="The table as JSON.")] = False,
) -> None:
    """What can be trained by name: areas, precision, stages, and when to use it."""
    from rich.console import Console
    from rich.table import Table

    from boxtune.config.recipes import RECIPES
    from boxtune.console import say

    if json:
        typer.echo(json_module.dumps([dataclasses.asdict(recipe) for recipe in RECIPES.values()], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("recipe", "stage", "language", "vision", "merger", "4 bits", "when"):
        table.add_column(title)
    for recipe in RECIPES.values():
        for number, stage in enumerate(recipe.stages, start=1):
            first = number == 1
            table.add_row(
                recipe.name if first else "",
                str(number),
                stage.language,
                stage.vision,
                stage.merger,
                "language" if stage.quantize == "nf4" else "-",
                f"{recipe.title}: {recipe.when}" if first else "",
            )
    console = Console()
    console.print(table, highlight=False)
    say(console, "\nboxtune train --recipe NAME --model M --data D --output-dir DIR")
