"""Intervals: seeded, in the right place, fast, and paired where models are compared."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxtune.errors import DataError
from boxtune.evaluation.intervals import (
    HEADLINE,
    Interval,
    Redrawn,
    bootstrap_intervals,
    draw_images,
    interval_of,
    is_unanimous,
    paired_difference,
    redrawn_figures,
)
from boxtune.evaluation.metrics import Metrics
from boxtune.evaluation.ranking import rank_images
from evaluation.judged_scenes import image, measured, random_images

BOX = [0, 0, 100, 100]


def test_every_headline_figure_lies_in_its_interval():
    images = random_images(0, 60)
    metrics = measured(images, 500)
    assert metrics.intervals.figures.keys() == set(HEADLINE)
    for name, interval in metrics.intervals.figures.items():
        assert interval.low < getattr(metrics, name) < interval.high


@given(st.integers(0, 10**6), st.sampled_from([1, 5, 80]), st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_no_interval_leaves_out_its_figure(seed, labels, count):
    images = random_images(seed, count, labels=labels)
    metrics = measured(images, 60)
    for name, interval in metrics.intervals.figures.items():
        if interval is not None:
            assert 0 <= interval.low <= getattr(metrics, name) + 1e-9
            assert getattr(metrics, name) - 1e-9 <= interval.high <= 1


def test_the_interval_of_ap_holds_what_other_images_give():
    """Five labels on 50 images: on half of such sets the percentile interval leaves out the AP50 of 3000 images."""
    everything = random_images(999, 3000, labels=5)
    (truly,) = redrawn_figures(everything, rank_images(everything), np.ones((1, 3000), int))["map50"].values
    held = {True: 0, False: 0}
    for seed in range(40):
        images = random_images(seed, 50, labels=5)
        ranked = rank_images(images)
        (figure,) = redrawn_figures(images, ranked, np.ones((1, 50), int))["map50"].values
        redrawn = redrawn_figures(images, ranked, draw_images(50, 200, seed))["map50"]
        for mirrored in held:
            interval = interval_of(figure, dataclasses.replace(redrawn, is_raised=mirrored), 0.95)
            held[mirrored] += interval.low <= truly <= interval.high
    assert held[True] >= 32 > held[False]


def test_basic_intervals_by_hand():
    values = np.linspace(0.4, 0.6, 201)
    raised = Redrawn(values, (60,), is_raised=True)
    assert interval_of(0.45, Redrawn(values, (60,)), 0.95) == Interval(pytest.approx(0.405), pytest.approx(0.595))
    assert interval_of(0.45, raised, 0.95) == Interval(pytest.approx(0.305), pytest.approx(0.495))
    # all redrawn values lie above the figure: what is taken off reaches down from it, to 0 at most
    assert interval_of(0.3, raised, 0.95) == Interval(pytest.approx(0.005), 0.3)
    assert interval_of(0.25, raised, 0.95) == Interval(0.0, 0.25)


def test_the_seed_decides():
    images = random_images(1)
    first, again, other = (bootstrap_intervals(images, num_resamples=100, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.figures != other.figures


def test_found_or_missed_is_the_binomial_distribution():
    """Half of 400 images found: the rate's standard error is 0.025, so 95 % lie within 0.049 of 0.5."""
    images = [image(str(n), [(BOX, "x")], [(BOX, "x", 0.9)] if n % 2 else []) for n in range(400)]
    interval = bootstrap_intervals(images, num_resamples=4000).figures["detection_rate50"]
    assert (interval.low, interval.high) == pytest.approx((0.451, 0.549), abs=0.006)


def test_more_confidence_is_wider():
    images = random_images(2, 30)
    narrow, wide = (bootstrap_intervals(images, num_resamples=300, level=level).figures["map"] for level in (0.5, 0.95))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_two_hundred_images_take_less_than_three_seconds():
    images = random_images(5, 200, labels=5)
    start = time.thread_time()
    bootstrap_intervals(images, num_resamples=1000)
    assert time.thread_time() - start < 3


def test_one_image_has_no_interval():
    assert bootstrap_intervals(random_images(0, 1)) is None
    assert measured(random_images(0, 1), 100).intervals is None


def test_without_true_boxes_there_is_no_figure_and_no_interval():
    images = [image(str(n), [], [(BOX, "x", 0.5)]) for n in range(3)]
    figures = bootstrap_intervals(images, num_resamples=20).figures
    assert figures["map"] is None
    assert figures["mean_iou"] is None
    unlike = 1 - 0.05 ** (1 / 3)  # three images without an event leave room for so large a share
    assert figures["f1_50"] == Interval(0.0, pytest.approx(unlike))
    assert figures["parse_rate"] == Interval(pytest.approx(1 - unlike), 1.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_resamples": 0}, "0 resamples give no interval"),
        ({"num_resamples": -1}, "-1 resamples"),
        ({"level": 1.0}, "holds a share of 1.0"),
        ({"level": 95}, "holds a share of 95"),
    ],
)
def test_what_gives_no_interval_is_refused(options, said):
    with pytest.raises(DataError, match=said):
        bootstrap_intervals(random_images(0), **options)


def test_every_resample_draws_as_many_images_as_there_are():
    drawn = draw_images(7, 50, seed=1)
    assert drawn.shape == (50, 7)
    assert (drawn.sum(axis=1) == 7).all()


