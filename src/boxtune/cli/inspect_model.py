"""`boxtune inspect model`."""

from __future__ import annotations

import dataclasses
import gc
import json as json_module
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxtune.cli.options import Overrides

if TYPE_CHECKING:
    from boxtune.config.schema import Config
    from boxtune.inspection.architecture import ModuleInfo
    from boxtune.inspection.skeleton import Skeleton
    from boxtune.inspection.trainables import TrainingPlan
    from boxtune.models.detection_head.config import DetectionHeadConfig


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder (config.json is enough), config.json, adapter folder, hub id, `embedded` or `tiny:FAMILY`.",
        ),
    ],
    overrides: Overrides = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file: also show what it would train.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Also show what this recipe would train.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="List the names of layers, by area.")] = False,
    linears: Annotated[bool, typer.Option("--linears", help="List the linear layers.")] = False,
    pattern: Annotated[
        str | None, typer.Option("--pattern", help="List modules whose name matches this regex.")
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="List only what is in this module, linears if no more.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Areas, layers and memory of a model, and what a run would train. No weights are read.

    A run: [bold]boxtune inspect model MODEL adapter.language=lora model.quantize=nf4[/bold]
    """
    with _without_collector():
        _inspect(model, overrides or [], config, recipe, layers, linears, pattern, prefix, json)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python's search for cycles takes a fifth of this short run: imports and skeletons make a million objects."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _inspect(
    model: str,
    overrides: list[str],
    config: Path | None,
    recipe: str | None,
    layers: bool,
    linears: bool,
    pattern: str | None,
    prefix: str,
    json: bool,
) -> None:
    from rich.console import Console

    from boxtune.inspection import model_tables
    from boxtune.inspection.architecture import describe_architecture
    from boxtune.inspection.skeleton import load_skeleton
    from boxtune.inspection.trainables import compare_memory
    from boxtune.models.areas import LowRank

    asked = config is not None or recipe is not None or bool(overrides)
    settings = _settings(model, config, recipe, overrides) if asked else None
    trusted = settings is not None and settings.model.trust_remote_code
    skeleton = load_skeleton(model, trust_remote_code=trusted)
    architecture = describe_architecture(skeleton.model)
    lists = _lists(skeleton, linears or (bool(prefix) and pattern is None), pattern, prefix)
    plans = {} if settings is None else _plans(settings, skeleton, architecture.num_parameters)
    low_rank = LowRank() if settings is None else LowRank(**settings.adapter.lora.model_dump())
    memory = compare_memory(skeleton.model, low_rank) if plans else []
    if json:
        fields = {
            "model": model,
            "base": skeleton.base,
            "num_parameters": architecture.num_parameters,
            "num_bytes": architecture.num_bytes,
            **dataclasses.asdict(architecture),
            "modules": {title: [dataclasses.asdict(module) for module in found] for title, found in lists.items()},
            "training": [_plan_fields(title, plan) for title, plan in plans.items()],
            "memory": [dataclasses.asdict(area) for area in memory],
        }
        typer.echo(json_module.dumps(fields, indent=2))
        return
    console = Console()
    name = f"{model} ({skeleton.part} on {skeleton.base})" if skeleton.part else model
    model_tables.print_architecture(architecture, name, console)
    if skeleton.note is not None:
        model_tables.say(console, skeleton.note)
    for title, plan in plans.items():
        model_tables.print_plan(plan, title, console)
    if memory:
        model_tables.print_memory(memory, low_rank.rank, console)
    if layers:
        model_tables.print_layer_names(architecture, console)
    for title, found in lists.items():
        model_tables.print_modules(found, title, console)


def _lists(skeleton: Skeleton, linears: bool, pattern: str | None, prefix: str) -> dict[str, list[ModuleInfo]]:
    """Title → the modules that were asked for."""
    from boxtune.inspection.architecture import find_modules_by_pattern, list_linear_modules

    where = f" in {prefix}" if prefix else ""
    lists = {}
    if linears:
        lists[f"Linear layers{where}"] = list_linear_modules(skeleton.model, prefix)
    if pattern is not None:
        lists[f"Modules that match '{pattern}'{where}"] = find_modules_by_pattern(skeleton.model, pattern, prefix)
    return lists


def _settings(model: str, path: Path | None, recipe: str | None, overrides: list[str]) -> Config:
    """As `boxtune train` understands them, but that no data is needed."""
    from boxtune.config.load import load_config

    named = [f"model.name={model}", *([] if recipe is None else [f"recipe={recipe}"])]
    return load_config(path, [*named, *overrides])


def _plans(config: Config, skeleton: Skeleton, num_parameters: int) -> dict[str, TrainingPlan]:
    """Title → what each stage would train; a configuration without a recipe is one stage."""
    import torch

    from boxtune.config.checks import check_areas, check_names
    from boxtune.config.recipes import stage_configs
    from boxtune.inspection.trainables import QUANTIZABLE, plan_training
    from boxtune.models.areas import LowRank
    from boxtune.models.devices import pick_device
    from boxtune.training import auto

    check_names(config)
    # a run on a GPU may be looked at where there is none
    device = torch.device("cuda") if config.model.device.startswith("cuda") else pick_device(config.model.device)
    dtype = auto.frozen_dtype(config, device)
    stages = stage_configs(config)
    plans = {}
    for number, stage in enumerate(stages, start=1):
        fitted = auto.fit_areas(auto.fit_quantize(stage), num_parameters)
        check_areas(fitted)
        plan = plan_training(
            skeleton.model,
            {area: getattr(fitted.adapter, area) for area in ("vision", "merger", "language")},
            LowRank(**fitted.adapter.lora.model_dump()),
            QUANTIZABLE if fitted.model.quantize == "nf4" else (),
            dtype,
            _head(fitted, skeleton),
        )
        title = "A run" if config.recipe is None else f"Recipe {config.recipe}"
        if len(stages) > 1:
            title += f", stage {number} of {len(stages)}"
        why = f" (model.dtype=auto on {device.type})" if config.model.dtype == "auto" else ""
        plans[f"{title}: frozen weights in {str(dtype).removeprefix('torch.')}{why}"] = plan
    return plans


def _head(config: Config, skeleton: Skeleton) -> DetectionHeadConfig | None:
    """What a run would build; the head that a folder holds is not looked at."""
    from boxtune.models.detection_head.config import fitted_to

    if not config.model.detection_head:
        return None
    wanted = {n: v for n, v in config.detection_head.model_dump(exclude={"loss"}).items() if v != "auto"}
    return fitted_to(skeleton.model.config.get_text_config(), end_token_id=0, **wanted)


def _plan_fields(title: str, plan: TrainingPlan) -> dict[str, Any]:
    fields = dataclasses.asdict(plan)
    for field, area in zip(fields["areas"], plan.areas, strict=True):
        field["training"] = area.training
    totals = ("num_parameters", "num_trainable", "num_weight_bytes", "num_optimizer_bytes")
    return {"title": title, **{name: getattr(plan, name) for name in totals}, **fields}
