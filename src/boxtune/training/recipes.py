"""Recipes run: one training, or several in a row, each on the result of the one before.

The rows are in `boxtune.config.recipes`. A recipe with several stages has a folder for each; a stage that is finished
is not trained again, and the next one starts only from what it saved.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from boxtune import processes
from boxtune.config.checks import check_config
from boxtune.config.load import to_yaml
from boxtune.config.recipes import Recipe, find_recipe, stage_configs
from boxtune.config.schema import Config
from boxtune.console import say
from boxtune.errors import ConfigError
from boxtune.evaluation.metrics import Metrics
from boxtune.evaluation.summary import print_metrics
from boxtune.training.callbacks.checkpoints import CONFIG_FILE, RUN_FILE, last_checkpoint
from boxtune.training.clock import RunClock
from boxtune.training.damage import read_json
from boxtune.training.resume import check_settings
from boxtune.training.run import TrainResult
from boxtune.training.run import train as train_once
from boxtune.training.stages import (
    StageMark,
    claim_recipe_dir,
    discard_unbegun,
    is_finished,
    verified_weights,
)
from boxtune.whole_files import write_text


@dataclass(frozen=True)
class RecipeResult:
    """What a recipe came to.

    Attributes:
        recipe: its row.
        stages: the result of each stage that was reached, in order.
    """

    recipe: Recipe
    stages: tuple[TrainResult, ...]

    @property
    def output_dir(self) -> Path:
        """Where the model of the last stage lies."""
        return self.stages[-1].output_dir


def train(config: Config, *, resume: bool = False, console: Console | None = None) -> TrainResult:
    """Fine-tune a model as the configuration says, and evaluate it; of a recipe, the result of its last stage.

    Raises:
        BoxtuneError: anything in the configuration, the data, the model or the disk that the user can mend.
    """
    if config.recipe is None:
        return train_once(config, resume=resume, console=console)
    return run_recipe(config.recipe, config, resume=resume, console=console).stages[-1]


def run_recipe(name: str, config: Config, *, resume: bool = False, console: Console | None = None) -> RecipeResult:
    """Run the stages of a recipe.

    Args:
        name: of the recipe, whole or short.
        config: everything else. What the recipe fixes may be said again, but not otherwise. `trainer.minutes` is
            divided equally among the stages; steps and epochs hold for each.
        resume: go on with the run in the output folder, in the stage where it was left.
        console: what is said goes there; stderr by default.

    Raises:
        ConfigError: unknown recipe, or settings that contradict it.
        ModelError: a stage's folder does not hold that stage's result.
        BoxtuneError: as `boxtune.train`.
    """
    console = console or Console(stderr=True)
    recipe = find_recipe(name)
    name = recipe.name
    if config.recipe is not None and find_recipe(config.recipe) is not recipe:
        raise ConfigError(f"recipe={config.recipe} in the configuration, but {name} is asked for: name one of them.")
    config = config.model_copy(update={"recipe": name})
    check_config(config)
    if len(recipe.stages) == 1:
        return RecipeResult(recipe, (train_once(config, resume=resume, console=console),))
    if processes.count() > 1:
        names = " then ".join(f"'{stage.name}'" for stage in recipe.stages)
        raise ConfigError(
            f"recipe={name} trains {names}, which is for one process: start it without torchrun, or train the stages "
            "yourself, the second with --model on the folder of the first."
        )
    home = Path(config.output_dir)
    run_id = claim_recipe_dir(home, name, resume)
    write_text(home / CONFIG_FILE, to_yaml(config))
    results: list[TrainResult] = []
    weights: str | None = None
    for number, stage_config in enumerate(stage_configs(config), start=1):
        console.rule(f"stage {number} of {len(recipe.stages)}: {recipe.stages[number - 1].name}")
        mark = StageMark(name, run_id, number, weights)
        last = number == len(recipe.stages)
        results.append(_run_stage(stage_config, mark, last, console))
        if results[-1].stopped_by is not None:
            break
        if not last:
            if (metrics := results[-1].metrics) is not None:
                print_metrics(metrics, f"after stage {number}", console)
            weights = verified_weights(results[-1].output_dir, mark)
            _release_memory()
    return RecipeResult(recipe, tuple(results))


def _run_stage(config: Config, mark: StageMark, last: bool, console: Console) -> TrainResult:
    folder = Path(config.output_dir)
    if is_finished(folder) and not last:
        check_settings(folder, config, folder)
        say(console, f"Finished before: {folder}")
        return finished_result(folder)
    discard_unbegun(folder, mark)
    return train_once(config, resume=last_checkpoint(folder) is not None, console=console, stage=mark)


def finished_result(folder: Path) -> TrainResult:
    """What a finished run came to, read from its folder.

    Raises:
        ModelError: a file of it is missing or damaged.
    """
    checkpoint = last_checkpoint(folder)
    state = {} if checkpoint is None else read_json(checkpoint / "trainer_state.json")
    clock = state.get("stateful_callbacks", {}).get(RunClock.__name__, {}).get("attributes", {})
    losses = tuple((int(r["step"]), float(r["loss"])) for r in state.get("log_history", []) if "loss" in r)
    figures = folder / "metrics.json"
    metrics = Metrics.from_dict(read_json(figures)) if figures.is_file() else None
    seconds = float(clock.get("used_before", 0.0))
    best = read_json(folder / RUN_FILE).get("best", {})
    steps = int(state.get("global_step", 0))
    return TrainResult(folder, steps, seconds, losses, metrics, best_step=best.get("step"))


def _release_memory() -> None:
    """The stage before is over: its model must not stand in the way of the next one's."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