def test_paired_differences():
    values = np.array([0.1, 0.2, 0.3, np.nan])
    one, other = Redrawn(values, (60,)), Redrawn(values + np.array([0.1, 0.2, 0.3, 0.4]), (60,))
    better = paired_difference(0.2, other, one, 0.5)
    assert (better.interval.low, better.interval.high, better.probability_better) == pytest.approx((0.15, 0.25, 1.0))
    assert paired_difference(0.0, Redrawn(np.array([np.nan]), (1,)), Redrawn(np.array([1.0]), (1,)), 0.95) is None


@given(st.integers(0, 10**6), st.sampled_from([1, 5, 80]), st.integers(2, 30))
@settings(max_examples=20, deadline=None)
def test_no_interval_leaves_out_its_difference(seed, labels, count):
    sides = []
    for side in (0, 1):
        images = random_images(seed + side, count, labels=labels)
        drawn = np.vstack([np.ones((1, count), np.int64), draw_images(count, 60, seed)])
        sides.append(redrawn_figures(images, rank_images(images), drawn))
    for name in HEADLINE:
        ours, theirs = (dataclasses.replace(side[name], values=side[name].values[1:]) for side in sides)
        value = float(sides[0][name].values[0] - sides[1][name].values[0])
        if not np.isnan(value) and (found := paired_difference(value, ours, theirs, 0.95)) is not None:
            assert -1 <= found.interval.low <= value <= found.interval.high <= 1


def test_a_difference_that_is_the_same_on_all_images_is_not_certain():
    """Of 60 images 1 − 0.05^(1/60) = 4.9 % may be unlike them, where the models may differ by anything from −1 to 1."""
    values, unlike = np.array([0.1, 0.2, 0.3]), 1 - 0.05 ** (1 / 60)
    same = paired_difference(0.0, Redrawn(values, (60,)), Redrawn(values, (90,)), 0.95)
    assert (same.interval.low, same.interval.high, same.probability_better) == pytest.approx((-unlike, unlike, 0.5))
    better = paired_difference(0.1, Redrawn(values + 0.1, (60,)), Redrawn(values, (60,)), 0.95).interval
    assert (better.low, better.high) == pytest.approx((0.1 - 1.1 * unlike, 0.1 + 0.9 * unlike))


def test_a_perfect_figure_has_the_interval_of_the_rule_of_three():
    """100 of 100 images right: 1 − 3/100 (Hanley and Lippman-Hand 1983); of 5 images much less is known."""
    perfect = {n: [image(str(k), [(BOX, "x")], [(BOX, "x", 0.9)]) for k in range(n)] for n in (5, 100)}
    found = {n: bootstrap_intervals(images, num_resamples=50) for n, images in perfect.items()}
    assert set(found[100].unanimous) == set(HEADLINE)
    for figure in HEADLINE:
        assert found[100].figures[figure] == Interval(pytest.approx(0.05**0.01), 1.0)
        assert found[100].figures[figure].low == pytest.approx(0.97, abs=0.001)
        assert found[5].figures[figure].low == pytest.approx(0.549, abs=0.001)


def test_a_rare_label_keeps_a_perfect_ap_uncertain():
    """AP is the mean over labels: of 50 images with x little is left open, of the one with y nearly everything."""
    images = [image(str(k), [(BOX, "x")], [(BOX, "x", 0.9)]) for k in range(50)]
    images.append(image("rare", [(BOX, "y")], [(BOX, "y", 0.9)]))
    found = bootstrap_intervals(images, num_resamples=50).figures
    assert found["map"].low == pytest.approx((0.05 ** (1 / 50) + 0.05) / 2)
    assert found["detection_rate50"].low == pytest.approx(0.05 ** (1 / 51))


def test_images_without_boxes_are_no_evidence_of_how_boxes_are_found():
    images = [image(str(k), [], []) for k in range(200)]
    images += [image(f"with {k}", [(BOX, "x")], [([0, 0, 100, 80], "x", 0.9)]) for k in range(4)]
    found = bootstrap_intervals(images, num_resamples=200)
    assert {"mean_iou", "detection_rate50", "map50", "f1_50"} < set(found.unanimous)
    left = 0.05**0.25
    assert found.figures["mean_iou"] == Interval(pytest.approx(0.8 * left), pytest.approx(1 - 0.2 * left))
    assert found.figures["detection_rate50"].low == pytest.approx(left)
    assert found.figures["parse_rate"].low > 0.98


def test_nothing_agrees_with_nothing():
    assert not is_unanimous(np.array([np.nan]))
    assert is_unanimous(np.array([0.3, np.nan, 0.1 + 0.2]))
    assert interval_of(0.5, Redrawn(np.array([np.nan]), ()), 0.95) is None


def test_metrics_come_back_from_their_file():
    metrics = measured(random_images(4), 50)
    assert Metrics.from_dict(metrics.to_dict()).to_dict() == metrics.to_dict()
    assert Metrics.from_dict(metrics.to_dict()).intervals == metrics.intervals
    old = {k: v for k, v in metrics.to_dict().items() if k not in ("intervals", "errors", "median_iou", "confidence")}
    assert Metrics.from_dict(old).intervals is None


@pytest.mark.parametrize("content", [{}, {"map": 1.0}, {"surprise": 1}, {"intervals": 3}, {"errors": {"x": 1}}])
def test_other_files_are_no_metrics(content):
    with pytest.raises(DataError, match="no metrics of boxtune"):
        Metrics.from_dict(content)
