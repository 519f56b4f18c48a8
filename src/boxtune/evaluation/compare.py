"""Two or more models on the same images: is one better, and how sure is that?"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from boxtune.console import say
from boxtune.errors import ConfigError, DataError, SaveError
from boxtune.evaluation.coco import ScoredFiles, read_scored
from boxtune.evaluation.evaluate import Evaluation
from boxtune.evaluation.intervals import (
    HEADLINE,
    LEVEL,
    NUM_RESAMPLES,
    Difference,
    check_resampling,
    draw_images,
    paired_difference,
    redrawn_figures,
)
from boxtune.evaluation.judged import JudgedImage, in_coco_order
from boxtune.evaluation.metrics import Metrics
from boxtune.evaluation.ranking import rank_images
from boxtune.evaluation.summary import FIGURE_NAMES, format_share, notes
from boxtune.inference.detector import Decoder
from boxtune.models.detection_head.saving import has_head
from boxtune.models.load import check_model
from boxtune.models.places import folder_of


@dataclass(frozen=True)
class ComparedModel:
    """One column of a comparison.

    Attributes:
        name: as the user said it.
        metrics: its figures, with their intervals.
        against_baseline: field of `Metrics` (those in `intervals.HEADLINE`) → difference to the first model; None where
            one of the two has no such figure, and for the first model itself an empty dict.
    """

    name: str
    metrics: Metrics
    against_baseline: dict[str, Difference | None]


@dataclass(frozen=True)
class Comparison:
    """The first model is the baseline.

    Attributes:
        models: in the order given, two or more.
        num_images: judged by all of them.
        level: of the intervals, 0.95.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    models: tuple[ComparedModel, ...]
    num_images: int
    level: float
    num_resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "baseline": self.models[0].name,
            "num_images": self.num_images,
            "level": self.level,
            "num_resamples": self.num_resamples,
            "seed": self.seed,
            "models": [
                {
                    "name": model.name,
                    "metrics": model.metrics.to_dict(),
                    "against_baseline": {
                        name: None if one is None else dataclasses.asdict(one)
                        for name, one in model.against_baseline.items()
                    },
                }
                for model in self.models
            ],
        }


def check_models(names: Sequence[str], decoder: Decoder) -> dict[str, tuple[str, ...]]:
    """Refuse models that cannot be compared before the first is loaded; name → the labels that it was taught.

    Raises:
        ModelError: one of them is not there, or cannot be loaded as far as small files tell.
        ConfigError: one has no detection head, and the decoder needs it.
    """
    contracts = {name: check_model(name) for name in names}
    without = [name for name in names if not has_head(folder_of(name))] if decoder != "text" else []
    if without:
        raise ConfigError(f"decoder={decoder} needs a detection head, and {without[0]} has none: use the text decoder.")
    return {name: contract.labels if contract is not None else () for name, contract in contracts.items()}


def check_enough(num_images: int) -> None:
    """Refuse a single image.

    Raises:
        DataError: two are needed to draw them in different ways.
    """
    if num_images < 2:
        raise DataError(f"{num_images} image is too little to compare models on: take two or more.")


