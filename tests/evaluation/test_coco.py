"""`boxtune score`: equal to pycocotools, and one plain line for each bad file."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from boxtune.detections import Detections, xywh_to_xyxy
from boxtune.errors import BoxtuneError
from boxtune.evaluation.coco import score_files
from boxtune.evaluation.metrics import Metrics, MetricsAccumulator
from evaluation.scenes import pycocotools_figures, random_scene

EXACT = 1e-12
"""Both sides average the same numbers in the same order; only the last bit of a division may differ."""


def score(folder: Path, truth, results) -> Metrics:
    (folder / "truth.json").write_text(truth if isinstance(truth, str) else json.dumps(truth))
    (folder / "results.json").write_text(results if isinstance(results, str) else json.dumps(results))
    return score_files(folder / "truth.json", folder / "results.json")


def assert_equal_to_reference(metrics: Metrics, truth: dict, results: list[dict]) -> None:
    expected = pycocotools_figures(truth, results)
    assert {name: getattr(metrics, name) for name in expected} == pytest.approx(expected, abs=EXACT, rel=0)


@pytest.mark.parametrize("seed", range(6))
def test_files_equal_pycocotools(tmp_path, seed):
    truth, results = random_scene(seed)
    assert any(row["iscrowd"] for row in truth["annotations"])
    metrics = score(tmp_path, truth, results)
    assert 0.1 < metrics.map < 0.9
    assert_equal_to_reference(metrics, truth, results)


@pytest.mark.parametrize("seed", range(4))
def test_detections_equal_pycocotools(seed):
    """The same through `MetricsAccumulator`, where areas are those of the boxes and crowds do not exist."""
    truth, results = random_scene(seed, crowd=False)
    for row in truth["annotations"]:
        row["area"] = row["bbox"][2] * row["bbox"][3]
    names = {row["id"]: row["name"] for row in truth["categories"]}
    accumulator = MetricsAccumulator(names.values())
    for image in truth["images"]:
        true, found = (
            [row for row in rows if row["image_id"] == image["id"]] for rows in (truth["annotations"], results)
        )
        accumulator.update(
            str(image["id"]),
            (480, 640),
            Detections(xywh_to_xyxy([row["bbox"] for row in true]), [names[row["category_id"]] for row in true]),
            Detections(
                xywh_to_xyxy([row["bbox"] for row in found]),
                [names[row["category_id"]] for row in found],
                [row["score"] for row in found],
            ),
        )
    assert_equal_to_reference(accumulator.compute(), truth, results)


def small() -> tuple[dict, list[dict]]:
    truth = {
        "images": [{"id": 7}, {"id": 9}],
        "categories": [{"id": 3, "name": "table"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}],
    }
    return truth, [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.9}]


def test_small_pair(tmp_path):
    metrics = score(tmp_path, *small())
    assert (metrics.map, metrics.mean_iou, metrics.num_images, metrics.num_boxes, metrics.num_predictions) == (
        1,
        1,
        2,
        1,
        1,
    )
    assert (metrics.parse_rate, metrics.score_source) == (None, "file")
    assert metrics.per_class == {"table": {"ap": 1, "ap50": 1, "num_boxes": 1}}


def test_no_results_are_zeros(tmp_path):
    metrics = score(tmp_path, small()[0], [])
    assert (metrics.map, metrics.map50, metrics.ar100, metrics.f1_50, metrics.mean_iou) == (0, 0, 0, 0, None)


def test_no_true_boxes_have_no_ap(tmp_path):
    truth, results = small()
    assert score(tmp_path, truth | {"annotations": []}, results).map is None


def test_area_of_the_file_decides_the_size_class(tmp_path):
    truth, results = small()
    truth["annotations"][0]["area"] = 5000
    metrics = score(tmp_path, truth, results)
    assert (metrics.map_small, metrics.map_medium) == (None, 1)


def test_a_crowd_is_neither_missed_nor_wrong(tmp_path):
    truth, results = small()
    crowd = {"id": 2, "image_id": 7, "category_id": 3, "bbox": [50, 50, 50, 50], "area": 2500, "iscrowd": 1}
    truth["annotations"].append(crowd)
    results += [{"image_id": 7, "category_id": 3, "bbox": [60, 60, 5, 5], "score": 0.99}]
    metrics = score(tmp_path, truth, results)
    assert (metrics.map, metrics.precision50, metrics.recall50, metrics.count_error) == (1, 1, 1, 0)
    assert metrics.num_boxes == 1


def test_area_and_iscrowd_may_be_missing(tmp_path):
    truth, results = small()
    del truth["annotations"][0]["area"], truth["annotations"][0]["iscrowd"]
    assert score(tmp_path, truth, results).map_small == 1


def test_ids_from_zero_and_ids_of_text(tmp_path):
    truth, results = small()
    truth["annotations"][0]["id"] = 0
    assert score(tmp_path, truth, results).map == 1
    truth["images"][0]["id"] = truth["annotations"][0]["image_id"] = results[0]["image_id"] = "photo.jpg"
    assert score(tmp_path, truth, results).map == 1


def test_categories_that_share_a_name_stay_apart(tmp_path):
    truth, results = small()
    truth["categories"].append({"id": 4, "name": "table"})
    assert list(score(tmp_path, truth, results).per_class) == ["table (3)", "table (4)"]


def broken(target: str, change) -> tuple:
    """A good pair with one thing wrong in it."""
    truth, results = copy.deepcopy(small())
    replaced = change(truth if target == "truth" else results)
    if isinstance(replaced, str | dict | list):
        return (replaced, results) if target == "truth" else (truth, replaced)
    return truth, results


BAD_FILES = [
    ("truth", lambda t: "{oops", r"truth\.json is not JSON: .* line 1"),
    ("truth", lambda t: "", "is not JSON"),
    ("truth", lambda t: "[" * 100_000, "is not JSON: lists in lists"),
    ("truth", lambda t: [], "holds a list, as COCO results do"),
    ("truth", lambda t: '"text"', "is no COCO file"),
    ("truth", lambda t: t.pop("annotations") and None, "no list 'annotations'; a file without true boxes"),
    ("truth", lambda t: t.pop("images") and None, "no list 'images'"),
    ("truth", lambda t: t.pop("categories") and None, "no list 'categories'"),
    ("truth", lambda t: t.update(images={"id": 7}), "no list 'images'"),
    ("truth", lambda t: t["images"].append({"id": 7}), "images: ids come twice.*: 7"),
    ("truth", lambda t: t["annotations"].append(dict(t["annotations"][0])), "annotations: ids come twice"),
    ("truth", lambda t: t["categories"].append({"id": 3.0}), "categories: ids come twice"),
    ("truth", lambda t: t["images"].append("x"), r'images\[2\]: "x" is no object'),
    ("truth", lambda t: t["categories"].append({"id": 9, "name": None}), r"categories\[\d\]: name null is no text"),
    ("truth", lambda t: t["categories"].append({"id": 9, "name": ["a"]}), r"name \[\"a\"\] is no text"),
    ("truth", lambda t: t["categories"].append({"id": 9, "name": "half \ud800"}), r"half \\ud800\" holds half a char"),
    (
        "truth",
        lambda t: t["categories"].extend([{"id": i, "name": n} for i, n in ((21, "a"), (22, "a"), (23, "a (21)"))]),
        r"several are called \"a \(21\)\".*a name of its own",
    ),
    ("truth", lambda t: t["annotations"][0].update(area=-1), r"annotations\[0\]: area -1 is below 0"),
    ("truth", lambda t: t["images"].append({"id": None}), r"images\[2\]: id null is neither"),
    ("truth", lambda t: t["annotations"][0].pop("bbox") and None, r"annotations\[0\] lacks bbox"),
    ("truth", lambda t: t["annotations"][0].update(bbox=[1, 2, 3]), "is not four finite numbers"),
    ("truth", lambda t: t["annotations"][0].update(bbox=[1, 2, -3, 4]), "negative size"),
    ("truth", lambda t: t["annotations"][0].update(area="big"), "area"),
    ("truth", lambda t: t["annotations"][0].update(iscrowd="no"), "iscrowd"),
    ("truth", lambda t: t["annotations"][0].update(image_id=1), "annotations: unknown image_id 1; .* 7, 9"),
    ("truth", lambda t: t["annotations"][0].update(category_id=1), "annotations: unknown category_id 1"),
    ("results", lambda r: "nope", "is not JSON"),
    ("results", lambda r: {"annotations": []}, "is an annotation file: --predictions wants COCO results"),
    ("results", lambda r: "3", "is something else"),
    ("results", lambda r: [[1, 2]], "entry 0: .* is no object"),
    ("results", lambda r: r[0].pop("score") and None, "entry 0 lacks score"),
    ("results", lambda r: r[0].pop("bbox") and None, "entry 0 lacks bbox"),
    ("results", lambda r: r[0].update(bbox=[0, 0, 1, "2"]), "entry 0: bbox .* is not four finite numbers"),
    ("results", lambda r: r[0].update(bbox=[0, 0, 1, True]), "is not four finite numbers"),
    ("results", lambda r: r[0].update(bbox=[0, 0, 1, float("inf")]), "is not four finite numbers"),
    ("results", lambda r: r[0].update(bbox=[0, 0, 1, 10**400]), "is not four finite numbers"),
    ("results", lambda r: r[0].update(bbox=[1e308, 0, 1e308, 2]), "reaches beyond 1,000,000,000 pixels"),
    ("results", lambda r: r[0].update(bbox=[5, 5, -1, 2]), "negative size"),
    ("results", lambda r: r[0].update(score=float("nan")), "score NaN is no finite number"),
    ("results", lambda r: r[0].update(score="0.9"), "is no finite number"),
    ("results", lambda r: r[0].update(candidate=1), "entry 0: candidate 1 is neither true nor false; leave it out"),
    ("results", lambda r: r[0].update(candidate="yes"), 'entry 0: candidate "yes" is neither true nor false'),
    ("results", lambda r: r[0].update(candidate=None), "entry 0: candidate null is neither true nor false"),
    ("results", lambda r: r[0].update(image_id=[7]), "image_id .* is neither a number nor text"),
    ("results", lambda r: r[0].update(category_id=4), "unknown category_id 4; the annotations have 3"),
    (
        "results",
        lambda r: [r[0] | {"image_id": i} for i in range(100, 106)],
        "unknown image_id 100, 101, 102 and 3 more; the annotations have 7, 9",
    ),
]


@pytest.mark.parametrize(("target", "change", "message"), BAD_FILES)
def test_bad_files_are_said_in_one_line(tmp_path, target, change, message):
    with pytest.raises(BoxtuneError, match=message) as caught:
        score(tmp_path, *broken(target, change))
    assert "\n" not in str(caught.value)
    assert f"{target}.json" in str(caught.value)


def test_missing_and_unreadable_files(tmp_path):
    truth, results = small()
    score(tmp_path, truth, results)
    with pytest.raises(BoxtuneError, match=r"No file at .*absent\.json: check --annotations"):
        score_files(tmp_path / "absent.json", tmp_path / "results.json")
    with pytest.raises(BoxtuneError, match=r"cannot be read.* --predictions"):
        score_files(tmp_path / "truth.json", tmp_path)
    (tmp_path / "results.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BoxtuneError, match=r"is not JSON: .*codec"):
        score_files(tmp_path / "truth.json", tmp_path / "results.json")
