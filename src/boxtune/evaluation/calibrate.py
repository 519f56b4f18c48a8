"""Fit the map that makes scores mean what they say, on images that the model was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import logit

from boxtune.data.dataset import DetectionDataset
from boxtune.detections import FloatArray
from boxtune.errors import DataError
from boxtune.evaluation.calibration import Calibration, reliability
from boxtune.evaluation.confidence import judged_boxes
from boxtune.evaluation.judged import JudgedImage
from boxtune.evaluation.provenance import seen_images
from boxtune.evaluation.ranking import BoolArray, rank_images
from boxtune.inference.calibrator import Calibrator

MIN_BOXES: Final = 40
"""Found boxes below which no map is fitted: each half of them must say something."""

_MIN_FREE: Final = 20  # images; fewer hardly hold the boxes to fit on
_MIN_OF_EACH: Final = 10  # right and wrong boxes


@dataclass(frozen=True)
class CalibrationFit:
    """What a fit came to.

    Attributes:
        calibrator: fitted on all images; None where scores are best left as they are.
        before: reliability of the scores as they are.
        after: that of mended scores, each half of the images mended by a map fitted on the other half.
        ece_of_kind: `none`, `temperature` and, where ten boxes are right and ten wrong, `isotonic` → error on the half
            that was held out.
    """

    calibrator: Calibrator | None
    before: Calibration
    after: Calibration
    ece_of_kind: dict[str, float]


def fit_calibrator(images: Sequence[JudgedImage]) -> CalibrationFit:
    """Fit both kinds on each half of the images, and choose the one with the smaller error on the other half.

    Args:
        images: judged, with scores that no calibrator has touched.

    Raises:
        DataError: found boxes without scores, or fewer than `MIN_BOXES`, or too few in one half.
    """
    if any(len(image.predicted) and image.predicted.scores is None for image in images):
        raise DataError(
            "Found boxes have no scores, so there is nothing to calibrate: see score_source in the metrics."
        )
    halves = [judged_boxes(rank_images(images[start::2])) for start in (0, 1)]
    scores, right = (np.concatenate(arrays) for arrays in zip(*halves, strict=True))
    if len(scores) < MIN_BOXES or min(len(half[0]) for half in halves) < MIN_BOXES // 4:
        raise DataError(
            f"{len(scores)} found boxes on {len(images)} images are too few to calibrate by (at least {MIN_BOXES}, "
            "some in each half of the images): raise --max-images, or take more data."
        )
    fits = dict(_FITS)
    if min(right.sum(), (~right).sum()) < _MIN_OF_EACH:
        del fits["isotonic"]  # its steps would say "always" or "never" on a handful of boxes
    held = {kind: _on_other_half(fit, halves) for kind, fit in fits.items()}
    candidates = {"none": scores, **held}
    results = {kind: reliability(mended, right) for kind, mended in candidates.items()}
    errors = {kind: float(result.ece or 0.0) for kind, result in results.items()}
    best = min(errors, key=errors.__getitem__)
    return CalibrationFit(
        calibrator=None if best == "none" else _FITS[best](scores, right),
        before=results["none"],
        after=results[best],
        ece_of_kind=errors,
    )


def seen_in_training(folder: Path, samples: DetectionDataset, num_held: int) -> str | None:
    """A warning where a training has seen images that a map is to be fitted on: the model is too sure of them.

    Args:
        folder: of the model; its `run.json` says which images the training had.
        samples: the split.
        num_held: the last so many of it are those to fit on.

    Raises:
        DataError: `run.json` is damaged.
    """
    seen = seen_images(folder, samples)
    if seen is None or not (num_seen := int(seen[-num_held:].sum())):
        return None
    num_free = len(seen) if not seen.any() else int(seen[::-1].argmax())  # behind the last one that was seen
    num_kept = min(num_held, max(2, len(samples) // 5))
    if num_free >= _MIN_FREE:
        advice = f"Of the last {num_free} it has seen none: say --max-images {num_free}."
    elif len(samples) - num_kept > num_kept:
        advice = (
            f"Train with data.max_train_images={len(samples) - num_kept}, then calibrate with --max-images {num_kept}; "
            "or take images of another set."
        )
    else:
        advice = f"{len(samples)} images are too few to keep some free: take images of another set."
    return f"{num_seen} of these {num_held} images were seen in training, and {folder} is surer of them. {advice}"


def _on_other_half(
    fit: Callable[[FloatArray, BoolArray], Calibrator], halves: Sequence[tuple[FloatArray, BoolArray]]
) -> FloatArray:
    return np.concatenate([fit(*halves[1 - number]).apply(halves[number][0]) for number in (0, 1)])


def fit_temperature(scores: FloatArray, right: BoolArray) -> Calibrator:
    """Temperature and bias of largest likelihood, with Platt's smoothed targets, which keep both finite.

    Args:
        scores: `[N]` in 0–1.
        right: `[N]` whether each box was.
    """
    odds = logit(np.clip(scores, 1e-12, 1 - 1e-12))
    num_right, num_wrong = int(right.sum()), int((~right).sum())
    target = np.where(right, (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2))

    def loss(parameters: FloatArray) -> float:
        steepness, bias = parameters
        z = odds * np.exp(steepness) + bias
        return float(np.mean(np.logaddexp(0, z) - target * z))

    best = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[(-5, 3), (-30, 30)]).x
    return Calibrator("temperature", float(np.exp(-best[0])), float(best[1]), num_boxes=len(scores))


def fit_isotonic(scores: FloatArray, right: BoolArray) -> Calibrator:
    """The rising steps nearest to what came true, by pooling adjacent violators (Ayer et al. 1955), joined by lines.

    Args:
        scores: `[N]` in 0–1, N above 0.
        right: `[N]` whether each box was.
    """
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    hits = np.bincount(inverse, weights=right)
    blocks: list[tuple[float, float, float]] = []  # boxes, right ones, sum of scores
    for count, hit, value in zip(counts, hits, values, strict=True):
        block = (float(count), float(hit), float(count * value))
        while blocks and blocks[-1][1] * block[0] >= block[1] * blocks[-1][0]:
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    said = tuple(min(1.0, total / count) for count, _, total in blocks)
    return Calibrator("isotonic", said=said, true=tuple(hit / n for n, hit, _ in blocks), num_boxes=len(scores))


_FITS: Final[dict[str, Callable[[FloatArray, BoolArray], Calibrator]]] = {
    "temperature": fit_temperature,
    "isotonic": fit_isotonic,
}
