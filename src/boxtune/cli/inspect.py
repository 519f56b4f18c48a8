"""`boxtune inspect …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from boxtune.cli import inspect_gpu, inspect_model, inspect_tokens
from boxtune.cli.options import Data, Format, OnError, OutputDir

app = typer.Typer(help="Look at what is there, before anything is trained.", no_args_is_help=True)
app.command("model")(inspect_model.command)
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


@app.command("data")
def data_command(
    data: Data,
    output_dir: OutputDir = Path("runs/inspect"),
    split: Annotated[str | None, typer.Option("--split", help="One split; all where not given.")] = None,
    data_format: Format = None,
    on_error: OnError = "refuse",
    augment: Annotated[Literal["none", "light", "strong"], typer.Option(help="Show the changes of training.")] = "none",
    flip: Annotated[list[str] | None, typer.Option(help="horizontal, vertical; may be given twice.")] = None,
    num_images: Annotated[int, typer.Option(min=1, max=200, help="Samples on the sheet.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the changes.")] = 0,
) -> None:
    """Counts and sizes of a data set, and a sheet of samples with their boxes."""
    from rich.console import Console

    from boxtune.data.dataset import load_dataset
    from boxtune.inspection.dataset import print_summary, summarize_dataset, write_sheet

    console = Console()
    skipped = output_dir / "skipped.jsonl" if on_error == "skip" else None
    dataset = load_dataset(data, split, data_format, on_error, skipped)
    if dataset.skipped:
        console.print(f"{len(dataset.skipped)} bad records left out, see {skipped}", soft_wrap=True)
    print_summary(summarize_dataset(dataset), data, console)
    path = output_dir / "sheet.jpg"
    write_sheet(dataset, path, num_images=num_images, augment=augment, flip=tuple(flip or ()), seed=seed)
    console.print(f"Samples with their boxes: {path}", highlight=False, soft_wrap=True)
