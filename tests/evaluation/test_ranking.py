"""Our own matching and AP against COCO's, as it is and on redrawn images."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from boxtune.detections import Detections
from boxtune.evaluation.average_precision import average_precision
from boxtune.evaluation.coco import _checked_results, _checked_truth, _images, read_scored
from boxtune.evaluation.intervals import redrawn_figures
from boxtune.evaluation.judged import JudgedImage
from boxtune.evaluation.ranking import IOU_THRESHOLDS, average_precision_of, average_precisions, rank_images
from evaluation.judged_scenes import drawn_images, measured, random_images
from evaluation.scenes import random_scene


@pytest.mark.parametrize("seed", range(6))
def test_files_with_crowds_ties_and_many_boxes_give_cocos_ap(seed):
    truth, results = random_scene(seed)
    checked = _checked_truth(copy.deepcopy(truth), None)
    found = _checked_results(results, None, checked)
    names = {row["id"]: row["name"] for row in checked["categories"]}
    reference = average_precision(checked, copy.deepcopy(found))
    ranked = rank_images(_images(checked, found, names, [row["score"] for row in found]))
    once = np.ones((1, len(checked["images"])), np.int64)
    for category, (ap, ap50) in reference.per_category.items():
        if names[category] not in ranked:
            assert ap is None
            continue
        ours = average_precisions(ranked[names[category]], once)[0]
        if ap is None:
            assert np.isnan(ours).all()
        else:
            assert (ours.mean(), ours[0]) == pytest.approx((ap, ap50), abs=1e-12)


@pytest.mark.parametrize("kind", [{}, {"ties": True}, {"scored": False}, {"labels": 1}], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_figures_of_redrawn_images_are_those_of_the_duplicated_images(seed, kind):
    images = random_images(seed, **kind)
    copies = np.random.default_rng(seed).multinomial(len(images), np.full(len(images), 1 / len(images)), size=4)
    redrawn = redrawn_figures(images, rank_images(images), copies)
    for place, counts in enumerate(copies):
        metrics = measured(drawn_images(images, counts))
        for name, figure in redrawn.items():
            expected, found = getattr(metrics, name), figure.values[place]
            assert np.isnan(found) if expected is None else found == pytest.approx(expected, abs=1e-12)


def test_large_drawings_are_computed_in_parts():
    images = random_images(3, 40, labels=1)
    drawn = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=9000)
    ranked = rank_images(images)["class 0"]
    whole = average_precisions(ranked, drawn)
    assert np.array_equal(whole[4321:4323], average_precisions(ranked, drawn[4321:4323]))


def test_only_a_hundred_boxes_of_an_image_count_but_all_are_ranked():
    boxes = np.tile([0, 0, 10, 10], (150, 1))
    one = JudgedImage(
        "a", Detections(boxes[:1], ["x"]), Detections(boxes + 200.0, ["x"] * 150, np.linspace(0.9, 0.1, 150))
    )
    ranked = rank_images([one])["x"]
    assert (len(ranked), int(ranked.counted.sum())) == (150, 100)


def test_the_best_score_chooses_first():
    """The better-scored box takes the true box that fits it best, even where the other fits it better still."""
    truth = Detections([[0, 0, 100, 100]], ["x"])
    found = Detections([[0, 0, 100, 100], [0, 0, 90, 100]], ["x", "x"], [0.3, 0.8])
    ranked = rank_images([JudgedImage("a", truth, found)])["x"]
    assert ranked.index.tolist() == [1, 0]
    assert ranked.truth[0].tolist() == [0, -1]
    assert ranked.truth[9].tolist() == [-1, 0]  # IoU 0.9 is too little at 0.95


def test_no_images_and_no_boxes():
    assert rank_images([]) == {}
    empty = rank_images([JudgedImage("a", Detections([[0, 0, 1, 1]], ["x"]), Detections.empty())])["x"]
    assert average_precisions(empty, np.array([[1], [0]])).tolist()[0] == [0.0] * 10
    assert np.isnan(average_precisions(empty, np.array([[0]]))).all()
    assert len(IOU_THRESHOLDS) == 10


def test_ap_by_hand():
    """Right, wrong, right of three: precision 1 up to recall 1/3 (34 points), then 2/3 up to 2/3 (33 points)."""
    ap = average_precision_of(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 3)
    assert ap == pytest.approx((34 + 33 * 2 / 3) / 101)


def test_scores_that_are_no_shares_rank_all_the_same(tmp_path):
    import json

    truth, results = random_scene(1)
    logits = [{**row, "score": 20 * row["score"] - 10} for row in results]
    for name, content in (("truth", truth), ("found", results), ("logits", logits)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    plain, strange = (
        read_scored(tmp_path / "truth.json", tmp_path / f"{name}.json", 50).metrics for name in ("found", "logits")
    )
    assert strange.intervals == plain.intervals
    assert strange.errors.dap50 == plain.errors.dap50
    assert (strange.calibration, strange.confidence.points, strange.confidence.best) == (None, (), None)
    assert plain.calibration is not None
    assert strange.confidence.f1_by_iou == plain.confidence.f1_by_iou
