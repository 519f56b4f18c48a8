"""Reliability by hand, and fits on scores whose truth is known."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from boxtune.data.dataset import DetectionDataset
from boxtune.data.digests import image_digests, pack_digests
from boxtune.data.records import Record
from boxtune.detections import Detections
from boxtune.errors import DataError
from boxtune.evaluation.calibrate import MIN_BOXES, fit_calibrator, fit_isotonic, fit_temperature, seen_in_training
from boxtune.evaluation.calibration import ReliabilityBin, calibration, reliability
from boxtune.evaluation.judged import JudgedImage
from boxtune.evaluation.ranking import rank_images
from evaluation.judged_scenes import image, measured, random_images

BOX, FAR = [0, 0, 100, 100], [300, 300, 400, 400]


def drawn(chance, count=4000, seed=0):
    """Scores, and whether each came true, with a chance that depends on the score."""
    noise = np.random.default_rng(seed)
    scores = noise.uniform(0.02, 0.98, count)
    return scores, noise.random(count) < chance(scores)


def images_of(scores, right):
    """An image a box, right or beside the true one."""
    return [
        image(str(n), [(BOX, "x")], [(BOX if true else FAR, "x", float(score))])
        for n, (score, true) in enumerate(zip(scores, right, strict=True))
    ]


def test_reliability_by_hand():
    found = reliability(np.array([0.95, 0.91, 0.55, 0.1]), np.array([True, False, True, False]))
    assert found.bins == (
        ReliabilityBin(0.1, 0.2, 1, 0.1, 0.0),
        ReliabilityBin(0.5, 0.6, 1, 0.55, 1.0),
        ReliabilityBin(0.9, 1.0, 2, pytest.approx(0.93), 0.5),
    )
    assert found.ece == pytest.approx((0.1 + 0.45 + 2 * 0.43) / 4)


def test_a_score_of_one_is_in_the_last_bin_and_nothing_has_no_error():
    assert reliability(np.array([1.0]), np.array([True])).bins == (ReliabilityBin(0.9, 1.0, 1, 1.0, 1.0),)
    empty = reliability(np.zeros(0), np.zeros(0, bool))
    assert (empty.num_boxes, empty.ece, empty.bins) == (0, None, ())


def test_right_is_right_at_iou_one_half_and_crowds_do_not_count():
    crowd = JudgedImage("c", Detections.empty(), Detections([BOX], ["x"], [0.9]), Detections([BOX], ["x"]))
    half = image("h", [(BOX, "x")], [([0, 0, 100, 50], "x", 0.7)])
    less = image("l", [(BOX, "x")], [([0, 0, 100, 49], "x", 0.3)])
    found = calibration(rank_images([crowd, half, less]))
    assert [(one.mean_score, one.share_right) for one in found.bins] == [(0.3, 0.0), (0.7, 1.0)]


def test_honest_scores_have_a_small_error_and_stay_as_they_are_or_nearly():
    scores, right = drawn(lambda s: s)
    assert reliability(scores, right).ece < 0.03
    assert fit_temperature(scores, right).temperature == pytest.approx(1, abs=0.1)


def test_a_known_temperature_is_found():
    scores, right = drawn(lambda s: 1 / (1 + (1 / s - 1) ** (1 / 3)))  # logit / 3
    fitted = fit_temperature(scores, right)
    assert (fitted.temperature, fitted.bias) == (pytest.approx(3, rel=0.2), pytest.approx(0, abs=0.15))


def test_isotonic_by_hand():
    """0.2 right, 0.4 wrong are pooled: one of two, at their mean score."""
    fitted = fit_isotonic(np.array([0.4, 0.2, 0.8, 0.1]), np.array([False, True, True, False]))
    assert fitted.said == pytest.approx((0.1, 0.3, 0.8))
    assert fitted.true == (0.0, 0.5, 1.0)


@pytest.mark.parametrize("fit", [fit_temperature, fit_isotonic])
@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_is_finite(fit, right):
    fitted = fit(np.linspace(0, 1, 50), np.full(50, right))
    mended = fitted.apply(np.linspace(0, 1, 50))
    assert np.isfinite(mended).all()
    assert (mended.mean() > 0.5) == right


@pytest.mark.parametrize(
    ("chance", "kind"),
    [
        (lambda s: 0.3 * s, ("temperature", "isotonic")),
        (lambda s: np.where(s < 0.5, 0.1, 0.6), ("isotonic",)),
    ],
)
def test_fit_mends_scores_and_chooses_by_the_other_half(chance, kind):
    fit = fit_calibrator(images_of(*drawn(chance)))
    assert fit.calibrator.kind in kind
    assert fit.after.ece < 0.05 < 0.15 < fit.before.ece
    assert fit.ece_of_kind["none"] == fit.before.ece
    assert fit.ece_of_kind[fit.calibrator.kind] == fit.after.ece == min(fit.ece_of_kind.values())
    assert fit.calibrator.num_boxes == 4000


def test_a_handful_of_wrong_boxes_gives_no_steps():
    """Where nearly all boxes are right, steps would call every score certain."""
    scores = np.random.default_rng(0).uniform(0.5, 0.9, 100)
    fit = fit_calibrator(images_of(scores, np.arange(100) != 50))
    assert fit.calibrator.kind == "temperature"
    assert fit.ece_of_kind.keys() == {"none", "temperature"}
    assert 0.9 < fit.calibrator.apply(np.array([0.7]))[0] < 0.999


def test_scores_that_are_right_are_left_as_they_are():
    images = images_of([1.0, 0.0] * 60, [True, False] * 60)
    fit = fit_calibrator(images)
    assert (fit.calibrator, fit.before.ece) == (None, 0.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fit", [fit_temperature, fit_isotonic])
def test_ap_stays_what_it_was(seed, fit):
    images = random_images(seed, 40)
    scores, right = drawn(lambda s: np.where(s < 0.6, 0.1, 0.5), 300, seed)
    calibrator = fit(scores, right)
    mended = [
        JudgedImage(
            one.sample_id, one.truth, one.predicted.with_scores(calibrator.apply(one.predicted.scores)), readable=True
        )
        for one in images
    ]
    before, after = measured(images), measured(mended)
    assert (before.map, before.map50, before.per_class) == (after.map, after.map50, after.per_class)
    assert before.calibration != after.calibration


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "0 found boxes on 0 images are too few"),
        (images_of([0.5] * (MIN_BOXES - 1), [True] * (MIN_BOXES - 1)), "39 found boxes"),
        ([image("a", [], [(BOX, "x", 0.5)] * 80), image("b", [], [])], "80 found boxes on 2 images"),
        (random_images(0, 60, scored=False), "no scores"),
    ],
)
def test_too_little_is_refused(images, said):
    with pytest.raises(DataError, match=said):
        fit_calibrator(images)


@pytest.mark.parametrize(
    ("trained", "num_held", "said"),
    [
        (range(100), 200, None),
        (range(101), 200, "1 of these 200 .* say --max-images 199"),
        (range(300), 200, r"200 of these 200 .* data\.max_train_images=240, .* --max-images 60"),
        (range(0, 300, 10), 50, r"5 of these 50 .* data\.max_train_images=250, .* --max-images 50"),
        (range(150, 160), 200, "10 of these 200 .* say --max-images 140"),
        (None, 200, None),
    ],
)
def test_images_of_the_training_are_warned_of(tmp_path, trained, num_held, said):
    samples = boxes_of(300)
    if trained is not None:
        seen = pack_digests(image_digests(samples.subset(trained)))
        (tmp_path / "run.json").write_text(json.dumps({"data": {"images": seen}}))
    warning = seen_in_training(tmp_path, samples, num_held)
    assert (warning is None) == (said is None)
    if said:
        assert re.search(said, warning)


def test_so_few_images_that_none_can_be_kept_free(tmp_path):
    samples = boxes_of(3)
    (tmp_path / "run.json").write_text(json.dumps({"data": {"images": pack_digests(image_digests(samples))}}))
    assert "3 images are too few to keep some free" in seen_in_training(tmp_path, samples, 3)


def boxes_of(count: int) -> DetectionDataset:
    boxes = Detections([[1, 2, 30, 40]], ["x"])
    records = [Record(str(n), Path(f"{n}.png"), (50, 60), boxes, f"row {n}") for n in range(count)]
    return DetectionDataset(records, ("x",), "made", "train")
