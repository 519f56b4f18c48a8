"""Random COCO data sets and results for the parity tests."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def random_scene(seed: int, *, crowd: bool = True) -> tuple[dict, list[dict]]:
    """A data set with several classes, empty images, crowded ones, found boxes near true ones, and tied scores."""
    rng = np.random.default_rng(seed)
    categories = [{"id": int(i), "name": f"class {i}"} for i in rng.choice(90, size=5, replace=False)]
    images = [{"id": int(i), "height": 480, "width": 640} for i in rng.choice(10_000, size=25, replace=False)]
    annotations, results = [], []
    for position, image in enumerate(images):
        # An empty image, one with more objects of a class than the 100 that COCO looks at, and ordinary ones.
        count = 0 if position == 0 else 130 if position == 1 else int(rng.integers(0, 8))
        for _ in range(count):
            size = rng.choice([12.0, 60.0, 200.0]) * rng.uniform(0.5, 1.5, 2)
            x, y = rng.uniform(0, [640, 480] - np.minimum(size, 400))
            # Class 0 has no true box at all; the crowded image has one class.
            category = categories[1 if position == 1 else int(rng.integers(1, 5))]["id"]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": category,
                "bbox": [float(x), float(y), *map(float, size)],
                "area": float(size.prod() * rng.uniform(0.4, 1)),
                "iscrowd": int(crowd and rng.random() < 0.1),
            }
            annotations.append(annotation)
            for _ in range(int(rng.choice([0, 1, 1, 2]))):
                bbox = np.array(annotation["bbox"]) + rng.normal(0, 0.08, 4) * [*size, *size]
                label = category if rng.random() < 0.9 else categories[0]["id"]
                results.append(_result(rng, image["id"], label, np.maximum(bbox, [-50, -50, 1, 1])))
        for _ in range(int(rng.integers(0, 4))):
            stray = categories[int(rng.integers(0, 5))]["id"]
            results.append(_result(rng, image["id"], stray, rng.uniform(1, 200, 4)))
    rng.shuffle(results)
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _result(rng: np.random.Generator, image_id: int, category_id: int, bbox: np.ndarray) -> dict:
    score = float(rng.choice([rng.random(), 0.25, 0.5, 1.0]))
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox.tolist(), "score": score}


def pycocotools_figures(truth: dict, results: list[dict]) -> dict[str, float | None]:
    """What the reference says, under the names of `Metrics`."""
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = copy.deepcopy(truth)
        reference.createIndex()
        evaluator = COCOeval(reference, reference.loadRes(copy.deepcopy(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    names = ("map", "map50", "map75", "map_small", "map_medium", "map_large")
    figures = dict(zip(names, evaluator.stats[:6], strict=True)) | {"ar100": evaluator.stats[8]}
    return {name: None if value == -1 else float(value) for name, value in figures.items()}
