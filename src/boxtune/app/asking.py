"""Asks models about pictures, one picture at a time, and measures how long each took."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image

from boxtune.detections import Detections
from boxtune.errors import ConfigError
from boxtune.inference.decoders import detector_by_decoder
from boxtune.inference.detector import Decoder, Detector, Prediction

KEPT: Final = 2
"""Models that stay loaded, as many as are compared."""


@dataclass(frozen=True)
class Picture:
    """A picture to look at.

    Attributes:
        name: shown above it.
        image: upright, RGB.
        truth: true boxes, where it comes from a data set.
    """

    name: str
    image: Image.Image
    truth: Detections | None = None


@dataclass(frozen=True)
class Look:
    """What one model said about one picture, and the seconds that it took."""

    prediction: Prediction
    seconds: float


class Models:
    """Loads models when they are first asked, and keeps the last ones.

    Args:
        load: name → detector.
    """

    def __init__(self, load: Callable[[str], Detector]) -> None:
        self._load = load
        self._kept: OrderedDict[str, dict[Decoder, Detector]] = OrderedDict()
        self._lock = threading.Lock()

    def look(
        self, name: str, decoder: Decoder, labels: Sequence[str] | None, pictures: Sequence[Picture]
    ) -> Iterator[tuple[tuple[str, ...], Look]]:
        """For each picture the labels that were looked for, and what was found.

        Args:
            name: of a model of the catalogue.
            decoder: who names the boxes.
            labels: names to look for; None takes the model's own.
            pictures: any number.

        Raises:
            ModelError: the model cannot be loaded.
            ConfigError: it has no labels and none are given, or no such decoder.
        """
        with self._lock:  # detectors of one model share its weights and are no use to two threads
            detectors = self._detectors(name)
            if decoder not in detectors:
                raise ConfigError(f"{name} has no detection head: choose the text as its decoder.")
            detector = detectors[decoder]
            asked = tuple(labels) if labels is not None else detector.labels
            if not asked:
                raise ConfigError(f"{name} was saved without labels: write what to look for into 'Labels'.")
            for picture in pictures:
                began = time.perf_counter()
                (prediction,) = detector.predict([picture.image], asked, num_candidates=0)
                yield asked, Look(prediction, time.perf_counter() - began)

    def _detectors(self, name: str) -> dict[Decoder, Detector]:
        if name not in self._kept:
            while len(self._kept) >= KEPT:
                self._kept.popitem(last=False)  # first, so that its memory is free for the next
            self._kept[name] = detector_by_decoder(self._load(name))
        self._kept.move_to_end(name)
        return self._kept[name]
