"""Recipes against each other: the same images, the same budget of images, several seeds, judged on the same split.

A comparison is a folder; a run in it that is finished is not trained again, one that was left begins anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from boxtune.config.load import load_config, to_yaml
from boxtune.config.recipes import RECIPES, Recipe, find_recipe
from boxtune.config.schema import Config
from boxtune.detections import FloatArray
from boxtune.errors import BoxtuneError, ConfigError, SaveError
from boxtune.evaluation.coco import read_scored
from boxtune.evaluation.compare import write_json
from boxtune.evaluation.intervals import LEVEL, NUM_RESAMPLES, Interval, draw_images, percentiles, redrawn_figures
from boxtune.evaluation.metrics import Metrics
from boxtune.evaluation.ranking import rank_images
from boxtune.training.comparison_run import CONFIG_FILE, ERROR_FILE, RESULT_FILE, RunResult, read_result, run

FIGURES: Final = ("map", "map50", "mean_iou")
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
        "evaluation.at_end",
        "evaluation.every",
    }
)


@dataclass(frozen=True)
class Spread:
    """One figure of a recipe over its seeds.

    Attributes:
        mean: over seeds; None where there is nothing to measure.
        interval: of that mean when images and seeds are drawn anew together, with replacement. One seed: images only.
        of_seeds: standard deviation over seeds; None of one seed.
    """

    mean: float | None
    interval: Interval | None
    of_seeds: float | None


@dataclass(frozen=True)
class RecipeRow:
    """One recipe of a comparison.

    Attributes:
        recipe: its full name.
        figures: `map`, `map50`, `mean_iou` → over seeds and images.
        metrics: of each seed.
        num_trained: weights that were trained, one number a stage.
        minutes: of training, mean over seeds.
        peak_bytes: most memory, largest of the seeds; training and evaluation together.
        memory: `cuda` or `rss`: what was measured.
    """

    recipe: str
    figures: dict[str, Spread]
    metrics: tuple[Metrics, ...]
    num_trained: tuple[int, ...]
    minutes: float
    peak_bytes: int
    memory: str


@dataclass(frozen=True)
class RecipeComparison:
    """All of them.

    Attributes:
        rows: in the order asked for.
        model, data: what was trained on what.
        num_images: images that each recipe saw in training, all stages together, repeats counted.
        num_seeds: runs of each recipe.
        num_judged: images that each run was judged on. Where the data has no val split, each seed holds back others, so
            the spread over seeds is that of the division too.
    """

    rows: tuple[RecipeRow, ...]
    model: str
    data: str
    num_images: int
    num_seeds: int
    num_judged: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        content = dataclasses.asdict(self)
        for row, plain in zip(self.rows, content["rows"], strict=True):
            plain["metrics"] = [metrics.to_dict() for metrics in row.metrics]
        return content


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
    """Train each recipe with each seed, and judge it on the val split.

    Args:
        names: of recipes, or their beginnings (`r1`).
        data: as `boxtune train --data` takes it.
        output_dir: new, or that of the same comparison, which goes on where it was left.
        model: to start from.
        num_images: that each recipe sees in training, repeats counted, all of its stages together; rounded up to whole
            steps. Batches are of one size, so the recipes see exactly the same number.
        num_seeds: seeds 0, 1 …
        overrides: `KEY.SUB=VALUE` for every run.
        isolated: each run in a process of its own, so that its peak of memory is its own.
        console: what is said goes there; stderr by default.

    Raises:
        ConfigError: unknown recipe, a setting that is the comparison's own, or a folder of something else.
        BoxtuneError: as `boxtune.train`; names the run.
    """
    console = console or Console(stderr=True)
    recipes = [resolve_recipe(name) for name in names]
    _check_request(recipes, num_images, num_seeds, overrides)
    batch, steps = _budget(recipes, num_images, load_config(None, list(overrides)))
    said = {"model": model, "data": data, "num_images": steps * batch, "overrides": list(overrides)}
    _claim(output_dir, said)
    if steps * batch != num_images:
        console.print(f"{steps * batch} images instead of {num_images}: whole steps for every recipe.", highlight=False)
    jobs = [(recipe, seed) for seed in range(num_seeds) for recipe in recipes]  # a first look after the first seed
    for number, (recipe, seed) in enumerate(jobs, start=1):
        folder = _folder(output_dir, recipe, seed)
        title = f"{number} of {len(jobs)}: {recipe.name}, seed {seed}"
        if read_result(folder) is not None:
            console.print(f"{title}: finished before", highlight=False, soft_wrap=True)
            continue
        console.print(f"{title}: {folder / LOG_FILE} says how far", highlight=False, soft_wrap=True)
        _train(folder, _config(recipe, seed, data, model, folder, steps, overrides), isolated, console)
    comparison = _summary(recipes, output_dir, said, num_seeds)
    write_json(output_dir / COMPARISON_FILE, comparison.to_dict())
    return comparison


def resolve_recipe(name: str) -> Recipe:
    """A recipe by its name or by the beginning of only one name.

    Raises:
        ConfigError: none, or several.
    """
    fitting = [recipe for full, recipe in RECIPES.items() if full.startswith(f"{name}-")]
    return fitting[0] if len(fitting) == 1 and name not in RECIPES else find_recipe(name)


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
        "evaluation.every=none",
    ]
    defaults = [f"trainer.per_device_train_batch_size={_DEFAULT_BATCH}"]
    return load_config(None, [*defaults, *overrides, *ours])


def _folder(output_dir: Path, recipe: Recipe, seed: int) -> Path:
    return output_dir / recipe.name / f"seed-{seed}"


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


# ---- what it came to -----------------------------------------------------------------------------------------------


def _summary(recipes: Sequence[Recipe], output_dir: Path, said: dict[str, Any], num_seeds: int) -> RecipeComparison:
    rows = [_row(recipe, [_folder(output_dir, recipe, seed) for seed in range(num_seeds)]) for recipe in recipes]
    for seed in range(num_seeds):
        truths = {_truth_file(_folder(output_dir, recipe, seed)).read_bytes() for recipe in recipes}
        if len(truths) > 1:
            raise ConfigError(
                f"Runs of seed {seed} in {output_dir} were judged on different images or boxes: the data has changed "
                "since the first of them, begin anew in another --output-dir."
            )
    judged = rows[0].metrics[0].num_images
    return RecipeComparison(tuple(rows), said["model"], said["data"], said["num_images"], num_seeds, judged)


def _truth_file(folder: Path) -> Path:
    result = read_result(folder)
    assert result is not None  # trained above, or finished before
    return folder / result.model / "ground_truth.json"


def _row(recipe: Recipe, folders: Sequence[Path]) -> RecipeRow:
    results: list[RunResult] = []
    metrics: list[Metrics] = []
    redrawn: list[dict[str, FloatArray]] = []
    for folder in folders:
        result = read_result(folder)
        assert result is not None  # trained above, or finished before
        model = folder / result.model
        truth = _truth_file(folder)
        scored = read_scored(truth, model / "predictions.json", 0)
        # the same images are drawn alike; without a val split each seed holds back others, which are drawn on their own
        drawing = int.from_bytes(hashlib.sha256(truth.read_bytes()).digest()[:4])
        drawn = draw_images(len(scored.images), NUM_RESAMPLES, drawing)
        redrawn.append(redrawn_figures(scored.images, rank_images(scored.images), drawn))
        metrics.append(Metrics.from_dict(json.loads((model / "metrics.json").read_text(encoding="utf-8"))))
        results.append(result)
    return RecipeRow(
        recipe=recipe.name,
        figures={
            name: spread([getattr(one, name) for one in metrics], [one[name] for one in redrawn]) for name in FIGURES
        },
        metrics=tuple(metrics),
        num_trained=results[0].num_trained,
        minutes=float(np.mean([result.minutes for result in results])),
        peak_bytes=max(result.peak_bytes for result in results),
        memory=results[0].memory,
    )


def spread(values: Sequence[float | None], redrawn: Sequence[FloatArray], seed: int = 0) -> Spread:
    """A figure over seeds and images.

    Args:
        values: of each of S runs.
        redrawn: for each run `[B]` the figure on redrawn images.
        seed: of the drawing of runs.
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Spread(None, None, None)
    runs = np.stack(redrawn)
    chosen = np.random.default_rng(seed).integers(0, len(runs), size=runs.shape)
    means = np.take_along_axis(runs, chosen, axis=0).mean(axis=0)
    deviation = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return Spread(float(np.mean(known)), percentiles(means, LEVEL), deviation)


