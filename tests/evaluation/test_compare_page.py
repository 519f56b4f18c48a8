"""The page of a comparison: what it says of differences, which pictures it shows, and that it stands alone."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from boxtune.detections import Detections
from boxtune.evaluation.coco import read_scored
from boxtune.evaluation.compare import compare_models, compare_scored
from boxtune.evaluation.compare_page import write_files_page, write_models_page
from boxtune.evaluation.evaluate import Evaluation
from boxtune.evaluation.intervals import Difference, Interval
from boxtune.evaluation.page.annotated import NO_PICTURE
from boxtune.evaluation.page.differences import difference_table, verdict
from boxtune.evaluation.predictions import write_ground_truth, write_predictions
from evaluation.hostile import HOSTILE, TRUTH, WRONG, Outline, evaluation, sample

RIGHT = TRUTH.with_scores([0.9, 0.8])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two models of hostile names; they agree on the first of three images."""
    samples = [sample(HOSTILE), sample("second"), sample("third")]
    good = evaluation(samples, RIGHT, HOSTILE)
    bad = evaluation(samples[1:], WRONG, HOSTILE, "malformed")
    both = {HOSTILE: good, "other": Evaluation(bad.metrics, good.images[:1] + bad.images, good.labels)}
    path = tmp_path_factory.mktemp("page") / "comparison.html"
    write_models_page(path, compare_models(both, num_resamples=50), both, samples, HOSTILE)
    return path.read_text()


def test_it_is_whole_and_alone(page):
    outline = Outline(page)
    assert outline.open == []
    assert outline.tags.count("script") == page.count("<script") == 1
    assert outline.handlers == []
    assert all(link.startswith(("data:image/jpeg;base64,", "#picture-")) for link in outline.links)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", page)
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert "49</style>" not in page


def test_only_pictures_on_which_they_differ_are_shown(page):
    assert "The models differ on 2 of 3 images." in page
    assert re.findall(r"<h3>(\w+)</h3>", page) == ["second", "third"]
    assert page.count('<use href="#picture-') == 2  # the picture once, the boxes of each model over it
    assert re.findall(r'data-rank="(\d)"', page) == ["0", "0"]
    assert re.findall(r'data-kinds="([^"]*)"', page) == ["localisation background missed unreadable"] * 2


def test_curves_errors_and_labels_of_all_are_there(page):
    assert page.count("Precision and recall, ") == 2 * 3  # heading and description of each
    assert re.search(r"other, AP50 \d\.\d{3}", page)
    assert "table 0.90 localisation</text>" in page
    assert re.search(r'localisation<small>.*?<div class="bar c1">', page, re.S)
    assert 'aria-label="average precision by label"' in page


def difference(value, low, high, better=0.9):
    return Difference(value, Interval(low, high), better)


def test_verdicts_in_words():
    better = {"map": difference(0.1, 0.05, 0.2), "map50": difference(0.1, -0.05, 0.2), "f1_50": None}
    said = verdict("b", "a", better, "50 images")
    assert said.startswith("b is better than a: the difference in AP is +0.100")
    assert "from +0.050 to +0.200" in said
    assert said.endswith("Not told apart: AP50.")
    worse = {"map": difference(-0.1, -0.2, -0.05), "map50": difference(-0.1, -0.2, -0.05)}
    assert verdict("b", "a", worse, "50 images").startswith("b is worse than a")
    assert verdict("b", "a", worse, "50 images").endswith("Also worse: AP50.")
    equal = {"map": difference(0.0, -0.05, 0.05), "mean_iou": difference(0.1, 0.05, 0.2)}
    assert "b and a cannot be told apart on these 50 images" in verdict("b", "a", equal, "50 images")
    assert verdict("b", "a", equal, "50 images").endswith("Better: mean IoU.")
    assert "there is no true box" in verdict("b", "a", {"map": None}, "50 images")


