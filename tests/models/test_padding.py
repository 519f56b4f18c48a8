"""Vision MLPs computed with zeros behind them: the same numbers, the same checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file

from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.families import family
from boxtune.models.merge import probe_inputs
from boxtune.models.padding import PaddedLinear, pad_vision_mlps, unpad_vision_mlps
from boxtune.models.tiny import build_tiny

MODEL_TYPE = "qwen2_5_vl"


@pytest.fixture
def awkward():
    """A tiny model whose vision MLPs are 60 wide, and its processor."""
    from transformers import AutoModelForImageTextToText

    model, processor = build_tiny(MODEL_TYPE)
    config = copy.deepcopy(model.config)
    config.vision_config.intermediate_size = 60
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config).eval().requires_grad_(False), processor


def logits(model, processor) -> torch.Tensor:
    with torch.no_grad():
        return model(**probe_inputs(processor)).logits


def padded_layers(model) -> list[PaddedLinear]:
    return [module for module in model.modules() if isinstance(module, PaddedLinear)]


@pytest.mark.parity
def test_the_same_logits_from_wider_layers(awkward):
    model, processor = awkward
    before = logits(model, processor)
    assert pad_vision_mlps(model) == "vision MLPs 60 → 128 wide"
    assert len(padded_layers(model)) == 3 * len(model.model.visual.blocks)
    shapes = {tuple(layer.weight.shape) for layer in padded_layers(model)}
    assert shapes == {(128, 64), (64, 128)}
    assert all(layer.weight.count_nonzero() <= 60 * 64 for layer in padded_layers(model))
    torch.testing.assert_close(logits(model, processor), before, rtol=1e-5, atol=1e-6)


def test_no_checkpoint_shows_it(awkward, tmp_path):
    model, processor = awkward
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "plain")
    pad_vision_mlps(model)
    state = model.state_dict()
    assert state.keys() == plain.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.items())
    model.save_pretrained(tmp_path / "padded")
    saved = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", "padded")]
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
    other = {name: torch.randn_like(tensor) for name, tensor in plain.items()}
    model.load_state_dict(other)
    assert all(torch.equal(tensor, other[name]) for name, tensor in model.state_dict().items() if "mlp" in name)
    expected = logits(model, processor)
    unpad_vision_mlps(model)
    assert not padded_layers(model)
    torch.testing.assert_close(logits(model, processor), expected, rtol=1e-5, atol=1e-6)


def test_an_adapter_on_the_language_model_saves_and_merges_as_without(awkward, tmp_path):
    model, processor = awkward
    areas = {"language": "lora", "vision": "frozen", "merger": "frozen"}
    wrapped = prepare_for_training(model, family(MODEL_TYPE), areas, LowRank(rank=2))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    before = logits(wrapped, processor)
    assert "60 → 128" in pad_vision_mlps(wrapped)
    wrapped.save_pretrained(tmp_path)
    assert not any("visual" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    merged = wrapped.merge_and_unload()
    torch.testing.assert_close(logits(merged, processor), before, rtol=1e-4, atol=1e-5)
    assert merged.state_dict()["model.visual.blocks.0.mlp.gate_proj.weight"].shape == (60, 64)


@pytest.mark.parametrize("vision", ["lora", "full"])
def test_trained_layers_keep_their_width(awkward, vision):
    model, _ = awkward
    areas = {"language": "frozen", "vision": vision, "merger": "frozen"}
    prepared = prepare_for_training(model, family(MODEL_TYPE), areas, LowRank(rank=2))
    assert "stay 60 wide" in pad_vision_mlps(prepared)
    assert not padded_layers(prepared)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"])
def test_good_widths_stay(model_type):
    model, _ = build_tiny(model_type)
    assert pad_vision_mlps(model.requires_grad_(False)) == ""
    assert not padded_layers(model)