def print_recipes(comparison: RecipeComparison, console: Console) -> None:
    """A row a recipe."""
    table = Table(
        title=f"{comparison.model} on {comparison.data}: {comparison.num_images} images seen by each, "
        f"{comparison.num_seeds} seeds, judged on {comparison.num_judged} images",
        title_justify="left",
    )
    table.add_column("recipe", overflow="fold")
    for title in ("AP", "AP50", "mean IoU", "trained weights", "minutes", "peak memory"):
        table.add_column(title, justify="right", overflow="fold")
    for row in comparison.rows:
        table.add_row(
            row.recipe,
            *(_spread_cell(row.figures[name]) for name in FIGURES),
            " + ".join(f"{count:,}" for count in row.num_trained),
            f"{row.minutes:.1f}",
            f"{row.peak_bytes / 2**30:.2f} GiB {'GPU' if row.memory == 'cuda' else 'RSS'}",
        )
    console.print(table)
    seeds = "images and seeds" if comparison.num_seeds > 1 else "images (one seed says nothing of other seeds)"
    console.print(f"In brackets: {LEVEL:.0%} of means over redrawn {seeds}.", highlight=False)


def _spread_cell(one: Spread) -> str:
    if one.mean is None or one.interval is None:
        return "–" if one.mean is None else f"{one.mean:.3f}"
    return f"{one.mean:.3f} [{one.interval.low:.2f}, {one.interval.high:.2f}]"
