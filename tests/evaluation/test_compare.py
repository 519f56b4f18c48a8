"""Models against each other on the same images."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from boxtune.detections import Detections
from boxtune.errors import DataError, SaveError
from boxtune.evaluation.compare import compare_files, compare_models, print_comparison, write_comparison
from boxtune.evaluation.evaluate import EvaluatedImage, Evaluation
from boxtune.evaluation.intervals import HEADLINE
from boxtune.evaluation.metrics import MetricsAccumulator
from boxtune.evaluation.predictions import write_ground_truth, write_predictions
from boxtune.grounding.codec import DecodeResult
from boxtune.inference.detector import Prediction
from evaluation.judged_scenes import random_images

HW = (500, 500)


def evaluation(images) -> Evaluation:
    accumulator = MetricsAccumulator()
    seen = []
    for one in images:
        status = "ok" if one.readable else "malformed"
        accumulator.update(one.sample_id, HW, one.truth, one.predicted, status)
        result = DecodeResult(status, one.predicted, "")
        seen.append(EvaluatedImage(one.sample_id, HW, one.truth, Prediction(result, "", False)))
    return Evaluation(accumulator.compute(200), tuple(seen), ("class 0", "class 1", "class 2"))


def worse(images, share=0.4):
    """The same images with some of the found boxes lost."""
    noise = np.random.default_rng(9)
    return [
        dataclasses.replace(one, predicted=one.predicted.select(noise.random(len(one.predicted)) > share))
        for one in images
    ]


@pytest.fixture(scope="module")
def images():
    return random_images(11, 40)


def test_a_worse_model_is_seen_to_be_worse(images):
    comparison = compare_models({"good": evaluation(images), "bad": evaluation(worse(images))}, num_resamples=300)
    good, bad = comparison.models
    assert (good.against_baseline, comparison.num_images) == ({}, 40)
    assert bad.against_baseline.keys() == set(HEADLINE)
    for name in ("map", "map50", "detection_rate50"):
        difference = bad.against_baseline[name]
        assert difference.value == pytest.approx(getattr(bad.metrics, name) - getattr(good.metrics, name))
        assert difference.interval.low < difference.value < difference.interval.high < 0
        assert difference.probability_better < 0.025


def test_a_paired_interval_is_narrower_than_that_of_two_models(images):
    comparison = compare_models({"a": evaluation(images), "b": evaluation(worse(images, 0.1))}, num_resamples=300)
    difference = comparison.models[1].against_baseline["map"].interval
    own = comparison.models[0].metrics.intervals.figures["map"]
    assert difference.high - difference.low < own.high - own.low


def test_a_model_against_itself_is_as_good_as_itself(images):
    one = evaluation(images)
    difference = compare_models({"a": one, "b": one}, num_resamples=50).models[1].against_baseline["map"]
    assert (difference.value, difference.probability_better) == (0, 0.5)
    # forty images that are judged alike leave room for others
    assert 0.05 < difference.interval.high == -difference.interval.low < 0.2


@pytest.fixture
def files(images, tmp_path):
    labels = ("class 0", "class 1", "class 2")
    write_ground_truth(tmp_path / "truth.json", [(one.sample_id, HW, one.truth) for one in images], labels)
    for name, found in (("a", images), ("b", worse(images)), ("c", worse(images, 0.1))):
        write_predictions(tmp_path / f"{name}.json", [(one.sample_id, one.predicted) for one in found], labels)
    return tmp_path


def test_files_give_what_models_give(files, images):
    of_files = compare_files(files / "truth.json", {name: files / f"{name}.json" for name in "abc"}, num_resamples=100)
    of_models = compare_models(
        {"a": evaluation(images), "b": evaluation(worse(images)), "c": evaluation(worse(images, 0.1))},
        num_resamples=100,
    )
    for from_files, from_models in zip(of_files.models[1:], of_models.models[1:], strict=True):
        for name in HEADLINE[:-1]:
            one, other = from_files.against_baseline[name], from_models.against_baseline[name]
            assert one.value == pytest.approx(other.value, abs=1e-9)
            assert one.interval.low == pytest.approx(other.interval.low, abs=1e-9)
        assert from_files.against_baseline["parse_rate"] is None


def test_written_and_printed(files, tmp_path):
    comparison = compare_files(files / "truth.json", {"a": files / "a.json", "b": files / "b.json"}, num_resamples=50)
    write_comparison(tmp_path / "new" / "compare.json", comparison)
    content = json.loads((tmp_path / "new" / "compare.json").read_text())
    assert content == json.loads(json.dumps(comparison.to_dict()))
    assert content["models"][1]["against_baseline"]["map"]["interval"].keys() == {"low", "high"}
    said = io.StringIO()
    print_comparison(comparison, Console(file=said, width=80))
    difference = comparison.models[1].against_baseline["map"]
    assert f"{difference.value:+.3f} {difference.probability_better:4.0%}" in said.getvalue()
    assert f"{difference.interval.low:+.3f}…{difference.interval.high:+.3f}" in said.getvalue()
    assert said.getvalue().splitlines()[1:3] == ["1: a", "2: b"]
    assert "parse rate" not in said.getvalue()
    with pytest.raises(SaveError, match="cannot be written"):
        write_comparison(tmp_path / "truth.json" / "compare.json", comparison)


def other_id(images):
    return [dataclasses.replace(images[0], sample_id="another"), *images[1:]]


def other_truth(images):
    return [dataclasses.replace(images[0], truth=Detections([[1, 2, 3, 4]], ["class 0"])), *images[1:]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda images: images[:-1], "judged on different images"),
        (other_id, "judged on different images"),
        (other_truth, "judged against different boxes on '0'"),
    ],
)
def test_other_images_are_refused(images, change, said):
    with pytest.raises(DataError, match=said):
        compare_models({"a": evaluation(images), "b": evaluation(change(images))})


def test_too_few_models_images_or_resamples_are_refused(images):
    with pytest.raises(DataError, match="two models or more, not 1"):
        compare_models({"a": evaluation(images)})
    with pytest.raises(DataError, match="1 image is too little"):
        compare_models({"a": evaluation(images[:1]), "b": evaluation(images[:1])})
    with pytest.raises(DataError, match="0 resamples"):
        compare_models({"a": evaluation(images), "b": evaluation(images)}, num_resamples=0)
