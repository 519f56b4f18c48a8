"""`boxtune compare` and `boxtune calibrate` at the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from boxtune.data.dataset import load_dataset
from boxtune.data.digests import image_digests, pack_digests
from boxtune.detections import Detections
from boxtune.evaluation.predictions import write_ground_truth, write_predictions
from boxtune.grounding.codec import DecodeResult
from boxtune.inference.detector import Detector, Prediction
from boxtune.models.tiny import save_tiny
from evaluation.judged_scenes import random_images
from training.runs import write_coco

TINY = "tiny:qwen2_vl"


@pytest.fixture
def files(tmp_path):
    labels = ("class 0", "class 1", "class 2")
    images = random_images(1, 20)
    write_ground_truth(tmp_path / "truth.json", [(one.sample_id, (500, 500), one.truth) for one in images], labels)
    for name, step in (("a", 1), ("b", 2)):
        found = [(one.sample_id, one.predicted.select(np.arange(len(one.predicted)) % step == 0)) for one in images]
        write_predictions(tmp_path / f"{name}.json", found, labels)
    return tmp_path


def test_files(cli, files):
    names = f"{files / 'a.json'},{files / 'b.json'}"
    given = ("compare", "--predictions", names, "--annotations", files / "truth.json")
    code, out, _ = cli(*given, "--output-dir", files / "new")
    assert code == 0
    assert "AP50" in out
    code, out, _ = cli(*given, "--json")
    assert json.loads(out) == json.loads((files / "new" / "compare.json").read_text())
    assert "Which one is better?" in (files / "new" / "comparison.html").read_text()
    code, _, err = cli(*given, "--output-dir", files / "new")
    assert (code, "is not an empty folder" in err) == (2, True)


def test_score_writes_what_it_prints(cli, files):
    given = ("score", "--annotations", files / "truth.json", "--predictions", files / "a.json")
    code, out, _ = cli(*given, "--output-dir", files / "scored", "--json")
    content = json.loads((files / "scored" / "metrics.json").read_text())
    assert (code, json.loads(out)) == (0, content)
    curve = json.loads((files / "scored" / "curves.json").read_text())["mean"]["0.50:0.95"]
    assert np.mean(curve) == pytest.approx(content["map"], abs=1e-6)
    assert content["intervals"]["figures"]["map"]["low"] < content["map"]
    assert {"errors", "confidence", "calibration", "median_iou", "detection_rate70", "rate70"} <= content.keys()
    code, out, _ = cli(*given)
    assert (code, "Mistakes, and what AP50 would gain" in out, "Best threshold" in out) == (0, True, True)


@pytest.mark.parametrize("command", ["compare", "calibrate", "score"])
def test_help(cli, command):
    code, out, _ = cli(command, "--help")
    assert (code, len(out.splitlines()) > 5) == (0, True)


BAD = [
    ((), "Nothing to compare: give one of --models, --predictions, --recipes."),
    (("--models", "a,b", "--recipes", "r1,r2"), "--models and --recipes do not go together"),
    (("--models", "a,b"), "--models needs images to judge on: say --data"),
    (("--models", "a,b", "--data", "d"), "say --output-dir"),
    (("--recipes", "r1,r2", "--data", "d"), "say --output-dir"),
    (("--models", "a", "--data", "d", "--output-dir", "o"), "names 1: a comparison needs two"),
    (("--models", "a,a", "--data", "d", "--output-dir", "o"), "names one twice"),
    (("--models", ",", "--data", "d", "--output-dir", "o"), "names 0"),
    (("--predictions", "a,b"), "--predictions and --annotations go together"),
    (("--models", "a,b", "--annotations", "t"), "--predictions and --annotations go together"),
    (("--predictions", "a,b", "--annotations", "t", "--data", "d"), "leave --data out"),
    (("--predictions", "a,b", "--annotations", "nowhere.json"), "No file at nowhere.json"),
    (("--predictions", "a,b", "--annotations", __file__), "No file at a: check --predictions"),
    (("--models", "a,b", "--data", "d", "--output-dir", "o", "x.y=1"), "x.y=1 is a setting of training"),
    (("--recipes", "r1,r7", "--data", "d", "--output-dir", "o"), "Unknown recipe 'r7'"),
    (("--recipes", "r1,r2", "--data", "d", "--output-dir", "o", "trainer.seed=4"), "the comparison's own"),
    (("--recipes", "r1,r2", "--seeds", "0"), "--seeds 0: must be 1 or more. See `boxtune compare --help`."),
    (("--recipes", "r1,r2", "--images", "many"), "--images many: must be a whole number."),
    (("--models", "a,b", "--data", "d", "--output-dir", "/proc/x"), "/proc/x cannot be written"),
    (("--recipes", "r1,r2", "--data", "d", "--output-dir", "/proc/x"), "/proc/x cannot be used"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD)
def test_mistakes(cli, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("compare", *arguments)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_models(cli, tmp_path, monkeypatch):
    data = write_coco(tmp_path / "data", 4)
    save_tiny("qwen2_5_vl", tmp_path / "other")
    monkeypatch.setattr("boxtune.models.contract.Contract.max_new_tokens", 8, raising=False)
    given = ("compare", "--models", f"{TINY},{tmp_path / 'other'}", "--data", data, "--max-images", 3)
    code, out, err = cli(*given, "--output-dir", tmp_path / "new", "--batch-size", 3)
    assert (code, "3 images" in out) == (0, True), err
    content = json.loads((tmp_path / "new" / "compare.json").read_text())
    assert [model["name"] for model in content["models"]] == [TINY, str(tmp_path / "other")]
    assert (tmp_path / "new" / "1-tiny-qwen2_vl" / "predictions.json").is_file()
    assert (tmp_path / "new" / "2-other" / "metrics.json").is_file()
    assert "Which one is better?" in (tmp_path / "new" / "comparison.html").read_text()
    assert str(tmp_path / "new" / "comparison.html") in "".join(out.split("\n"))


@pytest.mark.parametrize(
    ("models", "options", "said"),
    [
        ("{TINY},nowhere", (), "No model at 'nowhere'"),
        ("{TINY},tiny:qwen9", (), "qwen9"),
        ("{TINY},broken", (), "has no model_type"),
        ("{TINY},tiny:qwen3_vl", ("--decoder", "head"), "needs a detection head, and tiny:qwen2_vl has none"),
        ("{TINY},tiny:qwen3_vl", ("--data", "one"), "1 image is too little to compare"),
        ("{TINY},tiny:qwen3_vl", ("--labels", "dog"), "None of the data set's labels (box)"),
    ],
)
def test_faults_are_found_before_the_first_model_is_loaded(cli, models, options, said, tmp_path, monkeypatch):
    def load(*arguments, **others):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("boxtune.evaluation.evaluate.load_detector", load)
    monkeypatch.chdir(tmp_path)
    write_coco(tmp_path / "data", 4)
    write_coco(tmp_path / "one", 1)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    named = models.replace("{TINY}", TINY)
    code, _, err = cli("compare", "--models", named, "--data", "data", "--output-dir", "o", *options)
    assert code == 2
    assert said in err
    assert not (tmp_path / "o").exists()


def test_recipes_are_handed_on(cli, tmp_path, monkeypatch):
    asked = {}

    def compare_recipes(names, data, output_dir, **options):
        asked.update(names=names, data=data, output_dir=output_dir, **options)
        raise SystemExit(0)

    monkeypatch.setattr("boxtune.training.comparison.compare_recipes", compare_recipes)
    options = ("--images", 12, "--seeds", 2, "--model", TINY, "--max-images", 5, "--split", "test")
    given = ("--recipes", "r1,r3", "--data", "D", "--output-dir", tmp_path / "x")
    cli("compare", *given, *options, "trainer.weight_decay=0")
    assert (asked["names"], asked["data"], asked["model"]) == (["r1", "r3"], "D", TINY)
    assert (asked["num_images"], asked["num_seeds"]) == (12, 2)
    assert {"evaluation.max_images=5", "data.val_split=test", "trainer.weight_decay=0"} <= set(asked["overrides"])


# ---- calibrate ------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path):
    save_tiny("qwen2_vl", tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("num_trained", [12, 60])
def test_calibrate(cli, trained, tmp_path, monkeypatch, num_trained):
    data = write_coco(tmp_path / "data", 60)
    seen = image_digests(load_dataset(data).subset(range(num_trained)))
    (trained / "run.json").write_text(json.dumps({"data": {"images": pack_digests(seen)}}))

    def predict(self, images, labels=None):
        for number, _ in enumerate(images):
            boxes = Detections([[0, 0, 90, 80], [2, 2, 4, 4]], ["box", "box"], [0.9 + number / 1000, 0.9])
            yield Prediction(DecodeResult("ok", boxes, ""), "", False)

    monkeypatch.setattr(Detector, "predict", predict)
    code, out, err = cli("calibrate", "--model", trained, "--data", data, "--max-images", 48)
    assert code == 0, err
    assert "calibration.json" in out
    assert ("surer of them" in err) == (num_trained > 12)
    assert json.loads((trained / "calibration.json").read_text())["num_boxes"] == 96
    code, _, err = cli("calibrate", "--model", trained, "--data", data)
    assert (code, "is there already" in err) == (2, True)


def test_calibrate_needs_a_folder_and_boxes(cli, trained, tmp_path, monkeypatch):
    data = write_coco(tmp_path / "data", 3)
    code, _, err = cli("calibrate", "--model", "embedded", "--data", data)
    assert (code, "is no folder" in err) == (2, True)
    monkeypatch.setattr("boxtune.models.contract.Contract.max_new_tokens", 4, raising=False)
    code, _, err = cli("calibrate", "--model", trained, "--data", data)
    assert (code, "too few to calibrate" in err) == (2, True)


def test_a_bad_calibration_file_is_one_line(cli, trained, tmp_path):
    (trained / "calibration.json").write_text("{}")
    data = write_coco(tmp_path / "data", 2)
    code, _, err = cli("evaluate", "--model", trained, "--data", data, "--output-dir", tmp_path / "o")
    assert (code, "calibration.json: it has not the keys" in err) == (2, True)
