"""A comparison of recipes to look at: one HTML page that stands alone, made of the pieces of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from boxtune.evaluation.intervals import LEVEL, NUM_RESAMPLES
from boxtune.evaluation.page.charts import Axis, Chart, Line, line_chart
from boxtune.evaluation.page.curves import mean_curves
from boxtune.evaluation.page.differences import difference_table, verdict
from boxtune.evaluation.page.figures import Figure, TableOfFigures
from boxtune.evaluation.page.render import render, write_page
from boxtune.evaluation.summary import FIGURE_NAMES, format_share
from boxtune.training.comparison_results import FIGURES, RecipeComparison, RecipeRow


def write_recipes_page(path: Path, comparison: RecipeComparison) -> None:
    """Write the page.

    Args:
        path: file to write.
        comparison: of finished runs.

    Raises:
        SaveError: the file cannot be written.
    """
    first, *compared = comparison.rows
    several = comparison.num_seeds > 1
    others = "other images of this kind and other seeds" if several else "other images of this kind"
    judged = f"{comparison.num_judged:,} images"
    text = render(
        "evaluation/page/recipes.html",
        title=f"Recipes compared on {comparison.data}",
        lead=f"{comparison.model}: {comparison.num_images:,} images seen by each recipe, {_seeds(comparison)}, judged "
        f"on {judged}. The baseline is {first.recipe}.",
        verdicts=[verdict(row.recipe, first.recipe, row.against_baseline, judged, others) for row in compared],
        difference_table=difference_table({row.recipe: row.against_baseline for row in compared}),
        table=_table(comparison),
        level=f"{LEVEL:.0%}",
        num_resamples=f"{NUM_RESAMPLES:,}",
        several=several,
        charts=[*_looks(comparison), _over_minutes(comparison)],
        curves=mean_curves([(row.recipe, row.curves) for row in comparison.rows]),
    )
    write_page(path, text)


def _seeds(comparison: RecipeComparison) -> str:
    return "one seed" if comparison.num_seeds == 1 else f"{comparison.num_seeds} seeds"


def _table(comparison: RecipeComparison) -> TableOfFigures:
    columns = [FIGURE_NAMES[name] for name in FIGURES]
    rows = tuple((row.recipe, "", tuple(_cells(row, comparison))) for row in comparison.rows)
    return TableOfFigures("recipe", (*columns, "AP over seeds", "trained weights", "minutes", "peak memory"), rows)


def _cells(row: RecipeRow, comparison: RecipeComparison) -> list[Figure]:
    cells = []
    for name in FIGURES:
        one = row.figures[name]
        known = [r.figures[name].mean for r in comparison.rows]
        best = one.mean is not None and len(set(known)) > 1 and one.mean == max(k for k in known if k is not None)
        interval = f"{one.interval.low:.3f} to {one.interval.high:.3f}" if one.interval else ""
        cells.append(Figure(name, "", format_share(one.mean), interval, best))
    of_seeds = row.figures["map"].of_seeds
    texts = ("–" if of_seeds is None else f"± {of_seeds:.3f}", row.trained_text, f"{row.minutes:.1f}", row.memory_text)
    return [*cells, *(Figure("", "", text) for text in texts)]


def _over_minutes(comparison: RecipeComparison) -> Chart:
    """A dot a run."""
    lines = [
        Line(row.recipe, row.minutes_of_seeds, [one.map for one in row.metrics], place, points=True, joined=False)
        for place, row in enumerate(comparison.rows)
    ]
    longest = max(minutes for row in comparison.rows for minutes in row.minutes_of_seeds)
    x, note = Axis("minutes of training", 0, longest), "A dot a run. Loading and evaluation are not counted."
    return line_chart("AP and the time it took", lines, x, _ap_axis(lines), note)


def _looks(comparison: RecipeComparison) -> list[Chart]:
    """AP of the watched images along the images seen, a line a seed; nothing where nobody looked."""
    lines = [
        Line(row.recipe, [images for images, _ in looks], [ap for _, ap in looks], place, points=True)
        for place, row in enumerate(comparison.rows)
        for looks in row.looks
        if looks
    ]
    if not lines:
        return []
    x = Axis("images seen", 0, comparison.num_images)
    note = "Of the few watched images, in the course of training: it shows how fast a recipe learns, not how well."
    chart = line_chart("AP along the images seen", lines, x, _ap_axis(lines), note)
    return [Chart(chart.title, chart.svg, tuple(dict.fromkeys(chart.key)), chart.note)]


def _ap_axis(lines: Sequence[Line]) -> Axis:
    """From 0 to a tenth above the highest."""
    highest = max((value for line in lines for value in line.ys if value is not None), default=0.0)
    return Axis("AP", 0, min(1.0, math.ceil(10 * highest + 0.5) / 10))
