"""Heads that were trained alone: the base that a folder names is found, known again, and refused where it changed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from boxtune import hub
from boxtune.errors import ModelError
from boxtune.models.bases import base_of, base_of_head, named_base
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.saving import save_head
from boxtune.models.load import check_model, load_model
from boxtune.models.merge import merge_adapter
from boxtune.models.tiny import save_tiny


def save_head_alone(base: str, folder: Path) -> Path:
    """As a training does that leaves everything else frozen."""
    loaded = load_model(base)
    torch.manual_seed(0)
    head = DetectionHead(fitted_to(loaded.model.config.get_text_config(), 0, num_queries=5, width=32, caption_layers=1))
    save_head(head, folder)
    loaded.processor.save_pretrained(folder)
    dataclasses.replace(loaded.contract, base_of_head=named_base(base)).save(folder)
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder to work in, whose `models/base` looks like a hub id."""
    home = tmp_path / "project"
    save_tiny("qwen2_5_vl", home / "models" / "base")
    monkeypatch.chdir(home)
    save_head_alone("models/base", home / "runs" / "head")
    return home


def rewrite(folder: Path, base_of_head: object) -> None:
    path = folder / "boxtune.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_of_head": base_of_head}))


def change_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = min(tensors)
    save_file({**tensors, name: tensors[name] + 1}, folder / "model.safetensors", metadata={"format": "pt"})


def test_it_is_found_from_any_folder(project, tmp_path, monkeypatch):
    expected = load_model("models/base").model.state_dict()
    for place in (project, tmp_path):
        monkeypatch.chdir(place)
        loaded = load_model(str(project / "runs" / "head"))
        assert loaded.base == str(project / "models" / "base")
        assert loaded.head is not None
        assert loaded.trained_here
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items())
    assert check_model(str(project / "runs" / "head")) == loaded.contract


def test_a_copy_of_the_whole_project_has_its_own(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project.rename(tmp_path / "copy"))
    assert load_model("runs/head").base == "models/base"


def test_a_base_that_is_gone_is_named_with_the_remedy(project, tmp_path):
    moved = (project / "models").rename(tmp_path / "moved")
    head = project / "runs" / "head"
    for ask in (load_model, check_model):
        with pytest.raises(ModelError, match=r"beside the model '.*models/base', which is not there: .*base_of_head"):
            ask(str(head))
    rewrite(head, {**json.loads((head / "boxtune.json").read_text())["base_of_head"], "name": str(moved / "base")})
    assert load_model(str(head)).base == str(moved / "base")


def test_other_weights_are_refused(project, tmp_path):
    change_weights(project / "models" / "base")
    said = "weights of '.*models/base' are not those that the detection head in runs/head was trained beside"
    with pytest.raises(ModelError, match=said):
        load_model("runs/head")
    with pytest.raises(ModelError, match=said):
        merge_adapter(Path("runs/head"), tmp_path / "merged")


def test_what_else_lies_beside_the_base_does_not_count(project):
    save_head_alone("models/base", project / "models" / "base")  # a head, and a contract that names the folder itself
    (project / "models" / "base" / "notes.txt").write_text("x")
    assert load_model("runs/head").head is not None


@pytest.mark.parametrize(
    "wrong", ["models/base", [], {}, {"name": None}, {"name": "a", "weights": 7}, {"name": "a" * 5000}]
)
def test_contracts_of_another_shape_are_refused(project, wrong):
    rewrite(project / "runs" / "head", wrong)
    with pytest.raises(ModelError, match=r"boxtune.json names no base of the detection head"):
        load_model("runs/head")


@pytest.mark.parametrize("name", ["", "x/y/z", "a" * 4000, "a\0b", "\ud800"])
def test_names_that_lead_nowhere_are_refused(project, name):
    rewrite(project / "runs" / "head", {"name": name})
    with pytest.raises(ModelError, match="which is not there"):
        load_model("runs/head")


def test_models_that_are_made_up_are_not_named():
    assert named_base("tiny:qwen2_vl") is None


def test_the_embedded_model_is_known_again(tmp_path):
    folder = save_head_alone("embedded", tmp_path / "head")
    assert load_model(str(folder)).base == "embedded"
    rewrite(folder, {"name": "embedded", "weights": "of another release"})
    with pytest.raises(ModelError, match="weights of 'embedded' are not those"):
        load_model(str(folder))


def test_a_model_of_the_hub_is_known_again(tmp_path, monkeypatch):
    """In a cache that was filled before; the hub is not asked."""
    cached = tmp_path / "cache" / "models--ann--model"
    save_tiny("qwen2_vl", cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "answers", lambda: False)
    folder = save_head_alone("ann/model", tmp_path / "head")
    assert set(json.loads((folder / "boxtune.json").read_text())["base_of_head"]) == {"name", "weights"}
    assert load_model(str(folder)).base == "ann/model"
    change_weights(cached / "snapshots" / "abc")
    with pytest.raises(ModelError, match="weights of 'ann/model' are not those"):
        load_model(str(folder))


def test_folders_of_whole_models_name_no_base(project, tmp_path):
    whole = shutil.copytree(project / "models" / "base", tmp_path / "whole")
    shutil.copytree(project / "runs" / "head", whole, dirs_exist_ok=True)
    contract = json.loads((whole / "boxtune.json").read_text())
    del contract["base_of_head"]  # as earlier releases wrote it
    (whole / "boxtune.json").write_text(json.dumps(contract))
    assert (base_of_head(whole), base_of(whole)) == (None, None)
    loaded = load_model(str(whole))
    assert (loaded.base, loaded.head is not None) == (str(whole), True)
