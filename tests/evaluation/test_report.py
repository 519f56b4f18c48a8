"""The page: complete, alone, of bounded size, and deaf to what data would have it do."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from boxtune.detections import Detections
from boxtune.errors import DataError, SaveError
from boxtune.evaluation.evaluate import EvaluatedImage, Evaluation
from boxtune.evaluation.metrics import MetricsAccumulator
from boxtune.evaluation.page.gallery import MAX_PICTURES, MAX_TEXT
from boxtune.evaluation.report import MAX_BYTES, report_html, write_report
from boxtune.grounding.codec import DecodeResult
from boxtune.inference.detector import Prediction
from evaluation.hostile import HOSTILE, TRUTH, WRONG, Outline, evaluation, sample


@pytest.fixture(scope="module")
def two_models():
    """A hostile page: names, labels, ids, answers and notes are all markup."""
    samples = [sample(HOSTILE), sample("second")]
    before = evaluation(samples, Detections.empty(scored=True), HOSTILE, "malformed")
    after = evaluation(samples, TRUTH.with_scores([0.9, 0.8]), "[1]", "repaired")
    models = [("before", before), (HOSTILE, after)]
    losses = [(step, 1 / step) for step in range(1, 400)]
    return report_html(HOSTILE, models, samples, losses, "boxtune train --data 'a & b'", [HOSTILE])


def test_the_page_is_whole_and_alone(two_models):
    outline = Outline(two_models)
    assert outline.open == []
    assert outline.tags.count("script") == two_models.count("<script") == 1
    assert outline.handlers == []
    assert outline.tags.count("details") == 5  # two answers of two pictures, and further figures
    assert all(link.startswith(("data:image/jpeg;base64,", "#picture-")) for link in outline.links)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", two_models)
    assert "default-src 'none'" in two_models
    assert "prefers-color-scheme: dark" in two_models


def test_what_data_says_stays_text(two_models):
    assert two_models.count("&lt;script&gt;") >= 10
    assert "{{" in two_models  # a template in someone's text is not filled in
    assert "49</style>" not in two_models


def test_before_and_after(two_models):
    assert '<td class="best">1.000<small>0.224 to 1.000</small></td>' in two_models
    assert "boxtune train --data &#39;a &amp; b&#39;" in two_models
    assert ">unreadable answer</span>" in two_models
    assert ">repaired answer</span>" in two_models
    assert two_models.count("Training loss") >= 1


def test_a_picture_is_embedded_once_for_all_models(two_models):
    pictures = re.findall(r"base64,([A-Za-z0-9+/=]+)", two_models)
    opened = [Image.open(io.BytesIO(base64.b64decode(data))) for data in pictures]
    assert [picture.size for picture in opened] == [(560, 448)] * 2
    assert two_models.count('<use href="#picture-') == 2


def test_figures_are_those_of_metrics_json():
    samples = [sample("a"), sample("b")]
    judged = evaluation(samples, WRONG)
    text = report_html("one", [("model", judged)], samples)
    figures = json.loads(json.dumps(judged.metrics.to_dict()))
    for name in ("map", "map50", "map75", "mean_iou", "detection_rate50", "f1_50", "parse_rate"):
        assert f"<b>{figures[name]:.3f}</b>" in text
        interval = figures["intervals"]["figures"][name]
        assert f"{interval['low']:.3f} to {interval['high']:.3f}" in text
    for kind, count in figures["errors"]["counts"].items():
        assert re.search(
            rf'bar-name">{kind}<.*?bar-text">{count}, AP50 \+{figures["errors"]["dap50"][kind]:.3f}<', text, re.S
        )
    assert f"Calibration error: {figures['calibration']['ece']:.3f}." in text
    for label in ("table",):
        assert f"<td>{figures['per_class'][label]['ap']:.3f}</td>" in text


def test_filters_know_kinds_and_labels():
    samples = [sample("good"), sample("bad")]
    right = evaluation(samples[:1], TRUTH.with_scores([0.9, 0.8]))
    wrong = evaluation(samples[1:], WRONG)
    both = Evaluation(wrong.metrics, right.images + wrong.images, right.labels)
    text = report_html("one", [("model", both)], samples)
    assert re.findall(r'data-kinds="([^"]*)"', text) == ["localisation background missed", "none"]  # worst first
    assert '<option value="localisation">localisation (1)</option>' in text
    assert 'class="true dash missed"' in text
    assert "table 0.90 localisation</text>" in text


def test_many_images_are_chosen_from():
    samples = [sample(f"image {n}", image=Image.new("RGB", (40, 40))) for n in range(MAX_PICTURES + 10)]
    text = report_html("many", [("model", evaluation(samples, WRONG))], samples)
    assert text.count('<section class="item"') == MAX_PICTURES
    assert "The 40 worst and the 20 best of 70 images." in text


def test_the_page_stays_below_15_mb(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (560, 560, 3), dtype=np.uint8))
    grid = [[x, y, x + 9, y + 9] for x in range(0, 600, 60) for y in range(0, 600, 60)]
    truth = Detections(grid, [HOSTILE] * len(grid))
    samples = [sample(str(n), truth, noise) for n in range(MAX_PICTURES)]
    judged = evaluation(samples, truth.with_scores(np.linspace(0, 1, len(grid))), "<" * 100_000)
    path = tmp_path / "report.html"
    write_report(path, title="large", models=[("model", judged)], samples=samples)
    assert 0.7 * MAX_BYTES < path.stat().st_size <= MAX_BYTES
    text = path.read_text(encoding="utf-8")
    assert "of 60 images: more would make the page larger than 15 MB" in text
    assert "<" * 10 not in text
    assert "&lt;" * (MAX_TEXT + 1) not in text


def test_pages_without_pictures_boxes_or_models():
    nothing = [sample("empty", Detections.empty())]
    for found in (Detections.empty(scored=True), WRONG, WRONG.with_scores(None)):
        assert "<h2>Curves</h2>" in report_html("no truth", [("model", evaluation(nothing, found))], nothing)
    assert "<section" not in report_html("no samples", [("model", evaluation(nothing, WRONG))])
    assert "<h1>nobody</h1>" in report_html("nobody", [])


def test_models_of_different_images_are_refused():
    models = [("a", evaluation([sample("1")], WRONG)), ("b", evaluation([sample("2")], WRONG))]
    with pytest.raises(DataError, match="'b' was judged on other images than 'a'"):
        report_html("no", models)


def test_lone_surrogates_do_not_stop_it(tmp_path):
    write_report(tmp_path / "report.html", title="half \ud800", models=[])
    assert "half ?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(SaveError, match="cannot be written"):
        write_report(tmp_path / "absent" / "report.html", title="x", models=[])


def test_candidates_are_told_of_where_they_count():
    """All that is found is a candidate: a note at the top, a word at the bars and at the curve over the score."""
    nothing = Detections.empty(scored=True)
    found = TRUTH.with_scores(np.linspace(0.1, 0.2, len(TRUTH)))
    text = report_html("t", [("m", with_candidates(nothing, found))], [sample("1"), sample("2")])
    assert "The answers themselves found 0.000 of the true boxes" in text
    assert f"The bars count {2 * len(TRUTH)} candidates as well" in text
    assert "Candidates are counted, too." in text
    plain = report_html("t", [("m", with_candidates(found, nothing))], [sample("1"), sample("2")])
    assert "andidates" not in plain


def test_no_best_threshold_where_nothing_is_right():
    far = Detections([[0, 0, 2, 2], [4, 4, 6, 6]], [TRUTH.labels[0]] * 2, [0.3, 0.4])
    text = report_html("t", [("m", with_candidates(far, Detections.empty(scored=True)))], [sample("1"), sample("2")])
    assert "Not one box is right: no threshold is the best." in text
    assert "Best F1" not in text
    assert "flatters" not in text


def with_candidates(found: Detections, candidates: Detections) -> Evaluation:
    labels = tuple(dict.fromkeys(TRUTH.labels))
    accumulator = MetricsAccumulator(labels=labels)
    images = []
    for name in ("1", "2"):
        accumulator.update(name, (100, 100), TRUTH, found, candidates=candidates)
        prediction = Prediction(DecodeResult("ok", found), "[]", False, candidates)
        images.append(EvaluatedImage(name, (100, 100), TRUTH, prediction))
    return Evaluation(accumulator.compute(), tuple(images), labels)
