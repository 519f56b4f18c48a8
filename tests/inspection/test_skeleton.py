"""Models without weights: the same names, shapes and dtypes as the real ones, in seconds for any size."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
import torch

from boxtune.errors import ModelError
from boxtune.inspection.skeleton import load_skeleton
from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.saving import save_head
from boxtune.models.families import FAMILIES, family
from boxtune.models.load import load_model
from boxtune.models.places import load_processor
from boxtune.models.tiny import save_tiny
from inspection.shapes import CONFIGS, write_shape

# the hub's own counts of the safetensors files (a tied head is stored once)
NUM_PARAMETERS = {
    "Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Qwen2-VL-7B-Instruct": 8_291_375_616,
    "Qwen2-VL-72B-Instruct": 73_405_560_320,
    "Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen2.5-VL-72B-Instruct": 73_410_777_344,
    "Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen3-VL-8B-Instruct": 8_767_123_696,
    "Qwen3-VL-32B-Instruct": 33_357_390_064,
}


def facts(model) -> dict[str, tuple]:
    return {name: (tuple(p.shape), p.dtype) for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", CONFIGS)
def test_published_shapes_from_their_config_alone(name, tmp_path):
    start = time.process_time()
    skeleton = load_skeleton(str(write_shape(tmp_path, name)))
    assert time.process_time() - start < 10
    assert {p.device.type for p in skeleton.model.parameters()} == {"meta"}
    assert {p.dtype for p in skeleton.model.parameters()} == {torch.bfloat16}
    assert sum(p.numel() for p in skeleton.model.parameters()) == NUM_PARAMETERS[name]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_skeleton_is_the_model_without_values(model_type, tiny, tmp_path):
    expected = facts(tiny(model_type)[0])
    folder = save_tiny(model_type, tmp_path / "weights")
    for name in (f"tiny:{model_type}", str(folder), str(folder / "config.json")):
        skeleton = load_skeleton(name)
        assert facts(skeleton.model) == expected
        assert skeleton.family is family(model_type)
        assert skeleton.part is None


def test_embedded():
    assert facts(load_skeleton("embedded").model) == facts(load_model("embedded", dtype=torch.bfloat16).model)


def test_adapter_folder_is_its_base_with_the_adapter(tmp_path):
    model = load_model("tiny:qwen2_5_vl").model
    training = {"vision": "lora", "merger": "frozen", "language": "lora"}
    model = prepare_for_training(model, family("qwen2_5_vl"), training, LowRank(rank=3))
    model.save_pretrained(tmp_path)
    skeleton = load_skeleton(str(tmp_path))
    assert facts(skeleton.model) == facts(model)
    assert (skeleton.base, skeleton.part) == ("tiny:qwen2_5_vl", "adapter")
    assert f"The adapter in {skeleton.name}: LORA of rank " in skeleton.note
    assert "Everything else is its base, tiny:qwen2_5_vl." in skeleton.note
    assert load_skeleton("tiny:qwen2_5_vl").note is None


def test_a_head_that_was_trained_alone_is_its_base_and_a_note(tmp_path):
    loaded = load_model("tiny:qwen2_vl")
    head = DetectionHead(fitted_to(loaded.model.config.get_text_config(), 0))
    save_head(head, tmp_path)
    dataclasses.replace(loaded.contract, base_of_head={"name": "tiny:qwen2_vl"}).save(tmp_path)
    skeleton = load_skeleton(str(tmp_path))
    assert facts(skeleton.model) == facts(loaded.model)
    assert (skeleton.base, skeleton.part) == ("tiny:qwen2_vl", "detection head")
    size = sum(parameter.numel() for parameter in head.parameters())
    assert skeleton.note == (
        f"The detection head in {tmp_path}: {size:,} parameters, not counted here, beside tiny:qwen2_vl."
    )


def write_config(folder, **changes):
    folder.mkdir()
    content = {**CONFIGS["Qwen2-VL-2B-Instruct"], **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return folder


def test_mistakes_name_place_and_remedy(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.json").write_text("no json")
    (tmp_path / "list.json").write_text("[1]")
    lost = tmp_path / "lost"
    lost.mkdir()
    (lost / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "/gone/away"}')
    nameless = tmp_path / "nameless"
    nameless.mkdir()
    (nameless / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{")
    mistakes = {
        "nowhere": "No model at 'nowhere'",
        str(tmp_path / "nowhere"): "No model at",
        "tiny:qwen9": "No tiny model of 'qwen9'",
        str(tmp_path / "empty"): "holds no config.json",
        str(tmp_path / "text.json"): "is not JSON",
        str(tmp_path / "list.json"): "has no model_type",
        str(write_config(tmp_path / "llama", model_type="llama")): "Unknown model family 'llama'",
        str(write_config(tmp_path / "strange", model_type="no_such_thing")): "Unknown model family 'no_such_thing'",
        str(write_config(tmp_path / "sizeless", hidden_size=None)): "says no sizes",
        str(write_config(tmp_path / "words", hidden_size="wide")): "config.json",
        str(write_config(tmp_path / "negative", intermediate_size=-4)): "makes no qwen2_vl",
        str(lost): "was trained on '/gone/away', which is not there: put that model back",
        str(nameless): "is not a PEFT adapter's configuration .*base_model_name_or_path",
        str(broken): "is not a PEFT adapter's configuration",
    }
    for name, message in mistakes.items():
        with pytest.raises(ModelError, match=message) as caught:
            load_skeleton(name)
        assert "\n" not in str(caught.value)


def test_an_adapter_whose_recipe_folder_was_moved_is_found_beside_its_base(tmp_path):
    """The second stage of a recipe names the folder of the first, which moves with it."""
    before, after = tmp_path / "before", tmp_path / "after"
    first, second = before / "stage-1-vision", before / "stage-2-language"
    save_tiny("qwen2_vl", first)
    (first / "boxtune.json").write_text("{}")
    (before / "recipe.json").write_text("{}")
    model = load_model("tiny:qwen2_vl").model
    model = prepare_for_training(
        model, family("qwen2_vl"), {"vision": "frozen", "merger": "frozen", "language": "lora"}, LowRank(rank=3)
    )
    model.peft_config["default"].base_model_name_or_path = str(first)
    model.save_pretrained(second)
    before.rename(after)
    skeleton = load_skeleton(str(after / second.name))
    assert skeleton.base == str(after / first.name)
    assert facts(skeleton.model) == facts(model)


def test_an_adapter_that_fits_no_layer_of_its_base(tmp_path):
    fields = {"peft_type": "LORA", "base_model_name_or_path": "tiny:qwen2_vl", "target_modules": ["no_such_layer"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match="does not fit its base model"):
        load_skeleton(str(tmp_path))


def test_hub_ids_are_looked_up_offline_too(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    short = "No model at 'some-owner/some-model': no such folder, and the hub cannot be reached, nor is it in the cache"
    with pytest.raises(ModelError, match=short):
        load_skeleton("some-owner/some-model")


def test_processors_without_their_models(tiny, tmp_path):
    folder = save_tiny("qwen3_vl", tmp_path / "weights")
    for name in ("tiny:qwen3_vl", str(folder)):
        assert load_processor(name).tokenizer.get_vocab() == tiny("qwen3_vl")[1].tokenizer.get_vocab()
    assert load_processor("embedded").image_processor.patch_size == 14
    with pytest.raises(ModelError, match=r"processor|tokenizer"):
        load_processor(str(write_shape(tmp_path / "bare", "Qwen2-VL-2B-Instruct")))