def test_differences_as_a_table():
    table = difference_table({"b": {"map": difference(0.1, 0.05, 0.2, 0.99)}, "c": {"map": None}})
    assert table.columns == ("b", "better", "c", "better")
    (row,) = table.rows  # figures that nobody has are left out
    assert (row[0], [(cell.text, cell.interval, cell.best) for cell in row[2]]) == (
        "AP",
        [("+0.100", "+0.050 to +0.200", True), ("99%", "", False), ("–", "", False), ("–", "", False)],
    )


def test_models_that_never_differ(tmp_path):
    samples = [sample("a"), sample("b")]
    both = {"one": evaluation(samples, RIGHT), "two": evaluation(samples, RIGHT)}
    write_models_page(tmp_path / "p.html", compare_models(both, num_resamples=20), both, samples, "same")
    page = (tmp_path / "p.html").read_text()
    assert "The models differ on 0 of 2 images." in page
    assert "<section" not in page
    assert "Nothing: no model made a mistake." in page
    assert "cannot be told apart on these 2 images" in page


@pytest.fixture
def files(tmp_path):
    """Annotations of two images, one of which lies beside them, and the boxes of two models."""
    rows = [("1", (800, 1000), TRUTH), ("2", (60, 90), Detections([[5, 5, 50, 50]], ["table"]))]
    labels = ("table", HOSTILE)
    write_ground_truth(tmp_path / "truth.json", rows, labels)
    content = json.loads((tmp_path / "truth.json").read_text())
    content["images"][0]["file_name"] = "1.png"
    (tmp_path / "truth.json").write_text(json.dumps(content))
    Image.new("RGB", (1000, 800), "gray").save(tmp_path / "1.png")
    for name, found, second in (("a", RIGHT, rows[1][2].with_scores([0.5])), ("b", WRONG, WRONG)):
        write_predictions(tmp_path / f"{name}.json", [("1", found), ("2", second)], labels)
    return tmp_path


def page_of_files(folder) -> str:
    scored = {name: read_scored(folder / "truth.json", folder / f"{name}.json", 20) for name in "ab"}
    compared = compare_scored(scored, num_resamples=20)
    write_files_page(folder / "p.html", compared, scored, folder / "truth.json", "files")
    return (folder / "p.html").read_text()


def test_pictures_of_files_are_found_beside_the_annotations(files):
    page = page_of_files(files)
    assert "<h3>1</h3>" in page
    assert f"<h3>2 · {NO_PICTURE}</h3>" in page
    assert '<svg class="picture" viewBox="0 0 90 60"' in page  # a grey frame of the size that the file says
    assert "<summary>answer</summary>" not in page  # of files no answers are known


@pytest.mark.parametrize("change", ["turned", "unnamed", "broken", "sizeless"])
def test_a_picture_that_is_not_the_one_annotated_is_not_shown(files, change):
    content = json.loads((files / "truth.json").read_text())
    if change == "turned":
        Image.new("RGB", (800, 1000)).save(files / "1.png")
    elif change == "unnamed":
        del content["images"][0]["file_name"]
    elif change == "broken":
        (files / "1.png").write_bytes(b"no picture")
    else:
        content["images"] = [{"id": 1}, {"id": 2}]
    (files / "truth.json").write_text(json.dumps(content))
    page = page_of_files(files)
    assert f"<h3>1 · {NO_PICTURE}</h3>" in page
    assert ('viewBox="0 0 900 700"' if change == "sizeless" else 'viewBox="0 0 1000 800"') in page


def test_one_label_needs_no_table_of_labels(tmp_path):
    truth = Detections([[100, 100, 600, 500]], ["table"])
    samples = [sample("a", truth), sample("b", truth)]
    both = {"one": evaluation(samples, truth.with_scores([0.5])), "two": evaluation(samples, WRONG)}
    write_models_page(tmp_path / "p.html", compare_models(both, num_resamples=20), both, samples, "same")
    assert "average precision by label" not in (tmp_path / "p.html").read_text()
