"""What the runs of a comparison of recipes came to, read from their folders: figures over seeds and images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from boxtune.config.recipes import Recipe
from boxtune.console import say
from boxtune.errors import ConfigError
from boxtune.evaluation.coco import read_scored
from boxtune.evaluation.intervals import (
    LEVEL,
    NUM_RESAMPLES,
    Difference,
    Interval,
    Redrawn,
    draw_images,
    interval_of,
    paired_difference,
    redrawn_figures,
)
from boxtune.evaluation.metrics import Metrics
from boxtune.evaluation.precision_recall import Curve, read_curves
from boxtune.evaluation.ranking import rank_images
from boxtune.training.comparison_run import RunResult, read_result

FIGURES: Final = ("map", "map50", "mean_iou")
TRUTH_FILE: Final = "ground_truth.json"


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
        against_baseline: the same figures → difference to the first recipe, paired by seed and image; None where one of
            the two has none, and for the first itself an empty dict.
        metrics: of each seed.
        num_trained: weights that were trained, one number a stage.
        minutes: of training, mean over seeds.
        minutes_of_seeds: of each.
        peak_bytes: most memory, largest of the seeds; training and evaluation together.
        memory: `cuda` or `rss`: what was measured.
        looks: of each seed, `(images seen, AP of the watched images)`; empty unless `evaluation.every` asked for them.
        curves: precision along recall, mean over seeds and labels; one of `precision_recall.OVERLAPS` → its curve.
    """

    recipe: str
    figures: dict[str, Spread]
    against_baseline: dict[str, Difference | None]
    metrics: tuple[Metrics, ...]
    num_trained: tuple[int, ...]
    minutes: float
    minutes_of_seeds: tuple[float, ...]
    peak_bytes: int
    memory: str
    looks: tuple[tuple[tuple[int, float], ...], ...]
    curves: dict[str, Curve]

    @property
    def trained_text(self) -> str:
        """Trained weights, stage by stage."""
        return " + ".join(f"{count:,}" for count in self.num_trained)

    @property
    def memory_text(self) -> str:
        """The peak, and what was measured."""
        return f"{self.peak_bytes / 2**30:.2f} GiB {'GPU' if self.memory == 'cuda' else 'RSS'}"


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
        """Plain values for JSON; the curves stay in the folders of the runs."""
        content = dataclasses.asdict(self)
        for row, plain in zip(self.rows, content["rows"], strict=True):
            plain["metrics"] = [metrics.to_dict() for metrics in row.metrics]
            del plain["curves"]
        return content


def read_comparison(
    recipes: Sequence[Recipe], output_dir: Path, said: Mapping[str, Any], num_seeds: int
) -> RecipeComparison:
    """The comparison of runs that are finished.

    Args:
        recipes: the first is the baseline.
        output_dir: of the comparison.
        said: its plan.
        num_seeds: runs of each recipe.

    Raises:
        ConfigError: runs of one seed were judged on different images or boxes.
        DataError: a folder of a run lacks a file.
    """
    for seed in range(num_seeds):
        truths = {(_model_of(run_folder(output_dir, one, seed)) / TRUTH_FILE).read_bytes() for one in recipes}
        if len(truths) > 1:
            raise ConfigError(
                f"Runs of seed {seed} in {output_dir} were judged on different images or boxes: the data has changed "
                "since the first of them, begin anew in another --output-dir."
            )
    runs = [[_read_run(run_folder(output_dir, recipe, seed)) for seed in range(num_seeds)] for recipe in recipes]
    images_a_step = said["num_images"] // runs[0][0].result.num_steps
    rows = tuple(
        _row(recipe.name, of_recipe, runs[0], images_a_step) for recipe, of_recipe in zip(recipes, runs, strict=True)
    )
    judged = rows[0].metrics[0].num_images
    return RecipeComparison(rows, said["model"], said["data"], said["num_images"], num_seeds, judged)


def run_folder(output_dir: Path, recipe: Recipe, seed: int) -> Path:
    """Where a recipe is trained with a seed."""
    return output_dir / recipe.name / f"seed-{seed}"


@dataclass(frozen=True)
class _Run:
    """One finished run: what it was, its figures, the same on redrawn images, and its curves."""

    result: RunResult
    metrics: Metrics
    redrawn: dict[str, Redrawn]
    curves: dict[str, Curve]


def _model_of(folder: Path) -> Path:
    result = read_result(folder)
    assert result is not None  # trained above, or finished before
    return folder / result.model


