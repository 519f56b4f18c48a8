"""Worked examples that a model is shown before each question: the same ones for every question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from boxtune.data.dataset import DetectionDataset, available_splits, load_dataset
from boxtune.data.sample import Sample
from boxtune.data.splits import UNSPLIT
from boxtune.errors import ConfigError, DataError, some
from boxtune.inference.detector import Detector
from boxtune.inference.prediction import AnyDetector


def open_examples(
    number: int, data: str | None, *, seed: int = 0, judged: tuple[str, DetectionDataset] | None = None
) -> list[Sample]:
    """Some images of a data set with their answers: of its train split, or of all where it has no splits.

    Args:
        number: of examples; 0 gives none.
        data: as `load_dataset` takes it.
        seed: of the choice.
        judged: the data set, as it was named, and the images that the model will be asked about.

    Raises:
        ConfigError: a number without a data set, or the other way round.
        DataError: too few images, or just those that the model will be asked about; see `load_dataset`.
    """
    if bool(number) != (data is not None):
        raise ConfigError(
            "--examples N --examples-from DATA go together: how many images are shown with their answers, and whose."
        )
    if data is None:
        return []
    splits = available_splits(data)
    split = next((name for name in ("train", *splits) if name in splits), None)
    samples = load_dataset(data, None if split == UNSPLIT else split)
    if judged is not None and _same_place(data, judged[0]) and judged[1].split == samples.split:
        raise DataError(
            f"--examples-from {data} would show answers of the images that are judged: name other data, or judge "
            "another split."
        )
    if number > len(samples):
        raise DataError(
            f"--examples {number} is more than the {len(samples)} images of {data}: ask for fewer, or name other data."
        )
    chosen = np.random.default_rng(seed).choice(len(samples), number, replace=False)
    return [samples[int(index)] for index in chosen]


def check_examples(examples: Sequence[Sample], asked: Sequence[str]) -> None:
    """Refuse examples that say nothing of what is asked for: they would teach that there is nothing to find.

    Args:
        examples: with their boxes.
        asked: labels.

    Raises:
        DataError: no example has a box of these labels, though there are boxes.
    """
    labels = {label for example in examples for label in example.detections.labels}
    if labels and not labels & set(asked):
        raise DataError(
            f"The examples show {some(sorted(labels))}, and the model is asked for {some(list(asked))}: name data with "
            "the same labels by --examples-from."
        )


def examples_note(detector: AnyDetector) -> str | None:
    """A sentence where a model is asked with another number of examples than it was trained with."""
    if not isinstance(detector, Detector):
        return None
    trained, shown = detector.loaded.contract.num_examples, len(detector.examples)
    if trained == shown:
        return None
    return f"Worked examples before each question: {shown or 'none'}; the model was trained with {trained or 'none'}."


def _same_place(one: str, other: str) -> bool:
    return one == other or Path(one).resolve() == Path(other).resolve()
