"""The figures of an evaluation, and the accumulator that collects them image by image. Printing is in `summary`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from boxtune.detections import Detections
from boxtune.errors import DataError
from boxtune.evaluation.assignment import assignment_figures, count_image, share
from boxtune.evaluation.average_precision import AveragePrecision, average_precision
from boxtune.evaluation.calibration import Calibration, ReliabilityBin, calibration
from boxtune.evaluation.confidence import Confidence, OperatingPoint, confidence
from boxtune.evaluation.errors import ErrorSummary, analyse_errors
from boxtune.evaluation.intervals import NUM_RESAMPLES, Interval, Intervals, bootstrap_intervals
from boxtune.evaluation.judged import JudgedImage
from boxtune.evaluation.predictions import Truth, category_labels, coco_ground_truth, coco_results, image_ids
from boxtune.evaluation.ranking import rank_images
from boxtune.grounding.codec import Status, is_readable

CONSTANT_SCORES = "constant 1.0"


@dataclass(frozen=True)
class Metrics:
    """How good predictions are. Shares, IoUs and APs lie in 0–1; None stands where there was nothing to measure.

    COCO AP goes by score, and averages over labels that have true boxes. The figures below it rest on the best
    one-to-one assignment of all found boxes to true boxes of the same label (`matching`), whatever their scores.

    Attributes:
        map: COCO AP over IoU 0.50 … 0.95, at most 100 boxes a label and image; None without a single true box.
        map50: COCO AP at IoU 0.50.
        map75: COCO AP at IoU 0.75.
        map_small: COCO AP of true boxes below 32² square pixels.
        map_medium: COCO AP of true boxes of 32² to 96² square pixels.
        map_large: COCO AP of true boxes above 96² square pixels.
        ar100: COCO average recall.
        per_class: label → `ap`, `ap50`, `num_boxes`.
        mean_iou: mean IoU of assigned pairs; None where nothing was assigned.
        median_iou: median IoU of assigned pairs; None where nothing was assigned.
        mean_iou_all: mean IoU of all true boxes; a missed one counts 0.
        detection_rate50: share of true boxes whose pair has an IoU of at least 0.5.
        rate70: the same at 0.7.
        detection_rate70: the same number as rate70, named as its neighbour.
        precision50: share of found boxes in such a pair; boxes with an unknown label count as wrong here.
        recall50: the same number as detection_rate50, beside its precision.
        f1_50: harmonic mean of the two.
        count_error: mean absolute difference of the number of found and true boxes, an image.
        parse_rate: share of answers that could be read, as they were or repaired; None for files of boxes, and where
            nothing is written, as by a detection head.
        repaired_rate: share of answers that had to be repaired.
        malformed_rate: share of answers that could not be read.
        truncated_rate: share of answers that ran into the token limit.
        num_images: images, with or without objects.
        num_boxes: true boxes (crowd regions are none).
        num_predictions: found boxes.
        num_candidates: boxes beside them that the answers left out. AP, the errors and all that goes along a threshold
            of the score look at these too; IoU, precision, recall, F1 and count error do not.
        num_unknown_label_predictions: found boxes whose label is no known category. COCO AP does not see them.
        score_source: where scores come from: `token probabilities`, `constant 1.0`, `file`.
        scores_constant: all found boxes (two or more) have the same score, so that AP cannot rank them.
        intervals: of the headline figures, over images; None for fewer than two images, or where not asked for.
        errors: kinds of mistakes, and what each costs.
        confidence: precision, recall and F1 along a threshold of the score.
        calibration: whether scores mean what they say; None where there are no scores in 0–1.
    """

    map: float | None
    map50: float | None
    map75: float | None
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    ar100: float | None
    per_class: dict[str, dict[str, float | int | None]]
    mean_iou: float | None
    mean_iou_all: float | None
    detection_rate50: float | None
    rate70: float | None
    precision50: float | None
    recall50: float | None
    f1_50: float | None
    count_error: float | None
    parse_rate: float | None
    repaired_rate: float | None
    malformed_rate: float | None
    truncated_rate: float | None
    num_images: int
    num_boxes: int
    num_predictions: int
    num_unknown_label_predictions: int
    score_source: str
    scores_constant: bool
    num_candidates: int = 0
    median_iou: float | None = None
    detection_rate70: float | None = None
    intervals: Intervals | None = None
    errors: ErrorSummary | None = None
    confidence: Confidence | None = None
    calibration: Calibration | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; never NaN or infinite."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Metrics:
        """The metrics that `to_dict` wrote; those of an earlier boxtune lack what it did not measure.

        Raises:
            DataError: something else.
        """
        try:
            blocks = {name: read(content[name]) for name, read in _BLOCKS.items() if content.get(name) is not None}
            return cls(**{**content, **blocks})
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise DataError(f"These are no metrics of boxtune ({error}): evaluate again.") from None


def _intervals(content: dict[str, Any]) -> Intervals:
    figures = {name: None if one is None else Interval(**one) for name, one in content["figures"].items()}
    return Intervals(**{**content, "figures": figures, "unanimous": tuple(content.get("unanimous", ()))})


def _confidence(content: dict[str, Any]) -> Confidence:
    best = content["best"]
    points = tuple(OperatingPoint(**one) for one in content["points"])
    return Confidence(**{**content, "points": points, "best": None if best is None else OperatingPoint(**best)})


def _calibration(content: dict[str, Any]) -> Calibration:
    return Calibration(**{**content, "bins": tuple(ReliabilityBin(**one) for one in content["bins"])})


_BLOCKS: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "intervals": _intervals,
    "errors": lambda content: ErrorSummary(**content),
    "confidence": _confidence,
    "calibration": _calibration,
}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def precision_figures(ap: AveragePrecision, names: dict[int, str], num_boxes: dict[int, int]) -> dict[str, Any]:
    """The figures of `Metrics` that are COCO's; `names` and `num_boxes` by category id."""
    return {
        "map": ap.map,
        "map50": ap.map50,
        "map75": ap.map75,
        "map_small": ap.by_area["small"],
        "map_medium": ap.by_area["medium"],
        "map_large": ap.by_area["large"],
        "ar100": ap.ar100,
        "per_class": {
            names[category]: {"ap": of_class, "ap50": of_class_50, "num_boxes": num_boxes.get(category, 0)}
            for category, (of_class, of_class_50) in ap.per_category.items()
        },
    }


