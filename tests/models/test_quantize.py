"""The language model in 4 bits, the rest as it was; and one line where that cannot be."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from torch import nn

from boxtune.errors import ModelError
from boxtune.models.areas import LowRank, num_parameters, prepare_for_training, summarize
from boxtune.models.families import FAMILIES, family
from boxtune.models.load import load_model
from boxtune.models.merge import probe_inputs
from boxtune.models.quantize import (
    check_precision,
    is_packed,
    quantization_config,
    require_bitsandbytes,
    round_as_packed,
)
from boxtune.models.tiny import save_tiny

bitsandbytes = pytest.importorskip("bitsandbytes")
each_family = pytest.mark.parametrize("model_type", FAMILIES)
LORA = {"vision": "frozen", "merger": "frozen", "language": "lora"}


@torch.no_grad()
def logits(model, processor) -> torch.Tensor:
    return model.eval()(**probe_inputs(processor)).logits.float()


@each_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exactly_the_language_linears_are_packed(model_type, dtype):
    """Looked at by type: names in `llm_int8_skip_modules` have kept nothing out before."""
    model = load_model(f"tiny:{model_type}", quantize="nf4", dtype=dtype).model
    pattern = family(model_type).lora_targets["language"]
    kinds: dict[str, set[type]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            kinds.setdefault("packed" if re.fullmatch(pattern, name) else "plain", set()).add(type(module))
    assert kinds == {"packed": {bitsandbytes.nn.Linear4bit}, "plain": {nn.Linear}}
    layer = model.model.language_model.layers[0].self_attn.q_proj
    assert (layer.weight.quant_type, layer.weight.compress_statistics) == ("nf4", True)
    assert layer.compute_dtype == torch.bfloat16
    assert {p.dtype for name, p in model.named_parameters() if "visual" in name or "embed" in name} == {dtype}


@each_family
def test_a_type_that_is_not_as_declared_is_an_error(model_type):
    row = family(model_type)
    packed, plain = (load_model(f"tiny:{model_type}", quantize=how).model for how in ("nf4", "none"))
    check_precision(packed, row, "nf4")
    check_precision(plain, row, "none")
    with pytest.raises(ModelError, match=r"q_proj' \(area 'language'\) was loaded as 4 bits, but full precision"):
        check_precision(packed, row, "none")
    with pytest.raises(ModelError, match=r"q_proj' \(area 'language'\) was loaded as Linear, but 4 bits"):
        check_precision(plain, row, "nf4")


def test_a_vision_tower_in_4_bits_is_found(tmp_path):
    """What the skip list of many scripts does: `visual` matches no name from its beginning, and skips nothing."""
    from transformers import AutoModelForImageTextToText

    save_tiny("qwen2_5_vl", tmp_path / "m")
    told = quantization_config(family("qwen2_5_vl"))
    told.llm_int8_skip_modules = ["visual", "lm_head"]
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "m", quantization_config=told)
    with pytest.raises(ModelError, match=r"model\.visual\..* \(area 'vision'\) was loaded as 4 bits"):
        check_precision(model, family("qwen2_5_vl"), "nf4")


@each_family
def test_numbers_are_counted_as_if_unpacked(model_type):
    packed, plain = (load_model(f"tiny:{model_type}", quantize=how).model for how in ("nf4", "none"))
    assert num_parameters(packed) == num_parameters(plain)
    row = family(model_type)
    before, after = ({r.area: r for r in summarize(model, row)} for model in (plain, packed))
    assert {area: r.num_parameters for area, r in after.items()} == {a: r.num_parameters for a, r in before.items()}
    assert after["vision"] == before["vision"]
    assert after["language"].num_bytes < before["language"].num_bytes
    assert "nf4" in after["language"].dtypes


@each_family
def test_rounded_weights_are_those_that_packed_layers_compute_with(model_type):
    """Bit for bit; the logits then differ by bf16 arithmetic only."""
    packed, plain = (load_model(f"tiny:{model_type}", quantize=how) for how in ("nf4", "none"))
    untouched = logits(plain.model, plain.processor)
    round_as_packed(plain.model, plain.family, torch.float32)
    rounded = dict(plain.model.named_modules())
    for name, module in packed.model.named_modules():
        if is_packed(module):
            expected = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            assert torch.equal(rounded[name].weight, expected), name
    expected = logits(packed.model, packed.processor)
    scale = float(expected.abs().max())
    assert float((logits(plain.model, plain.processor) - expected).abs().max()) < 0.03 * scale  # measured 0.018
    assert float((untouched - expected).abs().max()) > 0.2 * scale


def test_evaluation_leaves_packed_weights_as_they_are():
    """bitsandbytes repacks them on some CPUs, and no gradient gets through afterwards."""
    loaded = load_model("tiny:qwen2_vl", quantize="nf4")
    model = prepare_for_training(loaded.model, loaded.family, LORA, LowRank(rank=2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    logits(model, loaded.processor)
    inputs = probe_inputs(loaded.processor)
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(torch.equal(p, before[name]) and p.dtype == before[name].dtype for name, p in model.named_parameters())
    gradients = {name: p.grad for name, p in model.named_parameters() if ".lora_B." in name}
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())


def test_an_adapter_of_4_bits_opens_on_either_base(tmp_path):
    loaded = load_model("tiny:qwen3_vl", quantize="nf4")
    model = prepare_for_training(loaded.model, loaded.family, LORA, LowRank(rank=2))
    model.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    for quantize in ("none", "nf4"):
        found = load_model(str(tmp_path), quantize=quantize).model
        assert any(is_packed(getattr(m, "base_layer", m)) for m in found.modules()) is (quantize == "nf4")


def test_a_folder_that_is_packed_already_is_refused(tmp_path):
    loaded = load_model("tiny:qwen2_vl", quantize="nf4")
    loaded.model.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    for quantize in ("none", "nf4"):
        with pytest.raises(ModelError, match="quantised already: name the model that it was made from"):
            load_model(str(tmp_path), quantize=quantize)


def test_full_training_of_packed_weights_is_refused():
    loaded = load_model("tiny:qwen2_vl", quantize="nf4")
    full = dict.fromkeys(LORA, "full")
    with pytest.raises(
        ModelError, match=r"holds 4-bit weights, which cannot be trained in full: use adapter\.language"
    ):
        prepare_for_training(loaded.model, loaded.family, full, LowRank())


def test_without_bitsandbytes_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"4 bits need bitsandbytes: pip install 'bitsandbytes>=0\.50'") as caught:
        load_model("tiny:qwen2_vl", quantize="nf4")
    assert "\n" not in str(caught.value)
    load_model("tiny:qwen2_vl")


def test_a_device_that_cannot_is_named(monkeypatch):
    def no_kernel(*args, **kwargs):
        raise NotImplementedError("Could not run 'bitsandbytes::quantize_4bit' with arguments from this backend.\nmore")

    monkeypatch.setattr(bitsandbytes.functional, "quantize_4bit", no_kernel)
    with pytest.raises(
        ModelError, match=r"cannot pack weights into 4 bits on cpu \(NotImplementedError: Could"
    ) as caught:
        require_bitsandbytes("cpu")
    assert "\n" not in str(caught.value)
