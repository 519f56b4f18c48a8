"""`boxtune compare`: models or files of boxes on the same images, or recipes trained with the same budget."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from boxtune.cli.options import BatchSize, Decoder, Device, Format, Labels, OnError, Quantize


def command(
    models: Annotated[
        str | None, typer.Option("--models", help="Two models or more: A,B. The first is the baseline.")
    ] = None,
    predictions: Annotated[
        str | None, typer.Option("--predictions", help="COCO results instead of models: a.json,b.json.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="COCO annotations for --predictions.")
    ] = None,
    recipes: Annotated[str | None, typer.Option("--recipes", help="Train each and compare: r1,r2,r3,r4.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Folder, file, hub id or synthetic:NAME.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Which split to judge on; val where there are splits.")
    ] = None,
    max_images: Annotated[int | None, typer.Option("--max-images", min=2, help="Judge the first so many.")] = None,
    model: Annotated[str, typer.Option("--model", help="For --recipes: the model to start from.")] = "embedded",
    images: Annotated[int, typer.Option("--images", min=1, help="For --recipes: images that each one sees.")] = 400,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="For --recipes: runs of each, seeds 0, 1 …")] = 3,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE ...]", help="For --recipes: settings of every run.")
    ] = None,
    output_dir: Annotated[Path | None, typer.Option("--output-dir", help="Where results are written.")] = None,
    data_format: Format = None,
    labels: Labels = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    quantize: Quantize = "none",
    decoder: Decoder = "text",
    on_error: OnError = "refuse",
    json: Annotated[bool, typer.Option("--json", help="Print compare.json instead of a table.")] = False,
) -> None:
    """Which one is better, and how sure that is: every figure with an interval over images drawn anew, and a page."""
    given = {"--models": models, "--predictions": predictions, "--recipes": recipes}
    _check_options(given, annotations, data, output_dir, settings)
    _check_decoder(decoder, models)
    if predictions is not None:
        assert annotations is not None
        _files(annotations, _names(predictions, "--predictions"), output_dir, json)
        return
    assert data is not None
    assert output_dir is not None
    if recipes is not None:
        overrides = [
            *_as_overrides(data_format, on_error, device, max_images, split),
            *(settings or []),
        ]
        _recipes(_names(recipes, "--recipes"), data, model, images, seeds, output_dir, overrides, json)
        return
    assert models is not None
    opening = {"data_format": data_format, "on_error": on_error, "max_images": max_images}
    asking = {"batch_size": batch_size, "device": device, "quantize": quantize, "decoder": decoder}
    _models(_names(models, "--models"), data, split, opening, labels, asking, output_dir, json)


def _check_options(
    given: dict[str, str | None],
    annotations: Path | None,
    data: str | None,
    output_dir: Path | None,
    settings: list[str] | None,
) -> None:
    from boxtune.errors import ConfigError

    chosen = [option for option, value in given.items() if value is not None]
    if len(chosen) != 1:
        said = f"{' and '.join(chosen)} do not go together" if chosen else "Nothing to compare"
        raise ConfigError(f"{said}: give one of {', '.join(given)}.")
    if (chosen[0] == "--predictions") != (annotations is not None):
        raise ConfigError("--predictions and --annotations go together: found boxes need the true ones, and no model.")
    if chosen[0] == "--predictions" and data is not None:
        raise ConfigError("--predictions are judged by --annotations: leave --data out.")
    if chosen[0] != "--predictions" and data is None:
        raise ConfigError(f"{chosen[0]} needs images to judge on: say --data.")
    if chosen[0] != "--predictions" and output_dir is None:
        raise ConfigError(f"{chosen[0]} needs a place for results: say --output-dir.")
    if chosen[0] != "--recipes" and settings:
        raise ConfigError(f"{settings[0]} is a setting of training: it goes with --recipes only.")


def _check_decoder(decoder: str, models: str | None) -> None:
    from boxtune.errors import ConfigError

    if decoder != "text" and models is None:
        raise ConfigError(
            f"--decoder {decoder} goes with --models: recipes take evaluation.decoder={decoder}, files hold boxes."
        )


def _names(text: str, option: str) -> list[str]:
    from boxtune.errors import ConfigError

    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) < 2:
        raise ConfigError(f"{option} '{text}' names {len(names)}: a comparison needs two or more, with commas: A,B.")
    if len(set(names)) < len(names):
        raise ConfigError(f"{option} '{text}' names one twice: a comparison with itself says nothing.")
    return names


def _files(annotations: Path, names: list[str], output_dir: Path | None, json: bool) -> None:
    from boxtune.cli.options import claim_output_dir
    from boxtune.errors import DataError
    from boxtune.evaluation.coco import read_scored
    from boxtune.evaluation.compare import compare_scored, write_comparison
    from boxtune.evaluation.compare_page import PAGE_FILE, write_files_page

    if output_dir is not None:
        claim_output_dir(output_dir)
    for option, path in (("--annotations", annotations), *(("--predictions", Path(name)) for name in names)):
        if not path.is_file():
            raise DataError(f"No file at {path}: check {option}.")
    scored = {name: read_scored(annotations, Path(name)) for name in names}
    comparison = compare_scored(scored)
    if output_dir is not None:
        write_comparison(output_dir / "compare.json", comparison)
        title = f"Boxes compared by {annotations}"
        write_files_page(output_dir / PAGE_FILE, comparison, scored, annotations, title)
    _show(comparison, output_dir, json)


def _models(
    names: list[str],
    data: str,
    split: str | None,
    opening: dict[str, Any],
    labels: str | None,
    asking: dict[str, Any],
    output_dir: Path,
    json: bool,
) -> None:
    from rich.console import Console

    from boxtune.cli.options import claim_output_dir, split_labels
    from boxtune.console import say
    from boxtune.evaluation.compare import check_enough, check_models, compare_models, write_comparison
    from boxtune.evaluation.compare_page import PAGE_FILE, write_models_page
    from boxtune.evaluation.evaluate import check_labels, evaluate_model, open_judged, write_evaluation

    claim_output_dir(output_dir)
    taught = check_models(names, asking["decoder"])
    console = Console(stderr=True)
    skipped = output_dir / "skipped.jsonl" if opening["on_error"] == "skip" else None
    samples = open_judged(data, split, skipped_path=skipped, console=console, **opening)
    check_enough(len(samples))
    for known in taught.values():
        check_labels(split_labels(labels) or known or samples.labels, samples)
    evaluations = {}
    for number, name in enumerate(names, start=1):
        say(console, f"{number} of {len(names)}: {name}")
        evaluations[name] = evaluate_model(name, samples, labels=split_labels(labels), console=console, **asking)
        write_evaluation(output_dir / f"{number}-{Path(name).name.replace(':', '-')}", evaluations[name])
    comparison = compare_models(evaluations)
    write_comparison(output_dir / "compare.json", comparison)
    write_models_page(output_dir / PAGE_FILE, comparison, evaluations, samples, f"Models compared on {data}")
    _show(comparison, output_dir, json)


def _show(comparison: Any, output_dir: Path | None, json: bool) -> None:
    from rich.console import Console

    from boxtune.console import say
    from boxtune.evaluation.compare import print_comparison
    from boxtune.evaluation.compare_page import PAGE_FILE

    if json:
        typer.echo(json_module.dumps(comparison.to_dict(), indent=2))
        return
    console = Console()
    print_comparison(comparison, console)
    if output_dir is not None:
        say(console, f"Written to {output_dir}; look at {output_dir / PAGE_FILE}")


def _as_overrides(
    data_format: str | None, on_error: str, device: str, max_images: int | None, split: str | None
) -> list[str]:
    given = {
        "data.format": data_format,
        "data.on_error": on_error,
        "model.device": device,
        "evaluation.max_images": max_images,
        "data.val_split": split,
    }
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def _recipes(
    names: list[str],
    data: str,
    model: str,
    images: int,
    seeds: int,
    output_dir: Path,
    overrides: list[str],
    json: bool,
) -> None:
    from rich.console import Console

    from boxtune.console import say
    from boxtune.evaluation.compare_page import PAGE_FILE
    from boxtune.training.comparison import compare_recipes
    from boxtune.training.comparison_results import print_recipes

    comparison = compare_recipes(
        names, data, output_dir, model=model, num_images=images, num_seeds=seeds, overrides=overrides
    )
    if json:
        typer.echo(json_module.dumps(comparison.to_dict(), indent=2))
    else:
        console = Console()
        print_recipes(comparison, console)
        say(console, f"Written to {output_dir}; look at {output_dir / PAGE_FILE}")
