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
from boxtune.errors import DataError, SaveError
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

    Raises:
        DataError: not one label of the true boxes is asked for; the detector gave an answer too few or too many.
    """
    labels = tuple(detector.labels or getattr(samples, "labels", ()))
    check_labels(labels, samples, console)
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
    if metrics.num_images != len(samples):
        raise DataError(f"{metrics.num_images} answers for {len(samples)} images: see that the batch size is above 0.")
    return Evaluation(metrics, tuple(seen), labels) if details else metrics


def check_labels(asked: Sequence[str], samples: Any, console: Console | None = None) -> None:
    """Tell of true boxes whose label the model is not asked for: each counts as missed, and lowers every figure.

    Args:
        asked: labels that the model is asked for.
        samples: a data set that knows its records' boxes; any other sequence is taken as it is.
        console: for the note.

    Raises:
        DataError: no true box has a label that is asked for.
    """
    records = getattr(samples, "records", ())
    true = {label for record in records for label in record.detections.labels}
    strange = sorted(true - set(asked))
    if not asked or not strange:
        return
    if len(strange) == len(true):
        raise DataError(
            f"None of the data set's labels ({_some(strange)}) is one that the model is asked for ({_some(asked)}): "
            "name the data set's own with --labels, or rename them in one of the two."
        )
    if console is not None:
        console.print(f"The model is not asked for {_some(strange)}: such boxes count as missed.", soft_wrap=True)


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (" …" if len(labels) > 8 else "")


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
