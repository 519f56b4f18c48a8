"""`--examples` on the command line: evaluate and predict behind worked examples, and what does not go together."""

from __future__ import annotations

import json

import pytest

from training.runs import SHORT, write_coco


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("data") / "coco", 4)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("others") / "coco", 3, seed=5)


def test_the_way_of_a_user(cli, data, others, tmp_path):
    run = tmp_path / "o"
    assert cli("train", "--data", data, "--output-dir", run, *SHORT, "data.examples=1")[0] == 0
    asked = ("evaluate", "--model", run, "--data", data, "--json", "--output-dir")
    code, out, err = cli(*asked, tmp_path / "without")
    assert code == 0
    assert "Worked examples before each question: none; the model was trained with 1." in err
    code, out, err = cli(*asked, tmp_path / "with", "--examples", 1, "--examples-from", others)
    assert (code, json.loads(out)["num_images"]) == (0, 4)
    assert "Worked examples" not in err
    report = (tmp_path / "without" / "report.html").read_text()
    assert "the model was trained with 1" in report
    asked = ("predict", "--model", run, "--image", data / "1.png", "--output-dir", tmp_path / "p")
    code, _, err = cli(*asked, "--examples", 2, "--examples-from", others)
    assert code == 0
    assert "Worked examples before each question: 2; the model was trained with 1." in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--examples", 1), "--examples N --examples-from DATA go together"),
        (("--examples-from", "synthetic:nutrition?n=4"), "--examples N --examples-from DATA go together"),
        (("--examples", 1, "--examples-from", "DATA"), "would show answers of the images that are judged"),
        (("--examples", 9, "--examples-from", "OTHERS"), "--examples 9 is more than the 3 images"),
        (("--examples", 1, "--examples-from", "synthetic:nutrition?n=4"), "The examples show"),
    ],
)
def test_what_does_not_go_together(cli, data, others, tmp_path, options, says):
    places = {"DATA": data, "OTHERS": others}
    options = [places.get(option, option) for option in options]
    asked = ("evaluate", "--model", "tiny:qwen2_vl", "--data", data, "--output-dir", tmp_path / "o")
    code, _, err = cli(*asked, *options)
    assert code == 2
    assert says in err


def test_pictures_on_ray_are_asked_about_alone(cli, data, others, tmp_path):
    asked = ("predict", "--model", "tiny:qwen2_vl", "--image", data, "--output-dir", tmp_path / "o", "--ray")
    code, _, err = cli(*asked, "--examples", 1, "--examples-from", others)
    assert code == 2
    assert "--examples does not go with --ray" in err
