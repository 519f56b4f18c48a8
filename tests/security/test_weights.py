"""Only safetensors are read, whatever a file is called; no pickle of a model or adapter is opened."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from boxtune.errors import ModelError
from boxtune.inference.detector import load_detector
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.saving import WEIGHTS_FILE, save_head
from boxtune.models.load import load_model


def test_the_trap_works(trap, tmp_path):
    trap.pickled(tmp_path / "file")
    pickle.loads((tmp_path / "file").read_bytes())
    assert trap.went_off


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "weights.pt"])
def test_a_folder_of_pickled_weights_is_refused(tiny_folder, tmp_path, trap, put_trap, name):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    put_trap(folder / name)
    with pytest.raises(ModelError, match=rf"holds its weights as {name}, not as model\.safetensors.*not read"):
        load_model(str(folder))
    assert not trap.went_off


def test_a_pickle_beside_safetensors_is_not_looked_at(tiny_folder, tmp_path, trap, put_trap):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.pkl"):
        put_trap(folder / name)
    load_model(str(folder))
    assert not trap.went_off


def test_a_pickle_named_safetensors_is_refused(tiny_folder, tmp_path, trap, put_trap):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    put_trap(folder / "model.safetensors")
    with pytest.raises(ModelError, match="cannot be loaded as a model"):
        load_model(str(folder))
    assert not trap.went_off


@pytest.mark.parametrize(
    "shard", ["pytorch_model.bin", "../other.bin", "../model.safetensors", "/etc/x.safetensors", "a\\b.safetensors", 7]
)
def test_an_index_may_name_only_safetensors_of_its_own_folder(tiny_folder, tmp_path, trap, put_trap, shard):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    with safe_open(weights, "pt") as file:
        index = {"metadata": {}, "weight_map": dict.fromkeys(file.keys(), shard)}
    weights.rename(tmp_path / "model.safetensors")
    put_trap(folder / "pytorch_model.bin")
    put_trap(tmp_path / "other.bin")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"weights are read from \.safetensors files in the folder itself only"):
        load_model(str(folder))
    assert not trap.went_off


def test_the_shards_of_an_honest_index_are_read(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    with safe_open(folder / "model.safetensors", "pt") as file:
        index = {"metadata": {}, "weight_map": dict.fromkeys(file.keys(), "part-1.safetensors")}
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    load_model(str(folder))


def test_an_adapter_of_pickled_weights_is_refused(adapter_folder, tmp_path, trap, put_trap):
    folder = shutil.copytree(adapter_folder, tmp_path / "lora")
    (folder / "adapter_model.safetensors").unlink()
    put_trap(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"weights as adapter_model\.bin, not as adapter_model\.safetensors"):
        load_model(str(folder))
    assert not trap.went_off


def test_even_harmless_pickled_weights_of_an_adapter_are_refused(adapter_folder, tmp_path):
    folder = shutil.copytree(adapter_folder, tmp_path / "lora")
    weights = folder / "adapter_model.safetensors"
    torch.save(load_file(weights), folder / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.bin"):
        load_model(str(folder))


def test_an_adapters_pickle_named_safetensors_is_refused(adapter_folder, tmp_path, trap, put_trap):
    folder = shutil.copytree(adapter_folder, tmp_path / "lora")
    put_trap(folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="adapter"):
        load_model(str(folder))
    assert not trap.went_off


def test_a_pickled_detection_head_is_refused(tiny_folder, tmp_path, trap, put_trap):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    text = load_model(str(folder)).model.config.get_text_config()
    save_head(DetectionHead(fitted_to(text, end_token_id=2, width=32, num_queries=4)), folder)
    assert load_model(str(folder)).head is not None
    put_trap(folder / WEIGHTS_FILE)
    with pytest.raises(ModelError, match=rf"{WEIGHTS_FILE} cannot be read"):
        load_model(str(folder))
    assert not trap.went_off


@pytest.mark.parametrize(
    "name", ["config.json", "boxtune.json", "calibration.json", "detection_head.json", "tokenizer.json",
             "tokenizer_config.json", "processor_config.json", "generation_config.json", "chat_template.jinja"]
)  # fmt: skip
def test_settings_that_are_pickles_are_refused_or_left_alone(tiny_folder, tmp_path, trap, put_trap, name):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    put_trap(folder / name)
    if name == "generation_config.json":  # transformers goes on without it
        load_detector(str(folder), device="cpu")
    else:
        with pytest.raises(ModelError) as caught:
            load_detector(str(folder), device="cpu")
        assert "\n" not in str(caught.value)
    assert not trap.went_off
