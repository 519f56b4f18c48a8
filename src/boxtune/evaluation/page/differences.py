"""Paired differences to a baseline: as a table, and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from boxtune.evaluation.intervals import Difference
from boxtune.evaluation.page.figures import Figure, TableOfFigures, short_label
from boxtune.evaluation.summary import FIGURE_NAMES

Side = Literal["better", "worse", "open"]
Differences = Mapping[str, Difference | None]
"""Field of `Metrics` → how it differs from the baseline's; None where one of the two has no such figure."""


def difference_table(compared: Mapping[str, Differences]) -> TableOfFigures:
    """A row a figure; for each name the difference with its interval, and how often it is better than the baseline."""
    rows = []
    for figure in FIGURE_NAMES:
        differences = [of_one.get(figure) for of_one in compared.values()]
        if any(one is not None for one in differences):
            rows.append((FIGURE_NAMES[figure], "", tuple(cell for one in differences for cell in _cells(one))))
    columns = tuple(text for name in compared for text in (short_label(name), "better"))
    return TableOfFigures("difference to the baseline", columns, tuple(rows))


def _cells(difference: Difference | None) -> tuple[Figure, Figure]:
    if difference is None or math.isnan(difference.value):
        return Figure("", "", "–"), Figure("", "", "–")
    low, high = difference.interval.low, difference.interval.high
    value = Figure("", "", signed(difference.value), f"{signed(low)} to {signed(high)}", best=low > 0)
    return value, Figure("", "", f"{difference.probability_better:.0%}")


def verdict(
    name: str, baseline: str, differences: Differences, judged: str, others: str = "other images of this kind"
) -> str:
    """What the differences of a model say, in words.

    Args:
        name, baseline: of the two.
        differences: to the baseline.
        judged: what both were judged on, such as `200 images`.
        others: what the intervals are over.
    """
    known = {figure: one for figure, one in differences.items() if one is not None}
    if "map" not in known:
        return f"{name} and {baseline} cannot be compared by AP: there is no true box."
    main = known["map"]
    low, high = signed(main.interval.low), signed(main.interval.high)
    if side(main) == "open":
        first = (
            f"By AP, {name} and {baseline} cannot be told apart on these {judged}: the difference is "
            f"{signed(main.value)}, and with {others} may be anything from {low} to {high}."
        )
    else:
        first = (
            f"{name} is {side(main)} than {baseline}: the difference in AP is {signed(main.value)}, and with {others} "
            f"would be from {low} to {high}."
        )
    sides: dict[Side, list[str]] = {"better": [], "worse": [], "open": []}
    for figure, one in known.items():
        if figure != "map":
            sides[side(one)].append(FIGURE_NAMES[figure])
    words: dict[Side, str] = {"better": "Better", "worse": "Worse", "open": "Not told apart"}
    further = [
        f"{'Also ' + words[which].lower() if which == side(main) else words[which]}: {', '.join(found)}."
        for which, found in sides.items()
        if found
    ]
    return " ".join([first, *further])


def signed(value: float) -> str:
    """Three decimals with their sign; what rounds to nothing has none."""
    text = f"{value:+.3f}"
    return text[1:] if float(text) == 0 else text


def side(difference: Difference) -> Side:
    """`better` or `worse` where the whole interval lies on one side of 0, else `open`."""
    if difference.interval.low > 0:
        return "better"
    return "worse" if difference.interval.high < 0 else "open"