def compare_models(
    evaluations: Mapping[str, Evaluation], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare models that were judged on the same images; the first is the baseline.

    Args:
        evaluations: name → its evaluation, as `evaluate(…, details=True)` or `evaluate_model` gives it; two or more.
        num_resamples: of the bootstrap.
        seed: of the bootstrap; 0, the default, is also that of the intervals in `Metrics`.

    Raises:
        DataError: fewer than two, or they were judged on different images or boxes.
    """
    judged = {name: (one.metrics, in_coco_order(one.judged)) for name, one in evaluations.items()}
    return _compare(judged, num_resamples, seed)


def compare_files(
    annotations: Path, predictions: Mapping[str, Path], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare COCO results of several models against one COCO file; the first is the baseline.

    Args:
        annotations: COCO annotations.
        predictions: name → COCO results; two or more.
        num_resamples, seed: as for `compare_models`.

    Raises:
        DataError: fewer than two; see `score_files`.
    """
    scored = {name: read_scored(annotations, path, num_resamples) for name, path in predictions.items()}
    return compare_scored(scored, num_resamples=num_resamples, seed=seed)


def compare_scored(
    scored: Mapping[str, ScoredFiles], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Comparison:
    """As `compare_files`, of files that are read already (`read_scored`)."""
    return _compare({name: (one.metrics, list(one.images)) for name, one in scored.items()}, num_resamples, seed)


def _compare(judged: Mapping[str, tuple[Metrics, list[JudgedImage]]], num_resamples: int, seed: int) -> Comparison:
    check_resampling(num_resamples, LEVEL)
    if len(judged) < 2:
        raise DataError(f"A comparison needs two models or more, not {len(judged)}: name them with commas, A,B.")
    names = list(judged)
    baseline, baseline_images = judged[names[0]]
    check_enough(len(baseline_images))
    for name in names[1:]:
        _check_same_images(names[0], baseline_images, name, judged[name][1])
    drawn = draw_images(len(baseline_images), num_resamples, seed)
    redrawn = {name: redrawn_figures(images, rank_images(images), drawn) for name, (_, images) in judged.items()}
    models = [ComparedModel(names[0], baseline, {})]
    for name in names[1:]:
        metrics = judged[name][0]
        differences: dict[str, Difference | None] = {}
        for figure in HEADLINE:
            ours, theirs = getattr(metrics, figure), getattr(baseline, figure)
            known = ours is not None and theirs is not None
            both = redrawn[name][figure], redrawn[names[0]][figure]
            differences[figure] = paired_difference(ours - theirs, *both, LEVEL) if known else None
        models.append(ComparedModel(name, metrics, differences))
    return Comparison(tuple(models), len(baseline_images), LEVEL, num_resamples, seed)


def _check_same_images(first: str, images: Sequence[JudgedImage], second: str, others: Sequence[JudgedImage]) -> None:
    known = {image.sample_id: image.truth for image in images}
    found = {image.sample_id: image.truth for image in others}
    if strange := sorted(known.keys() ^ found.keys()):
        raise DataError(
            f"{first} and {second} were judged on different images ({len(strange)} of them, such as "
            f"'{strange[0]}'): judge both on the same split with the same --max-images."
        )
    for sample_id, truth in known.items():
        other = found[sample_id]
        if truth.labels != other.labels or not np.array_equal(truth.xyxy, other.xyxy):
            raise DataError(
                f"{first} and {second} were judged against different boxes on '{sample_id}': judge both on the same "
                "annotations."
            )


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write `compare.json`; errors as of `write_json`."""
    write_json(path, comparison.to_dict())


def write_json(path: Path, content: Any) -> None:
    """Write plain values, in a folder that is made where it is missing.

    Raises:
        SaveError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise SaveError(f"{path} cannot be written: {error.strerror}. Choose another --output-dir.") from None


def print_comparison(comparison: Comparison, console: Console) -> None:
    """A row a figure; for every model after the first also the difference, the chance to be better, and the interval.

    Models are numbered, so that three of them fit into 80 columns whatever their names are.
    """
    title = (
        f"{comparison.num_images} images. Below a figure: {comparison.level:.0%} of redrawn sets of them; beside a "
        "difference: the share of sets on which the model is better."
    )
    say(console, title)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for number, model in enumerate(comparison.models, start=1):
        say(console, f"{number}: {model.name}")
        table.add_column(str(number), justify="right", no_wrap=True)
        if model.against_baseline:
            table.add_column(f"{number} - 1", justify="right", no_wrap=True)
    for figure in HEADLINE:
        cells: list[str] = []
        for model in comparison.models:
            cells.append(_figure_cell(model.metrics, figure))
            if model.against_baseline:
                cells.append(_difference_cell(model.against_baseline[figure]))
        if any(getattr(model.metrics, figure) is not None for model in comparison.models):
            table.add_row(FIGURE_NAMES[figure], *cells)
    console.print(table, highlight=False)
    for model in comparison.models:
        for note in notes(model.metrics):
            say(console, f"{model.name}: {note}")


def _figure_cell(metrics: Metrics, figure: str) -> str:
    interval = None if metrics.intervals is None else metrics.intervals.figures.get(figure)
    value = format_share(getattr(metrics, figure))
    return value if interval is None else f"{value}\n{interval.low:.2f}–{interval.high:.2f}"


def _difference_cell(difference: Difference | None) -> str:
    if difference is None or math.isnan(difference.value):
        return "–"
    low, high = difference.interval.low, difference.interval.high
    return f"{difference.value:+.3f} {difference.probability_better:4.0%}\n{low:+.3f}…{high:+.3f}"
