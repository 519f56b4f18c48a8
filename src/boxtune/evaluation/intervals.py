"""How far figures would move with other images: bootstrap intervals, and paired ones of differences.

Where all images agree, drawing them anew moves nothing. That is no certainty: `interval_of` then says what so many
images that are all alike leave open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from boxtune.detections import FloatArray
from boxtune.errors import DataError
from boxtune.evaluation.assignment import count_image
from boxtune.evaluation.judged import JudgedImage
from boxtune.evaluation.ranking import IOU_THRESHOLDS, IntArray, Ranked, average_precisions, rank_images

HEADLINE: Final = ("map", "map50", "map75", "mean_iou", "detection_rate50", "detection_rate70", "f1_50", "parse_rate")
"""Fields of `Metrics` that get an interval."""

NUM_RESAMPLES: Final = 1000
LEVEL: Final = 0.95
_TIE = 1e-12


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, in the unit of the figure."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Bootstrap over images (Efron and Tibshirani 1993, chapter 13): how figures move with the images drawn.

    Shares and means have percentile intervals. An image that is drawn twice brings its boxes twice, which raises AP, by
    0.05 where each of 80 labels is on few images; so AP has basic ones (reverse percentile: Davison and Hinkley 1997,
    section 5.2), which take from the figure what drawing anew added to it. From a difference of two models it falls
    away, and that has a percentile interval.

    It says nothing of other seeds of training, nor of images of another kind.

    Attributes:
        level: share of resamples inside, 0.95.
        num_resamples: how often the images were drawn anew, with replacement.
        seed: of the drawing.
        figures: name of a field of `Metrics` (those in `HEADLINE`) → its interval; None where there is no figure.
        unanimous: those of them in which all images agree, so that the interval is not the bootstrap's (`interval_of`).
    """

    level: float
    num_resamples: int
    seed: int
    figures: dict[str, Interval | None]
    unanimous: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """One figure of a model less that of the baseline, on the same images.

    Attributes:
        value: the difference; positive where the model is better.
        interval: paired: both models are judged on the same resampled images.
        probability_better: share of resamples in which the difference is positive, ties counting half.
    """

    value: float
    interval: Interval
    probability_better: float


