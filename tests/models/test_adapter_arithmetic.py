"""Adapters that compute as autocast says: not a bit changes."""

from __future__ import annotations

import copy

import pytest
import torch

from boxtune.collators.batch import Collator
from boxtune.losses import language
from boxtune.models.adapter_arithmetic import compute_as_autocast
from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.families import family
from collators.conversations import encoder_of


@pytest.mark.parity
@pytest.mark.parametrize("frozen_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("use_dora", [False, True])
def test_loss_and_gradients_are_the_same_to_the_bit(tiny, samples, frozen_dtype, use_dora):
    bare, processor = tiny("qwen2_5_vl")
    areas = {"language": "lora", "vision": "lora", "merger": "frozen"}
    model = copy.deepcopy(bare).to(frozen_dtype)
    model = prepare_for_training(model, family("qwen2_5_vl"), areas, LowRank(rank=4, use_dora=use_dora))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    batch = Collator(encoder_of("qwen2_5_vl", processor))(samples)

    def run() -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(**batch["inputs"], **language.forward_options(batch["targets"]), use_cache=False)
        loss = language.total(outputs.logits, batch["targets"])
        loss.backward()
        return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected_loss, expected = run()
    adapters = compute_as_autocast(model)
    assert (adapters > 0) is not use_dora
    loss, found = run()
    assert loss == expected_loss
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
    assert compute_as_autocast(model, wanted=False) == adapters
    assert all(m.cast_input_dtype_enabled for m in model.modules() if hasattr(m, "cast_input_dtype_enabled"))


def test_a_model_without_adapters_has_none(tiny):
    assert compute_as_autocast(tiny("qwen2_vl")[0]) == 0