def _read_run(folder: Path) -> _Run:
    result = read_result(folder)
    assert result is not None  # trained above, or finished before
    model = folder / result.model
    truth = model / TRUTH_FILE
    scored = read_scored(truth, model / "predictions.json", 0)
    # the same images are drawn alike; without a val split each seed holds back others, which are drawn on their own
    drawing = int.from_bytes(hashlib.sha256(truth.read_bytes()).digest()[:4])
    drawn = draw_images(len(scored.images), NUM_RESAMPLES, drawing)
    metrics = Metrics.from_dict(json.loads((model / "metrics.json").read_text(encoding="utf-8")))
    redrawn = redrawn_figures(scored.images, rank_images(scored.images), drawn)
    return _Run(result, metrics, redrawn, read_curves(model).mean)


def _row(recipe: str, runs: Sequence[_Run], baseline: Sequence[_Run], images_a_step: int) -> RecipeRow:
    results = [run.result for run in runs]
    return RecipeRow(
        recipe=recipe,
        figures={
            name: spread([getattr(run.metrics, name) for run in runs], [run.redrawn[name] for run in runs])
            for name in FIGURES
        },
        against_baseline={} if runs is baseline else {name: _difference(name, runs, baseline) for name in FIGURES},
        metrics=tuple(run.metrics for run in runs),
        num_trained=results[0].num_trained,
        minutes=float(np.mean([result.minutes for result in results])),
        minutes_of_seeds=tuple(result.minutes for result in results),
        peak_bytes=max(result.peak_bytes for result in results),
        memory=results[0].memory,
        looks=tuple(tuple((step * images_a_step, ap) for step, ap in result.looks) for result in results),
        curves={
            overlap: tuple(np.mean([run.curves[overlap] for run in runs], axis=0).tolist())
            for overlap in runs[0].curves
            if all(overlap in run.curves for run in runs)
        },
    )


def _difference(figure: str, runs: Sequence[_Run], baseline: Sequence[_Run]) -> Difference | None:
    """Runs of one seed belong together: they were given the same images in the same order."""
    ours, theirs = ([getattr(run.metrics, figure) for run in side] for side in (runs, baseline))
    if None in (*ours, *theirs):
        return None
    redrawn, of_baseline = (over_seeds([run.redrawn[figure] for run in side]) for side in (runs, baseline))
    return paired_difference(float(np.mean(ours) - np.mean(theirs)), redrawn, of_baseline, LEVEL)


def spread(values: Sequence[float | None], redrawn: Sequence[Redrawn]) -> Spread:
    """A figure over seeds and images.

    Args:
        values: of each of S runs.
        redrawn: for each run the figure on redrawn images, `[B]`.
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Spread(None, None, None)
    deviation = float(np.std(known, ddof=1)) if len(known) > 1 else None
    mean = float(np.mean(known))
    return Spread(mean, interval_of(mean, over_seeds(redrawn), LEVEL), deviation)


def over_seeds(redrawn: Sequence[Redrawn]) -> Redrawn:
    """The mean of a figure over runs, when runs are drawn anew as well as images; always the same runs are drawn."""
    runs = np.stack([one.values for one in redrawn])
    chosen = np.random.default_rng(0).integers(0, len(runs), size=runs.shape)
    means = np.take_along_axis(runs, chosen, axis=0).mean(axis=0)
    return Redrawn(means, min((one.num_images for one in redrawn), key=sum), redrawn[0].is_raised)


def print_recipes(comparison: RecipeComparison, console: Console) -> None:
    """A row a recipe; 80 columns are enough."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("recipe")
    for title in ("AP", "AP50", "mean IoU", "trained", "minutes", "memory"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in comparison.rows:
        table.add_row(
            row.recipe,
            *(_spread_cell(row.figures[name]) for name in FIGURES),
            row.trained_text.replace(" + ", " +\n"),
            f"{row.minutes:.1f}",
            row.memory_text.replace("GiB ", "GiB\n"),
        )
    seeds = "images and seeds" if comparison.num_seeds > 1 else "images (one seed says nothing of other seeds)"
    title = (
        f"{comparison.model} on {comparison.data}: {comparison.num_images} images seen by each, {comparison.num_seeds} "
        f"seeds, judged on {comparison.num_judged} images. Below a figure: {LEVEL:.0%} of means over redrawn {seeds}."
    )
    say(console, title)
    console.print(table, highlight=False)


def _spread_cell(one: Spread) -> str:
    if one.mean is None or one.interval is None:
        return "–" if one.mean is None else f"{one.mean:.3f}"
    return f"{one.mean:.3f}\n{one.interval.low:.2f}–{one.interval.high:.2f}"
