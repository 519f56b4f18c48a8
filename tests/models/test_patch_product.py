"""Patches projected by a matrix product, against the convolution of transformers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from boxtune.collators.batch import Collator
from boxtune.losses import language
from boxtune.models.families import FAMILIES
from boxtune.models.patch_product import PatchProduct, convolve_patches, multiply_patches
from collators.conversations import encoder_of

each_family = pytest.mark.parametrize("model_type", FAMILIES)


def loss_and_gradients(model, batch) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    outputs = model(**batch["inputs"], **language.forward_options(batch["targets"]), use_cache=False)
    loss = language.total(outputs.logits, batch["targets"])
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parity
@each_family
def test_the_same_loss_and_gradients(tiny, samples, model_type):
    bare, processor = tiny(model_type)
    model = copy.deepcopy(bare)
    batch = Collator(encoder_of(model_type, processor))(samples)
    expected_loss, expected = loss_and_gradients(model, batch)
    assert multiply_patches(model)
    loss, found = loss_and_gradients(model, batch)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        largest = max(float(expected[name].abs().max()), 1e-3)
        assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-5 * largest), name


@each_family
def test_names_and_parameters_stay_what_they_are(tiny, model_type):
    model = copy.deepcopy(tiny(model_type)[0])
    before, proj = dict(model.named_parameters()), model.model.visual.patch_embed.proj
    names = model.state_dict().keys()
    assert multiply_patches(model)
    assert isinstance(model.model.visual.patch_embed.proj, PatchProduct)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is parameter for name, parameter in before.items())
    assert model.state_dict().keys() == names
    convolve_patches(model)
    convolve_patches(model)  # a second time changes nothing
    assert model.model.visual.patch_embed.proj is proj


def test_other_convolutions_are_left_alone(tiny):
    model = copy.deepcopy(tiny("qwen2_vl")[0])
    overlapping = nn.Conv3d(3, 64, (2, 14, 14), stride=(2, 7, 7))
    model.model.visual.patch_embed.proj = overlapping
    assert not multiply_patches(model)
    assert model.model.visual.patch_embed.proj is overlapping
