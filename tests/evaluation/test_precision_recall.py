"""Curves: those of pycocotools number by number, worked out by hand once, and the same from their file."""

from __future__ import annotations

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from boxtune.errors import DataError
from boxtune.evaluation.coco import read_scored
from boxtune.evaluation.precision_recall import FILE_NAME, OVERLAPS, precision_curves, read_curves
from boxtune.evaluation.ranking import rank_images
from evaluation.judged_scenes import image, measured, random_images
from evaluation.scenes import random_scene

BOX, FAR = [0, 0, 100, 100], [300, 300, 400, 400]


def curves_of(images):
    return precision_curves(rank_images(images))


def test_by_hand():
    """Right, wrong, right of two: precision 1 up to recall 0.5, then 2/3; nothing of it at IoU 0.75 for the second."""
    near = [300, 300, 400, 360]  # IoU 0.6
    found = [(BOX, "x", 0.9), ([200, 0, 250, 50], "x", 0.6), (near, "x", 0.5)]
    curves = curves_of([image("a", [(BOX, "x"), (FAR, "x")], found)])
    assert curves.per_class["x"]["0.50"] == (1.0,) * 51 + (pytest.approx(2 / 3),) * 50
    assert curves.per_class["x"]["0.75"] == (1.0,) * 51 + (0.0,) * 50
    # the second box is right at 0.50, 0.55 and 0.60
    assert curves.mean["0.50:0.95"][-1] == pytest.approx(0.3 * 2 / 3)
    assert curves.mean["0.50"] == curves.per_class["x"]["0.50"]


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_pycocotools(seed, tmp_path):
    truth, results = random_scene(seed)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    curves = curves_of(read_scored(tmp_path / "truth.json", tmp_path / "results.json", 0).images)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = copy.deepcopy(truth)
        reference.createIndex()
        evaluator = COCOeval(reference, reference.loadRes(copy.deepcopy(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][..., 0, 2]  # [threshold, recall, category], all areas, 100 boxes
    names = {category["id"]: category["name"] for category in truth["categories"]}
    expected = {names[n]: precision[..., place] for place, n in enumerate(evaluator.params.catIds)}
    expected = {name: values for name, values in expected.items() if (values > -1).all()}
    assert curves.per_class.keys() == expected.keys()
    for name, values in expected.items():
        for overlap, of_coco in zip(OVERLAPS, (values[0], values[5], values.mean(axis=0)), strict=True):
            np.testing.assert_allclose(curves.per_class[name][overlap], of_coco, atol=1e-12)


def test_their_mean_is_ap():
    images = random_images(7, 30)
    metrics, curves = measured(images), curves_of(images)
    means = {overlap: np.mean(curve) for overlap, curve in curves.mean.items()}
    assert means == pytest.approx({"0.50": metrics.map50, "0.75": metrics.map75, "0.50:0.95": metrics.map}, abs=1e-12)
    for label, row in metrics.per_class.items():
        assert np.mean(curves.per_class[label]["0.50"]) == pytest.approx(row["ap50"], abs=1e-12)


def test_from_their_file(tmp_path):
    curves = curves_of(random_images(3, 20))
    curves.write(tmp_path)
    content = json.loads((tmp_path / FILE_NAME).read_text())
    assert content["recall"] == [n / 100 for n in range(101)]
    again = read_curves(tmp_path)
    assert again.per_class.keys() == curves.per_class.keys()
    for overlap in OVERLAPS:
        assert again.mean[overlap] == pytest.approx(curves.mean[overlap], abs=1e-6)
    for text in ("", "{", "[]", '{"mean": {}}', '{"mean": [], "per_class": []}'):
        (tmp_path / FILE_NAME).write_text(text)
        with pytest.raises(DataError, match="holds no curves of boxtune"):
            read_curves(tmp_path)
    with pytest.raises(DataError, match="holds no curves of boxtune"):
        read_curves(tmp_path / "nowhere")


def test_without_true_boxes_there_are_none(tmp_path):
    nothing = curves_of([image("a", [], [(BOX, "x", 0.5)])])
    assert (nothing.mean, nothing.per_class) == ({}, {})
    nothing.write(tmp_path)
    assert read_curves(tmp_path) == nothing
    missed = curves_of([image("a", [(BOX, "x")], [])])
    assert missed.mean["0.50"] == (0.0,) * 101
