"""`--decoder` on the command line: a model with a head and one without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boxtune.models.tiny import save_tiny
from training.runs import SHORT, write_coco

HEAD = ("model.detection_head=true", "detection_head.caption_layers=1", "detection_head.num_queries=5")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("data") / "coco", 4)


def test_the_way_of_a_user(cli, data, tmp_path):
    """Train both, evaluate each way, look at a picture, merge, and the head is still there."""
    run = tmp_path / "o"
    code, _, _ = cli("train", "--data", data, "--output-dir", run, *SHORT, *HEAD, "adapter.language=lora")
    assert code == 0
    for decoder, source in (("text", "token"), ("head", "objectness"), ("both", "token probabilities, fused with")):
        folder = tmp_path / decoder
        code, out, _ = cli(
            *("evaluate", "--model", run, "--data", data, "--decoder", decoder, "--output-dir", folder, "--json")
        )
        assert code == 0
        figures = json.loads(out)
        assert figures["score_source"].startswith(source)
        assert (figures["parse_rate"] is None) == (decoder == "head")
        assert (folder / "report.html").is_file()
    found = json.loads((tmp_path / "head" / "predictions.json").read_text())
    assert len(found) == 5 * 4
    assert cli("merge", "--adapter", run, "--output-dir", tmp_path / "m")[0] == 0
    asked = ("predict", "--model", tmp_path / "m", "--image", data / "1.png", "--output-dir", tmp_path / "p")
    assert cli(*asked, "--decoder", "both", "--free-labels")[0] == 0
    rows = json.loads((tmp_path / "p" / "predictions.json").read_text())
    assert all(row["decoder"] == "both" for row in rows)


def test_the_way_of_a_user_with_a_head_alone(cli, data, tmp_path, monkeypatch):
    """Its folder names a base, here by a name from the working folder, and goes wherever a model goes."""
    save_tiny("qwen2_vl", tmp_path / "models" / "base")
    monkeypatch.chdir(tmp_path)
    frozen = ("adapter.language=frozen", "adapter.vision=frozen", "adapter.merger=frozen")
    settings = (*SHORT, *HEAD, *frozen, "model.name=models/base", "--output-dir", "runs/head")
    code, out, _ = cli("train", "--data", data, *settings)
    assert code == 0
    assert "--decoder head --output-dir found" in " ".join(out.split())
    assert [path.name for path in Path("runs/head").glob("*.safetensors")] == ["detection_head.safetensors"]
    assert cli("merge", "--adapter", "runs/head", "--output-dir", "runs/merged")[0] == 0
    for name in ("head", "merged"):
        asked = ("evaluate", "--model", f"runs/{name}", "--data", data, "--decoder", "head")
        assert cli(*asked, "--output-dir", f"judged/{name}")[0] == 0
    assert Path("judged/head/predictions.json").read_text() == Path("judged/merged/predictions.json").read_text()
    models = ("--models", "runs/head,runs/merged", "--data", data, "--decoder", "head", "--output-dir", "compared")
    assert cli("compare", *models)[0] == 0
    asked = ("predict", "--model", "runs/head", "--image", data / "1.png", "--output-dir", "found")
    code, _, err = cli(*asked, "--decoder", "head")
    assert code == 0
    assert "only the detection head was trained" not in err
    code, _, err = cli(*asked[:-1], "found-by-text")
    assert code == 0
    assert "only the detection head was trained here. --decoder head asks it." in " ".join(err.split())
    code, out, _ = cli("inspect", "model", "runs/head")
    assert code == 0
    base = tmp_path / "models" / "base"
    assert f"runs/head (detection head on {base})" in out.replace("\n", "")
    code, _, err = cli("push", "runs/head", "--to", "me/cells", "--dry-run")
    assert code == 2
    assert "base_of_head.name in boxtune.json, or push what boxtune merge makes" in err
    assert cli("push", "runs/merged", "--to", "me/cells", "--dry-run")[0] == 0
    code, _, err = cli("merge", "--adapter", "runs/merged", "--output-dir", "no")
    assert code == 2
    assert "a full model needs no merging" in err


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_model_without_a_head_names_the_remedy(cli, data, tmp_path, command):
    place = ("--data", data) if command == "evaluate" else ("--image", data)
    asked = (command, "--model", "tiny:qwen2_vl", *place, "--labels", "box", "--output-dir", tmp_path / "o")
    code, _, err = cli(*asked, "--decoder", "head")
    assert code == 2
    assert "decoder=head needs a detection head, and this model (tiny:qwen2_vl) has none" in err
    assert "model.detection_head=true" in err


def test_files_are_compared_without_a_decoder(cli, tmp_path):
    asked = ("compare", "--predictions", "a.json,b.json", "--annotations", "c.json", "--decoder", "head")
    code, _, err = cli(*asked)
    assert code == 2
    assert "--decoder head goes with --models" in err
