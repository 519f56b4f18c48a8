"""What pages say of one model: its figures, a verdict on each box, its curves, and its own words where it has some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from boxtune.evaluation.errors import ErrorAnalysis, analyse_errors
from boxtune.evaluation.evaluate import Evaluation
from boxtune.evaluation.judged import JudgedImage, in_coco_order
from boxtune.evaluation.metrics import Metrics
from boxtune.evaluation.precision_recall import PrecisionCurves, precision_curves
from boxtune.evaluation.ranking import rank_images
from boxtune.inference.detector import Prediction


@dataclass(frozen=True)
class ReportedModel:
    """One model of a page.

    Attributes:
        name: as it is shown.
        metrics: its figures.
        images: truth and found boxes, in the order of the data set.
        errors: a verdict on each box.
        curves: precision along recall.
        answers: sample id → what the model wrote; empty for files of boxes.
    """

    name: str
    metrics: Metrics
    images: tuple[JudgedImage, ...]
    errors: ErrorAnalysis
    curves: PrecisionCurves
    answers: Mapping[str, Prediction] = field(default_factory=dict)


def reported_evaluation(name: str, evaluation: Evaluation) -> ReportedModel:
    """A model that was asked here."""
    answers = {image.sample_id: image.prediction for image in evaluation.images}
    return _reported(name, evaluation.metrics, evaluation.judged, answers)


def reported_boxes(name: str, metrics: Metrics, images: Sequence[JudgedImage]) -> ReportedModel:
    """A model of which only the boxes are known."""
    return _reported(name, metrics, images, {})


def _reported(
    name: str, metrics: Metrics, images: Sequence[JudgedImage], answers: Mapping[str, Prediction]
) -> ReportedModel:
    judged = in_coco_order(images)  # where equal scores fall as they do in the metrics
    ranked = rank_images(judged)
    errors = analyse_errors(judged, ranked)
    return ReportedModel(name, metrics, tuple(images), errors, precision_curves(ranked), answers)
