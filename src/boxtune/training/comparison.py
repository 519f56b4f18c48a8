"""Recipes against each other: the same images, the same budget of images, several seeds, judged on the same split.

A comparison is a folder; a run in it that is finished is not trained again, one that was left begins anew.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rich.console import Console

from boxtune.config.load import load_config, to_yaml
from boxtune.config.recipes import Recipe, find_recipe
from boxtune.config.schema import Config
from boxtune.console import say
from boxtune.errors import BoxtuneError, ConfigError, SaveError
from boxtune.evaluation.compare import write_json
from boxtune.evaluation.compare_page import PAGE_FILE
from boxtune.training.comparison_page import write_recipes_page
from boxtune.training.comparison_results import RecipeComparison, read_comparison, run_folder
from boxtune.training.comparison_run import CONFIG_FILE, ERROR_FILE, RESULT_FILE, read_result, run

PLAN_FILE: Final = "plan.json"
COMPARISON_FILE: Final = "compare.json"
LOG_FILE: Final = "log.txt"
_DEFAULT_BATCH = 4
# What a comparison says itself: a setting of these would make its runs differ in length, or be the same.
_OWN_KEYS = frozenset(
    {
        "recipe",
        "output_dir",
        "data.path",
        "model.name",
        "trainer.seed",
        "trainer.max_steps",
        "trainer.minutes",
        "trainer.num_train_epochs",
        "trainer.dataloader_drop_last",
        "collator.token_budget",
        "evaluation.at_end",
    }
)


def compare_recipes(
    names: Sequence[str],
    data: str,
    output_dir: Path,
    *,
    model: str = "embedded",
    num_images: int = 400,
    num_seeds: int = 3,
    overrides: Sequence[str] = (),
    isolated: bool = True,
    console: Console | None = None,
) -> RecipeComparison:
    """Train each recipe with each seed, judge it on the val split, and write `compare.json` and a page.

    Args:
        names: of recipes, whole or short (`r1`); the first is the baseline.
        data: as `boxtune train --data` takes it.
        output_dir: new, or that of the same comparison, which goes on where it was left.
        model: to start from.
        num_images: that each recipe sees in training, repeats counted, all of its stages together; rounded up to whole
            steps. Batches are of one size, so the recipes see exactly the same number.
        num_seeds: seeds 0, 1 …
        overrides: `KEY.SUB=VALUE` for every run; `evaluation.every=0.2` adds AP along the images to the page.
        isolated: each run in a process of its own, so that its peak of memory is its own.
        console: what is said goes there; stderr by default.

    Raises:
        ConfigError: unknown recipe, a setting that is the comparison's own, or a folder of something else.
        BoxtuneError: as `boxtune.train`; names the run.
    """
    console = console or Console(stderr=True)
    recipes = [find_recipe(name) for name in names]
    _check_request(recipes, num_images, num_seeds, overrides)
    batch, steps = _budget(recipes, num_images, load_config(None, list(overrides)))
    said = {"model": model, "data": data, "num_images": steps * batch, "overrides": list(overrides)}
    _claim(output_dir, said)
    if steps * batch != num_images:
        say(console, f"{steps * batch} images instead of {num_images}: whole steps for every recipe.")
    jobs = [(recipe, seed) for seed in range(num_seeds) for recipe in recipes]  # a first look after the first seed
    for number, (recipe, seed) in enumerate(jobs, start=1):
        folder = run_folder(output_dir, recipe, seed)
        title = f"{number} of {len(jobs)}: {recipe.name}, seed {seed}"
        if read_result(folder) is not None:
            say(console, f"{title}: finished before")
            continue
        say(console, f"{title}: {folder / LOG_FILE} says how far")
        _train(folder, _config(recipe, seed, data, model, folder, steps, overrides), isolated, console)
    comparison = read_comparison(recipes, output_dir, said, num_seeds)
    write_json(output_dir / COMPARISON_FILE, comparison.to_dict())
    write_recipes_page(output_dir / PAGE_FILE, comparison)
    return comparison


def _check_request(recipes: Sequence[Recipe], num_images: int, num_seeds: int, overrides: Sequence[str]) -> None:
    names = [recipe.name for recipe in recipes]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"Recipes to compare are {', '.join(names) or 'none'}: name two or more, each once.")
    if num_images < 1 or num_seeds < 1:
        raise ConfigError(f"{num_images} images and {num_seeds} seeds: a comparison needs one or more of each.")
    for override in overrides:
        if (key := override.split("=")[0]) in _OWN_KEYS:
            raise ConfigError(f"{key} is the comparison's own (recipe, data, model, images, seeds): leave it out.")


def _budget(recipes: Sequence[Recipe], num_images: int, config: Config) -> tuple[int, int]:
    """Images a step, and steps of a whole recipe: the least that every recipe can divide among its stages."""
    batch = config.trainer.per_device_train_batch_size
    images = (_DEFAULT_BATCH if batch == "auto" else int(batch)) * config.trainer.gradient_accumulation_steps
    whole = math.lcm(*(len(recipe.stages) for recipe in recipes))
    return images, whole * math.ceil(num_images / (images * whole))


def _config(
    recipe: Recipe, seed: int, data: str, model: str, folder: Path, steps: int, overrides: Sequence[str]
) -> Config:
    ours = [
        f"recipe={recipe.name}",
        f"data.path={data}",
        f"model.name={model}",
        f"output_dir={folder / 'run'}",
        f"trainer.seed={seed}",
        f"trainer.max_steps={steps // len(recipe.stages)}",
        "trainer.dataloader_drop_last=true",  # a smaller last batch would come more often in some recipes
        "collator.token_budget=null",  # steps of so many tokens would hold other numbers of images
    ]
    defaults = [f"trainer.per_device_train_batch_size={_DEFAULT_BATCH}", "evaluation.every=none"]
    return load_config(None, [*defaults, *overrides, *ours])


def _claim(output_dir: Path, said: dict[str, Any]) -> None:
    """Make the folder, or see that it is of the same comparison."""
    path = output_dir / PLAN_FILE
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if before is None and output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
            raise ConfigError(f"{output_dir} holds something else than a comparison: choose another --output-dir.")
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"{output_dir} cannot be used: {error.strerror}. Choose another --output-dir.") from None
    except ValueError as error:
        if isinstance(error, BoxtuneError):
            raise
        raise ConfigError(f"{path} cannot be read: choose another --output-dir.") from None
    for key in said:
        if before is not None and before.get(key) != said[key]:
            raise ConfigError(
                f"{key} is {said[key]}, but the comparison in {output_dir} was begun with {before.get(key)}: "
                "leave it as it was, or choose another --output-dir."
            )
    write_json(path, said)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """A scheduler's signal ends the child too: `subprocess.run` kills it when an exception passes through."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _train(folder: Path, config: Config, isolated: bool, console: Console) -> None:
    try:
        if folder.is_dir():
            shutil.rmtree(folder)  # a run that was left
        folder.mkdir(parents=True)
        (folder / CONFIG_FILE).write_text(to_yaml(config), encoding="utf-8")
    except OSError as error:
        raise SaveError(f"{folder} cannot be written: {error.strerror}. Choose another --output-dir.") from None
    with (folder / LOG_FILE).open("w", encoding="utf-8") as log:
        if not isolated:
            run(folder, Console(file=log))
            return
        command = [sys.executable, "-m", "boxtune.training.comparison_run", str(folder)]
        with _sigterm_as_interrupt():
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if (folder / ERROR_FILE).is_file():
        raise BoxtuneError(f"{folder}: {(folder / ERROR_FILE).read_text(encoding='utf-8')}")
    if done.returncode or not (folder / RESULT_FILE).is_file():
        raise BoxtuneError(
            f"{folder}: the run ended with code {done.returncode}, see {LOG_FILE} there (-9: out of memory, perhaps)."
        )
