"""`boxtune inspect …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxtune.cli import inspect_data, inspect_gpu, inspect_model, inspect_tokens

app = typer.Typer(help="Look at what is there, before anything is trained.", no_args_is_help=True)
app.command("model")(inspect_model.command)
app.command("data")(inspect_data.command)
app.command("tokens")(inspect_tokens.command)
app.command("gpu")(inspect_gpu.command)


@app.command("config")
def config_command(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE ...]")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file.")] = None,
) -> None:
    """Every setting with its value, where the value came from, and what it means."""
    from rich.console import Console

    from boxtune.inspection.config import print_config

    print_config(config, overrides or [], Console())
