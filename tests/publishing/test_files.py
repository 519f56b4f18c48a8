"""What of a folder is the model, and which folders are refused."""

from __future__ import annotations

import json
import shutil

import pytest

from boxtune.errors import ModelError
from boxtune.models.load import load_model
from boxtune.publishing.files import files_of_model
from publishing.conftest import PRIVATE


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_only_the_model_goes(full_run, adapter_run, head_run):
    weights_of = {
        full_run: "model.safetensors",
        adapter_run: "adapter_model.safetensors",
        head_run: "detection_head.safetensors",
    }
    for run, weights in weights_of.items():
        names = {path.name for path in files_of_model(run)}
        assert {weights, "boxtune.json", "tokenizer.json", "processor_config.json"} <= names
        assert not names & {*PRIVATE, "photo.jpg", "README.md"}
        assert all(path.parent == run for path in files_of_model(run))


def test_what_goes_is_enough(full_run, adapter_run, head_run, tmp_path):
    for number, run in enumerate((full_run, adapter_run, head_run)):
        alone = tmp_path / str(number)
        alone.mkdir()
        for path in files_of_model(run):
            shutil.copy(path, alone)
        assert load_model(str(alone)).trained_here


def test_parts_beside_the_weights_go_along(full_run, tmp_path):
    folder = copied(full_run, tmp_path)
    for name in ("calibration.json", "detection_head.json", "detection_head.safetensors"):
        (folder / name).write_text("{}")
    assert len(files_of_model(folder)) == len(files_of_model(full_run)) + 3


def test_shards(full_run, tmp_path):
    folder = copied(full_run, tmp_path)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    assert "model-00001-of-00001.safetensors" in {path.name for path in files_of_model(folder)}
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')
    with pytest.raises(ModelError, match="safetensors files in the folder itself only"):
        files_of_model(folder)


def test_an_adapter_whose_base_nobody_else_has(adapter_run, full_run, tmp_path):
    folder = copied(adapter_run, tmp_path)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(full_run)}))
    with pytest.raises(ModelError, match=r"a folder that others do not have: .* or push what boxtune merge makes"):
        files_of_model(folder)


def test_a_head_whose_base_nobody_else_has(head_run, full_run, tmp_path):
    folder = copied(head_run, tmp_path)
    path = folder / "boxtune.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_of_head": {"name": str(full_run)}}))
    with pytest.raises(ModelError, match=r"a folder that others do not have: .* base_of_head.name in boxtune.json, or"):
        files_of_model(folder)


def test_a_head_without_its_weights(head_run, tmp_path):
    folder = copied(head_run, tmp_path)
    (folder / "detection_head.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        files_of_model(folder)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["boxtune.json", "run.json"], "so boxtune did not train it"),
        (["boxtune.json", "config.json"], "no config.json"),
        (["model.safetensors", "optimizer.pt"], "holds no weights"),
    ],
)
def test_folders_that_are_no_finished_run(full_run, tmp_path, gone, said):
    folder = copied(full_run, tmp_path)
    for name in gone:
        (folder / name).unlink()
    with pytest.raises(ModelError, match=said):
        files_of_model(folder)


def test_pickles_and_places_that_are_no_folder(full_run, tmp_path):
    folder = copied(full_run, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="can hold programs"):
        files_of_model(folder)
    with pytest.raises(ModelError, match="is no folder"):
        files_of_model(tmp_path / "nowhere")