def draw_images(num_images: int, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> IntArray:
    """`[B, I]` how often each image is drawn, with replacement, in each of B resamples of I images."""
    drawing = np.random.default_rng(seed)
    return drawing.multinomial(num_images, np.full(num_images, 1 / num_images), size=num_resamples)


@dataclass(frozen=True, eq=False)
class Redrawn:
    """One figure on redrawn images.

    Attributes:
        values: `[B]`, NaN where there is nothing to measure.
        num_images: how many images it rests on; of AP, which is a mean over labels, one number a label.
        is_raised: drawing images twice raises the figure, as it does AP.
    """

    values: FloatArray
    num_images: tuple[int, ...]
    is_raised: bool = False


def redrawn_figures(images: Sequence[JudgedImage], ranked: Mapping[str, Ranked], drawn: IntArray) -> dict[str, Redrawn]:
    """Every headline figure on redrawn images.

    Args:
        images: judged once; `num_images` of `drawn`.
        ranked: of `rank_images(images)`.
        drawn: `[B, I]` copies of each image.
    """
    return {**_precisions(ranked, drawn), **_assignments(images, drawn), "parse_rate": _parse_rate(images, drawn)}


def _precisions(ranked: Mapping[str, Ranked], drawn: IntArray) -> dict[str, Redrawn]:
    with_truth = [one for one in ranked.values() if one.num_truth.any()]
    total, num_labels = np.zeros((len(drawn), len(IOU_THRESHOLDS))), np.zeros((len(drawn), 1))
    for one in with_truth:
        precision = average_precisions(one, drawn)
        known = ~np.isnan(precision)
        total += np.where(known, precision, 0.0)
        num_labels += known[:, :1]
    of_levels = np.where(num_labels > 0, total / np.maximum(num_labels, 1), np.nan)
    num_images = tuple(int(np.count_nonzero(one.num_truth)) for one in with_truth)
    figures = {"map": of_levels.mean(axis=1), "map50": of_levels[:, 0], "map75": of_levels[:, 5]}
    return {name: Redrawn(values, num_images, is_raised=True) for name, values in figures.items()}


def _assignments(images: Sequence[JudgedImage], drawn: IntArray) -> dict[str, Redrawn]:
    counts = [count_image(image.truth, image.predicted, image.crowd) for image in images]
    columns = np.array(
        [
            (sum(c.iou), len(c.iou), c.num_boxes, c.num_predictions, *(sum(v >= t for v in c.iou) for t in (0.5, 0.7)))
            for c in counts
        ],
        dtype=np.float64,
    )
    iou, pairs, boxes, found, hits50, hits70 = (drawn @ columns).T

    def figure(part: FloatArray, whole: FloatArray, *counted: int) -> Redrawn:
        return Redrawn(_ratio(part, whole), (int(np.count_nonzero(columns[:, counted].any(axis=1))),))

    return {
        "mean_iou": figure(iou, pairs, 1),
        "detection_rate50": figure(hits50, boxes, 2),
        "detection_rate70": figure(hits70, boxes, 2),
        "f1_50": figure(2 * hits50, boxes + found, 2, 3),
    }


def _parse_rate(images: Sequence[JudgedImage], drawn: IntArray) -> Redrawn:
    if any(image.readable is None for image in images):
        return Redrawn(np.full(len(drawn), np.nan), ())
    readable = np.array([float(bool(image.readable)) for image in images])
    return Redrawn(drawn @ readable / len(images), (len(images),))


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def bootstrap_intervals(
    images: Sequence[JudgedImage],
    ranked: Mapping[str, Ranked] | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Intervals | None:
    """Intervals of the headline figures; None for fewer than two images, which cannot be drawn in different ways.

    Args:
        images: judged.
        ranked: of `rank_images(images)`, where it is at hand.
        num_resamples: how often the images are drawn anew.
        seed: of the drawing; the same one gives the same intervals.
        level: share of resamples inside.

    Raises:
        DataError: no resamples, or a level outside 0–1.
    """
    check_resampling(num_resamples, level)
    if len(images) < 2:
        return None
    ranked = rank_images(images) if ranked is None else ranked
    measured = redrawn_figures(images, ranked, np.ones((1, len(images)), np.int64))  # each image once
    redrawn = redrawn_figures(images, ranked, draw_images(len(images), num_resamples, seed))
    figures = {name: interval_of(float(measured[name].values[0]), redrawn[name], level) for name in HEADLINE}
    unanimous = tuple(name for name in HEADLINE if is_unanimous(redrawn[name].values))
    return Intervals(level, num_resamples, seed, figures, unanimous)


def interval_of(
    measured: float, redrawn: Redrawn, level: float, low: float = 0.0, high: float = 1.0
) -> Interval | None:
    """Where a figure lies with other images; None where there is no value.

    The middle part of the resampled values, mirrored at the figure where drawing raises it. The figure itself is never
    left out: where the bias is larger than the spread, the interval reaches from the figure over what is left of it.

    Where all agree, at a figure's end or anywhere, the bootstrap has no width, however few the images. Then n images
    that are all alike still leave room for a share p of images that are not: up to 1 − (1 − level)^(1/n), which is the
    exact binomial bound after n trials without an event (Clopper and Pearson 1934), at 95 % about 3/n (the rule of
    three: Hanley and Lippman-Hand 1983, JAMA 249:1743). The interval counts these as anything from `low` to `high`. It
    is exact for means over images, and stands in for one where a figure is a ratio or AP.

    Args:
        measured: the figure on the images as they are.
        redrawn: the same on resamples; values that are NaN are left out.
        level: share of resamples inside, or the certainty of the bound.
        low, high: ends of what the figure of a single image can be.
    """
    known = redrawn.values[~np.isnan(redrawn.values)]
    if not known.size:
        return None
    if is_unanimous(known):
        unlike = float(np.mean([1 - (1 - level) ** (1 / count) for count in redrawn.num_images]))
        value = float(known[0])
        return Interval(value - unlike * (value - low), value + unlike * (high - value))
    first, last = np.percentile(known, [50 * (1 - level), 50 * (1 + level)]).tolist()
    if redrawn.is_raised:
        first, last = 2 * measured - last, 2 * measured - first
    return Interval(max(low, min(first, measured)), min(high, max(last, measured)))


def is_unanimous(values: FloatArray) -> bool:
    """Whether all resampled values are one, but for rounding; NaN are left out, and nothing agrees with nothing."""
    known = values[~np.isnan(values)]
    return bool(known.size) and float(np.ptp(known)) <= _TIE


def paired_difference(value: float, other: Redrawn, baseline: Redrawn, level: float) -> Difference | None:
    """Difference of a figure between two models whose images were drawn together.

    Args:
        value: the difference as measured.
        other: the figure of the model.
        baseline: that of the baseline on the same resamples.
        level: share of resamples inside the interval.
    """
    num_images = min(other.num_images, baseline.num_images, key=sum)
    differences = Redrawn(other.values - baseline.values, num_images)  # what drawing anew adds to both falls away
    interval = interval_of(value, differences, level, -1.0, 1.0)
    if interval is None:
        return None
    known = differences.values[~np.isnan(differences.values)]
    # both are sums of floats: what differs by rounding alone is a tie
    better = float(((known > _TIE) + 0.5 * (np.abs(known) <= _TIE)).mean())
    return Difference(value, interval, better)


def check_resampling(num_resamples: int, level: float) -> None:
    """Refuse what gives no interval.

    Raises:
        DataError: says which and what is possible.
    """
    if num_resamples < 1:
        raise DataError(f"{num_resamples} resamples give no interval: ask for 1 or more; {NUM_RESAMPLES} are usual.")
    if not 0 < level < 1:
        raise DataError(f"An interval that holds a share of {level} is none: give a number between 0 and 1, as 0.95.")
