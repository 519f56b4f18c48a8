"""Images with true and found boxes, drawn at random or written by hand, for the tests of figures."""

from __future__ import annotations

import numpy as np

from boxtune.detections import Detections
from boxtune.evaluation.judged import JudgedImage
from boxtune.evaluation.metrics import MetricsAccumulator

Row = tuple[list[float], str, float]
HW = (500, 500)


def image(name: str, true: list[tuple[list[float], str]], found: list[Row]) -> JudgedImage:
    return JudgedImage(
        name,
        Detections([box for box, _ in true], [label for _, label in true]),
        Detections([box for box, *_ in found], [label for _, label, _ in found], [score for *_, score in found]),
        readable=True,
    )


def random_images(
    seed: int, count: int = 12, *, labels: int = 3, ties: bool = False, scored: bool = True, spread: float = 12
) -> list[JudgedImage]:
    """Found boxes near true ones, copies, strays, wrong labels; with `ties`, scores that come often."""
    noise = np.random.default_rng(seed)
    images = []
    for number in range(count):
        num_true = int(noise.integers(0, 6))
        corners = noise.uniform(0, 300, (num_true, 2))
        true = np.hstack([corners, corners + noise.uniform(20, 150, (num_true, 2))])
        names = [f"class {place}" for place in noise.integers(0, labels, num_true)]
        found, found_names = [], []
        for box, label in zip(true, names, strict=True):
            for _ in range(int(noise.integers(0, 4))):
                moved = box + noise.normal(0, spread, 4)
                found.append(np.r_[np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])])
                found_names.append(label if noise.random() < 0.8 else f"class {noise.integers(0, labels)}")
        for _ in range(int(noise.integers(0, 3))):
            corner = noise.uniform(0, 300, 2)
            found.append(np.r_[corner, corner + noise.uniform(10, 90, 2)])
            found_names.append(f"class {noise.integers(0, labels)}")
        scores = noise.choice([0.25, 0.5, 0.75], len(found)) if ties else noise.random(len(found))
        images.append(
            JudgedImage(
                str(number),
                Detections(true, names),
                Detections(np.array(found).reshape(-1, 4), found_names, scores if scored else None),
                readable=bool(noise.random() < 0.9),
            )
        )
    return images


def measured(images: list[JudgedImage], num_resamples: int = 0):
    """boxtune's own figures of these images, as `boxtune evaluate` would compute them."""
    accumulator = MetricsAccumulator()
    for place, one in enumerate(images):
        status = "ok" if one.readable else "malformed"
        accumulator.update(f"image {place:04}", HW, one.truth, one.predicted, status)
    return accumulator.compute(num_resamples)


def drawn_images(images: list[JudgedImage], copies) -> list[JudgedImage]:
    """A data set in which the copies of an image stand one after the other."""
    return [one for one, count in zip(images, copies, strict=True) for _ in range(count)]
