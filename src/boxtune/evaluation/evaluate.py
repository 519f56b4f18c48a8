"""A detector over a data set: what it finds, and how good that is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.errors import SaveError
from boxtune.evaluation.metrics import Metrics, MetricsAccumulator
from boxtune.evaluation.predictions import category_labels, write_ground_truth, write_predictions
from boxtune.inference.detector import Detector, Prediction


@dataclass(frozen=True)
class EvaluatedImage:
    """One image's truth and what was found; without its pixels."""

    sample_id: str
    image_hw: tuple[int, int]
    truth: Detections
    prediction: Prediction


@dataclass(frozen=True)
class Evaluation:
    """Figures of a data set, and the images behind them."""

    metrics: Metrics
    images: tuple[EvaluatedImage, ...]
    labels: tuple[str, ...]


def evaluate(
    detector: Detector, samples: Sequence[Sample], *, console: Console | None = None, details: bool = False
) -> Any:
    """Run the detector over samples; returns `Metrics`, or with `details` an `Evaluation`.

    Args:
        detector: asked for its own labels, or for those of the data set where it has none.
        samples: with their true boxes.
        console: shows progress there.
        details: also return what was found in each image.
    """
    labels = tuple(detector.labels or getattr(samples, "labels", ()))
    seen: list[EvaluatedImage] = []
    accumulator = MetricsAccumulator(labels=labels)
    pending: list[Sample] = []

    def images() -> Any:
        for index in range(len(samples)):
            pending.append(samples[index])
            yield pending[-1].image

    found = detector.predict(images(), labels or None)
    for prediction in track(
        found, "evaluate", total=len(samples), console=console, disable=console is None or not console.is_terminal
    ):
        sample = pending.pop(0)
        result = prediction.result
        accumulator.update(
            sample.id,
            sample.image_hw,
            sample.detections,
            result.detections,
            status=result.status,
            truncated=prediction.truncated,
        )
        if details:
            seen.append(EvaluatedImage(sample.id, sample.image_hw, sample.detections, prediction))
    metrics = accumulator.compute()
    return Evaluation(metrics, tuple(seen), labels) if details else metrics


def write_evaluation(output_dir: Path, evaluation: Evaluation) -> None:
    """`metrics.json`, `predictions.json` (COCO results), `ground_truth.json` and `answers.jsonl` (raw text).

    Raises:
        SaveError: the folder cannot be written.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "metrics.json").write_text(json.dumps(evaluation.metrics.to_dict(), indent=2) + "\n")
        rows = [(image.sample_id, image.image_hw, image.truth) for image in evaluation.images]
        labels = category_labels(evaluation.labels, [image.truth for image in evaluation.images])
        write_ground_truth(output_dir / "ground_truth.json", rows, labels)
        found = [(image.sample_id, image.prediction.result.detections) for image in evaluation.images]
        write_predictions(output_dir / "predictions.json", found, labels)
        with (output_dir / "answers.jsonl").open("w", encoding="utf-8") as lines:
            for image in evaluation.images:
                result = image.prediction.result
                line = {"id": image.sample_id, "status": result.status, "reason": result.reason}
                lines.write(json.dumps(line | {"text": image.prediction.text}, ensure_ascii=False) + "\n")
    except OSError as error:
        raise SaveError(f"{output_dir} cannot be written: {error.strerror}. Choose another --output-dir.") from None
