"""`boxtune train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from boxtune.cli.options import Format


def command(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE ...]", help="Settings, e.g. trainer.seed=1.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file; see `boxtune inspect config`.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Folder, file, hub id or synthetic:NAME.")] = None,
    data_format: Format = None,
    model: Annotated[str | None, typer.Option("--model", help="Folder, hub id, `embedded`, `tiny:FAMILY`.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="What is trained, as r1: `boxtune recipes`.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Budget of time the schedule ends in.")] = None,
    output_dir: Annotated[Path | None, typer.Option("--output-dir", help="New or empty folder.")] = None,
    on_error: Annotated[
        Literal["refuse", "skip"] | None, typer.Option("--on-error", help="Bad records: refuse or skip.")
    ] = None,
    oom: Annotated[
        Literal["stop", "retry"] | None,
        typer.Option("--oom", help="Where memory runs out: stop, or halve the batches and go on (retry)."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output-dir.")] = False,
) -> int:
    """Fine-tune a model on a detection data set, and evaluate it on the val split.

    One's own data, no configuration: [bold]boxtune train --data FOLDER --minutes 15[/bold]
    """
    from rich.console import Console

    from boxtune.config.checks import check_config
    from boxtune.config.load import load_config
    from boxtune.console import say
    from boxtune.evaluation.summary import print_metrics

    given = {
        "data.path": data,
        "data.format": data_format,
        "data.on_error": on_error,
        "model.name": model,
        "recipe": recipe,
        "trainer.minutes": minutes,
        "trainer.oom": oom,
        "output_dir": output_dir,
    }
    named = [f"{key}={value}" for key, value in given.items() if value is not None]
    if resume and config is None:
        config = _config_of_run(output_dir)
    settings = load_config(config, [*named, *(overrides or [])])
    check_config(settings)  # what contradicts itself is said before torch is there, which takes seconds

    from boxtune.processes import is_first
    from boxtune.training.recipes import train

    result = train(settings, resume=resume)
    if result.stopped_by is not None:
        raise SystemExit(128 + result.stopped_by)  # it has said how to go on
    console = Console(quiet=not is_first())
    if result.metrics is not None:
        print_metrics(result.metrics, f"{settings.data.val_split} split", console)
        report = result.output_dir / "report.html"
        say(console, f"Look at {report}")
    asking = "" if settings.decoder == "text" else f" --decoder {settings.decoder}"
    say(
        console,
        f"{result.num_steps} steps in {_in_words(result.seconds)}. The model is in {result.output_dir}; try it: "
        f"boxtune predict --model {result.output_dir} --image PHOTO{asking} --output-dir found",
    )
    return 0


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _config_of_run(output_dir: Path | None) -> Path:
    """The configuration that a run saved at its start."""
    from boxtune.errors import ConfigError

    path = None if output_dir is None else output_dir / "config.yaml"
    if path is None or not path.is_file():
        where = "" if output_dir is None else f" (there is no config.yaml in {output_dir})"
        raise ConfigError(f"--resume needs the folder of the run{where}: say --output-dir.")
    from boxtune.training.damage import check_saved_config

    check_saved_config(path)
    return path