def all_the_same(scores: Sequence[float]) -> bool:
    """Whether there are two or more scores and they are equal."""
    return len(scores) > 1 and len(set(scores)) == 1


def image_figures(
    images: Sequence[JudgedImage], *, num_resamples: int = NUM_RESAMPLES, scored: bool = True
) -> dict[str, Any]:
    """The figures of `Metrics` that are made from each image's boxes: assignment, intervals, errors and scores.

    Args:
        images: in the order in which COCO would take them, which decides between equal scores.
        num_resamples: of the bootstrap; 0 leaves the intervals out.
        scored: whether scores are confidences in 0–1.
    """
    ranked = rank_images(images)
    counts = [count_image(image.truth, image.predicted, image.crowd) for image in images]
    along = confidence(ranked, counts)
    return {
        **assignment_figures(counts),
        "intervals": bootstrap_intervals(images, ranked, num_resamples=num_resamples) if num_resamples else None,
        "errors": analyse_errors(images, ranked).summary,
        "confidence": along if scored else dataclasses.replace(along, points=(), best=None),
        "calibration": calibration(ranked) if scored else None,
    }


@dataclass(frozen=True)
class _Seen:
    sample_id: str
    image_hw: tuple[int, int]
    truth: Detections
    predicted: Detections
    status: Status | None
    truncated: bool
    candidates: Detections

    @property
    def readable(self) -> bool | None:
        return None if self.status is None else is_readable(self.status)


