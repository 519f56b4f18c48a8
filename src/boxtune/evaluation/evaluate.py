"""A detector over a data set: what it finds, and how good that is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import track

from boxtune import processes
from boxtune.console import say
from boxtune.data.columns import used_labels
from boxtune.data.dataset import DetectionDataset, OnError, available_splits, load_dataset
from boxtune.data.sample import Sample
from boxtune.data.splits import UNSPLIT
from boxtune.detections import Detections
from boxtune.errors import DataError, SaveError, some
from boxtune.evaluation.judged import JudgedImage, in_coco_order
from boxtune.evaluation.metrics import Metrics, MetricsAccumulator
from boxtune.evaluation.precision_recall import PrecisionCurves, precision_curves
from boxtune.evaluation.predictions import category_labels, write_ground_truth, write_predictions
from boxtune.evaluation.provenance import provenance
from boxtune.evaluation.ranking import rank_images
from boxtune.inference.detector import Decoder, load_detector
from boxtune.inference.prediction import AnyDetector, Prediction
from boxtune.models.quantize import Quantize


@dataclass(frozen=True)
class EvaluatedImage:
    """One image's truth and what was found; without its pixels, but with the name of its file where it has one."""

    sample_id: str
    image_hw: tuple[int, int]
    truth: Detections
    prediction: Prediction
    file_name: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """Figures of a data set, and the images behind them.

    Attributes:
        metrics, images: as they are named.
        labels: that were asked for.
        notes: what a reader must know of model and images (see `provenance`), for pages.
    """

    metrics: Metrics
    images: tuple[EvaluatedImage, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def judged(self) -> list[JudgedImage]:
        """The images as figures are computed from them, in the order of the data set."""
        return [
            JudgedImage(
                image.sample_id,
                image.truth,
                image.prediction.result.detections,
                readable=None if self.metrics.parse_rate is None else image.prediction.result.readable,
                candidates=image.prediction.candidates,
            )
            for image in self.images
        ]

    @property
    def curves(self) -> PrecisionCurves:
        """Precision along recall, whose mean is the AP of `metrics`."""
        return precision_curves(rank_images(in_coco_order(self.judged)))


def evaluate(
    detector: AnyDetector,
    samples: Sequence[Sample],
    *,
    console: Console | None = None,
    details: bool = False,
    shared: bool = False,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Any:
    """Run the detector over samples; returns `Metrics`, or with `details` an `Evaluation`.

    Args:
        detector: asked for its own labels, or for those of the data set where it has none.
        samples: with their true boxes.
        console: shows progress there.
        details: also return what was found in each image.
        shared: each process of the run looks at a part of the images, and all get the figures of all; they must all
            call, and be able to talk (`boxtune.processes.joined`).
        around: stands around the work of this process, not around its waiting for others.

    Raises:
        DataError: not one label of the true boxes is asked for; the detector gave an answer too few or too many.
    """
    labels = tuple(detector.labels or getattr(samples, "labels", ()))
    check_labels(labels, samples, console)
    accumulator = MetricsAccumulator(
        labels=labels, score_source=getattr(detector, "score_source", "token probabilities")
    )
    seen: list[EvaluatedImage] = []
    writes = getattr(detector, "decoder", "text") != "head"
    for image in _looked_at(detector, samples, labels, console, shared, around):
        result = image.prediction.result
        accumulator.update(
            image.sample_id,
            image.image_hw,
            image.truth,
            result.detections,
            status=result.status if writes else None,
            truncated=image.prediction.truncated,
            candidates=image.prediction.candidates,
        )
        if details:
            seen.append(image)
    metrics = accumulator.compute()
    if metrics.num_images != len(samples):
        raise DataError(f"{metrics.num_images} answers for {len(samples)} images: see that the batch size is above 0.")
    return Evaluation(metrics, tuple(seen), labels) if details else metrics


def _looked_at(
    detector: AnyDetector,
    samples: Sequence[Sample],
    labels: Sequence[str],
    console: Console | None,
    shared: bool,
    around: Callable[[], AbstractContextManager[None]],
) -> Iterable[EvaluatedImage]:
    """All images in the order of the data set, whoever has looked at them."""
    own: Sequence[int] = range(len(samples))
    if shared:
        own = processes.own_share(len(samples), getattr(detector, "batch_size", 1))
    records = getattr(samples, "records", ())
    pending: list[tuple[int, Sample]] = []

    def images() -> Iterator[Image.Image]:
        for index in own:
            pending.append((index, samples[index]))
            yield pending[-1][1].image

    def look() -> Iterator[tuple[int, EvaluatedImage]]:
        found = detector.predict(images(), labels or None)
        quiet = console is None or not console.is_terminal
        for prediction in track(found, "evaluate", total=len(own), console=console, disable=quiet):
            index, sample = pending.pop(0)
            name = records[index].file_name if records else None
            yield index, EvaluatedImage(sample.id, sample.image_hw, sample.detections, prediction, name)

    def work() -> list[tuple[int, EvaluatedImage]]:
        with around():
            return list(look())

    if not shared:
        with around():
            yield from (image for _, image in look())
        return
    everywhere = dict(found for part in processes.of_all(work) for found in part)
    yield from (everywhere[index] for index in sorted(everywhere))


def evaluate_model(
    model: str,
    samples: DetectionDataset,
    *,
    labels: Sequence[str] | None = None,
    batch_size: int = 8,
    device: str = "auto",
    quantize: Quantize = "none",
    decoder: Decoder = "text",
    console: Console | None = None,
) -> Evaluation:
    """Load a model by its name and judge it on a data set.

    Args:
        model: folder, hub id, adapter folder, `embedded` or `tiny:FAMILY`.
        samples: with their true boxes, as `open_judged` gives them.
        labels: names to look for; by default those the model was saved with, else those of the data set.
        batch_size: images a forward pass.
        device, quantize: as `load_detector` takes them.
        decoder: text, head or both.
        console: shows progress there.

    Raises:
        BoxtuneError: see `load_detector` and `evaluate`.
    """
    detector = load_detector(model, device, labels=labels, batch_size=batch_size, quantize=quantize, decoder=decoder)
    if not detector.labels:
        detector.labels = samples.labels
    return evaluate_with_notes(model, detector, samples, console)


def evaluate_with_notes(
    model: str,
    detector: AnyDetector,
    samples: DetectionDataset,
    console: Console | None = None,
    *,
    shared: bool = False,
) -> Evaluation:
    """As `evaluate`, with what the folder of the model tells of its training; said on the console before the work."""
    notes = provenance(model, detector, samples)
    if console is not None:
        for note in notes:
            say(console, note)
    evaluation: Evaluation = evaluate(detector, samples, console=console, details=True, shared=shared)
    return replace(evaluation, notes=notes)


def open_judged(
    data: str,
    split: str | None = None,
    *,
    data_format: str | None = None,
    on_error: OnError = "refuse",
    skipped_path: Path | None = None,
    max_images: int | None = None,
    console: Console | None = None,
) -> DetectionDataset:
    """The images that a model is judged on: a split, `val` unless told otherwise, or all images of a set without.

    Args:
        data: as `load_dataset` takes it.
        split: name of the split; `val` where it is None.
        data_format, on_error, skipped_path: as `load_dataset` takes them.
        max_images: only the first so many.
        console: is told where the set has no splits.

    Raises:
        DataError: no such split; see `load_dataset`.
    """
    splits = available_splits(data, data_format)
    undivided = splits == [UNSPLIT]
    if undivided and split not in (None, UNSPLIT):
        raise DataError(f"{data} has no splits, so none called '{split}': leave --split out to evaluate on all images.")
    if undivided and console is not None:
        say(console, f"{data} has no splits: every image is judged, also those that a training on it has seen.")
    if split is None and not undivided and "val" not in splits:
        where = "in a training on it, part of train is held out instead: its figures are in that run's metrics.json"
        raise DataError(
            f"Data set '{data}' has no split 'val'; name another with --split {splits[0]}"
            + (f" (but {where})." if splits[0] == "train" else ".")
        )
    samples = load_dataset(data, None if undivided else split or "val", data_format, on_error, skipped_path)
    return samples if max_images is None else samples.subset(range(min(max_images, len(samples))))


def check_labels(asked: Sequence[str], samples: Any, console: Console | None = None) -> None:
    """Tell of true boxes whose label the model is not asked for: each counts as missed, and lowers every figure.

    Args:
        asked: labels that the model is asked for.
        samples: a data set that knows its records' boxes; any other sequence is taken as it is.
        console: for the note.

    Raises:
        DataError: no true box has a label that is asked for.
    """
    true = used_labels(getattr(samples, "records", ()))
    strange = sorted(true - set(asked))
    if not asked or not strange:
        return
    if len(strange) == len(true):
        raise DataError(
            f"None of the data set's labels ({some(strange)}) is one that the model is asked for ({some(asked)}): "
            "name the data set's own with --labels, or rename them in one of the two."
        )
    if console is not None:
        say(console, f"The model is not asked for {some(strange)}: such boxes count as missed.")


def write_evaluation(output_dir: Path, evaluation: Evaluation) -> None:
    """`metrics.json`, `curves.json`, `predictions.json` (COCO results), `ground_truth.json`, `answers.jsonl` (text).

    Raises:
        SaveError: the folder cannot be written.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "metrics.json").write_text(json.dumps(evaluation.metrics.to_dict(), indent=2) + "\n")
        evaluation.curves.write(output_dir)
        rows = [(image.sample_id, image.image_hw, image.truth) for image in evaluation.images]
        labels = category_labels(evaluation.labels, [image.truth for image in evaluation.images])
        file_names = {image.sample_id: image.file_name for image in evaluation.images if image.file_name is not None}
        write_ground_truth(output_dir / "ground_truth.json", rows, labels, file_names)
        found = [(one.sample_id, one.predicted, one.candidates) for one in evaluation.judged]
        write_predictions(output_dir / "predictions.json", found, labels)
        with (output_dir / "answers.jsonl").open("w", encoding="utf-8") as lines:
            for image in evaluation.images:
                result = image.prediction.result
                line = {"id": image.sample_id, "status": result.status, "reason": result.reason}
                lines.write(json.dumps(line | {"text": image.prediction.text}, ensure_ascii=False) + "\n")
    except OSError as error:
        raise SaveError(f"{output_dir} cannot be written: {error.strerror}. Choose another --output-dir.") from None
