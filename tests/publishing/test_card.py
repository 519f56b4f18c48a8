"""The model card says what the run's files say, and nothing that is private."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

from boxtune.errors import ModelError
from boxtune.publishing.card import model_card
from boxtune.publishing.licence import Licence


def test_of_a_full_run(full_run):
    card = model_card(full_run, "me/cells", Licence("apache-2.0"))
    front = ModelCard(card).data.to_dict()
    assert front["license"] == "apache-2.0"
    assert front["base_model"] == "Qwen/Qwen2-VL-2B-Instruct"
    assert front["base_model_relation"] == "finetune"
    assert front["library_name"] == "transformers"
    assert "# cells\n" in card
    assert "taught to look for `red cell`, `a¦b`" in card
    assert "| Data set | `blood'<b>cells` |" in card
    assert f"| Digest of the data | `{'ab12' * 16}` |" in card
    assert "| Recipe | `r4-joint` |" in card
    assert "| AP (IoU 0.50 to 0.95) | 0.432 | 0.400 to 0.460 |" in card
    assert "Of 33 boxes on 24 pictures" in card
    assert "hf download me/cells --local-dir model" in card
    assert "licence is not stated" not in card
    assert not any(private in card for private in ("secret", "patients", "/home", str(full_run.parent)))


def test_of_an_adapter_without_a_licence(adapter_run):
    card = model_card(adapter_run, "me/cells")
    front = yaml.safe_load(card.split("---")[1])
    assert "license" not in front
    assert front["library_name"] == "peft"
    assert "LoRA adapter of `tiny:qwen2_vl`" in card
    assert "Its licence is not stated" in card


def test_of_a_head_that_was_trained_alone(head_run, tmp_path):
    folder = shutil.copytree(head_run, tmp_path / "copy")
    card = model_card(folder, "me/cells")
    front = yaml.safe_load(card.split("---")[1])
    assert (front["library_name"], front["pipeline_tag"]) == ("boxtune", "object-detection")
    assert "detection head, trained beside `embedded`" in card
    assert "boxtune predict --model model --decoder head --image photos" in card
    path = folder / "boxtune.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_of_head": {"name": "ann/model"}}))
    front = yaml.safe_load(model_card(folder, "me/cells").split("---")[1])
    assert (front["base_model"], front["base_model_relation"]) == ("ann/model", "adapter")


def test_of_a_folder_without_a_record(full_run, tmp_path):
    folder = shutil.copytree(full_run, tmp_path / "copy")
    for name in ("run.json", "metrics.json", "config.yaml"):
        (folder / name).unlink()
    card = model_card(folder, "me/cells")
    assert "no record of its training" in card
    assert "None were saved with the model" in card


def test_a_base_on_this_machine_is_not_named(full_run, tmp_path):
    folder = shutil.copytree(full_run, tmp_path / "copy")
    (folder / "run.json").write_text(json.dumps({"base_model": "/home/ann/models/base"}))
    card = model_card(folder, "me/cells")
    assert "/home" not in card
    assert "a base model that its files do not name" in card


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", "{", "cannot be read"),
        ("metrics.json", "[]", "is no object"),
        ("config.yaml", "a: &x 1\nb: *x", "cannot be read"),
    ],
)
def test_damaged_files_are_named(full_run, tmp_path, name, content, said):
    folder = shutil.copytree(full_run, tmp_path / "copy")
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=rf"{name} {said}"):
        model_card(folder, "me/cells")


@pytest.mark.parametrize("content", ['{"data": 3, "trained": [1], "versions": "x"}', '{"data": {"name": 1}}', "{}"])
def test_records_of_other_shapes_are_not_told_from(full_run, tmp_path, content):
    folder = shutil.copytree(full_run, tmp_path / "copy")
    (folder / "run.json").write_text(content)
    (folder / "metrics.json").write_text('{"map": "high", "intervals": 7}')
    assert "Data set" not in model_card(folder, "me/cells")