class MetricsAccumulator:
    """Collects images one by one and turns them into `Metrics`.

    Args:
        labels: known labels, in order. Labels of true boxes are known too. A found box with another label is wrong in
            `precision50`, invisible to COCO AP, and counted in `num_unknown_label_predictions`.
        score_source: where scores come from, for the report; found boxes without scores get 1.0, and it says so.
    """

    def __init__(self, labels: Iterable[str] = (), score_source: str = "token probabilities") -> None:
        self._labels = tuple(labels)
        self._score_source = score_source
        self._seen: dict[str, _Seen] = {}

    def reset(self) -> None:
        """Forget all images."""
        self._seen.clear()

    def update(
        self,
        sample_id: str,
        image_hw: tuple[int, int],
        truth: Detections,
        predicted: Detections,
        status: Status | None = "ok",
        truncated: bool = False,
        candidates: Detections | None = None,
    ) -> None:
        """Add one image.

        Args:
            sample_id: unique in this evaluation.
            image_hw: `(height, width)` in pixels.
            truth: true boxes, in pixels of the image.
            predicted: found boxes, in pixels of the same image.
            status: how the answer could be read; None where nothing was written.
            truncated: whether the answer ran into the token limit.
            candidates: boxes that the answer left out, with scores.

        Raises:
            DataError: the sample was added before.
            ValueError: an unknown status.
        """
        if status is not None and status not in get_args(Status):
            raise ValueError(f"Status must be one of {', '.join(get_args(Status))}, not {status!r}.")
        if sample_id in self._seen:
            raise DataError(f"Sample '{sample_id}' comes twice: sample ids must be unique within an evaluation.")
        self._seen[sample_id] = _Seen(
            sample_id, image_hw, truth, predicted, status, truncated, candidates or Detections.empty()
        )

    def images(self) -> list[JudgedImage]:
        """All images added so far, in the order of their COCO ids."""
        numbers = image_ids(list(self._seen))
        return [
            JudgedImage(
                one.sample_id,
                one.truth,
                one.predicted,
                readable=one.readable,
                candidates=one.candidates,
            )
            for one in sorted(self._seen.values(), key=lambda one: numbers[one.sample_id])
        ]

    def compute(self, num_resamples: int = NUM_RESAMPLES) -> Metrics:
        """Figures of all images added so far.

        Args:
            num_resamples: of the intervals' bootstrap; 0 leaves the intervals out, which is fastest.
        """
        seen = list(self._seen.values())
        truths: list[Truth] = [(one.sample_id, one.image_hw, one.truth) for one in seen]
        labels = category_labels(self._labels, (one.truth for one in seen))
        results = coco_results([(one.sample_id, one.predicted, one.candidates) for one in seen], labels)
        num_predictions = sum(len(one.predicted) for one in seen)
        num_candidates = sum(len(one.candidates) for one in seen)
        unknown = num_predictions - sum("candidate" not in row for row in results)
        scores = [row["score"] for row in results]
        ground_truth = coco_ground_truth(truths, labels)
        return Metrics(
            **precision_figures(
                average_precision(ground_truth, results),
                dict(enumerate(labels, start=1)),
                {n: sum(one.truth.labels.count(label) for one in seen) for n, label in enumerate(labels, start=1)},
            ),
            **image_figures(
                self.images(),
                num_resamples=num_resamples,
                scored=any(one.predicted.scores is not None for one in seen),
            ),
            **_answer_figures(seen),
            num_images=len(seen),
            num_boxes=sum(len(one.truth) for one in seen),
            num_predictions=num_predictions,
            num_candidates=num_candidates,
            num_unknown_label_predictions=unknown,
            score_source=_score_source(seen, self._score_source),
            scores_constant=all_the_same(scores),
        )


def _answer_figures(seen: Sequence[_Seen]) -> dict[str, Any]:
    if any(one.status is None for one in seen):
        return dict.fromkeys(("parse_rate", "repaired_rate", "malformed_rate", "truncated_rate"))

    def of_status(status: str) -> float | None:
        return share(sum(one.status == status for one in seen), len(seen))

    return {
        "parse_rate": share(sum(bool(one.readable) for one in seen), len(seen)),
        "repaired_rate": of_status("repaired"),
        "malformed_rate": of_status("malformed"),
        "truncated_rate": share(sum(one.truncated for one in seen), len(seen)),
    }


def _score_source(seen: Sequence[_Seen], said: str) -> str:
    """An image without found boxes says nothing about where scores come from."""
    has_scores = {one.predicted.scores is not None for one in seen if len(one.predicted)}
    if has_scores == {False}:
        return CONSTANT_SCORES
    return said if False not in has_scores else f"{said}; {CONSTANT_SCORES} where there were none"
