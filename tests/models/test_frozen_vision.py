"""A vision tower that is not trained, run outside of the model's forward."""

from __future__ import annotations

import copy

import pytest
import torch

from boxtune.collators.batch import Collator
from boxtune.losses import language
from boxtune.models.areas import LowRank, prepare_for_training, recompute_activations
from boxtune.models.families import FAMILIES, family
from boxtune.models.frozen_vision import frozen_features, is_frozen
from collators.conversations import encoder_of

each_family = pytest.mark.parametrize("model_type", FAMILIES)


def prepared(model, model_type, **areas):
    training = {"language": "lora", "vision": "frozen", "merger": "frozen", **areas}
    return prepare_for_training(copy.deepcopy(model), family(model_type), training, LowRank(rank=2)).train()


def loss_and_gradients(model, inputs, targets) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    outputs = model(**inputs, **language.forward_options(targets), use_cache=False)
    loss = language.total(outputs.logits, targets)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("batching", ["padded", "packed"])
@each_family
def test_the_same_loss_and_gradients(tiny, samples, model_type, batching):
    bare, processor = tiny(model_type)
    model = prepared(bare, model_type)
    batch = Collator(encoder_of(model_type, processor), batching=batching)(samples)
    expected_loss, expected = loss_and_gradients(model, batch["inputs"], batch["targets"])
    features = frozen_features(model, batch["inputs"])
    assert "pixel_values" in batch["inputs"]  # the batch is not changed
    loss, found = loss_and_gradients(model, features, batch["targets"])
    assert loss == expected_loss
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


@each_family
def test_input_gradients_do_not_reach_the_tower(tiny, samples, model_type):
    """Where a trainer enables them, the tower would keep what a backward pass needs, and run it."""
    bare, processor = tiny(model_type)
    model = prepared(bare, model_type)
    recompute_activations(model)
    model.enable_input_require_grads()
    batch = Collator(encoder_of(model_type, processor))(samples)
    seen = []
    for block in model.get_base_model().model.visual.blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    model(**frozen_features(model, batch["inputs"]), use_cache=False).logits.sum().backward()
    assert seen
    assert not any(seen)
    if model_type in ("qwen2_vl", "qwen2_5_vl"):  # transformers 5.23 asks for gradients of their patches
        seen.clear()
        model(**batch["inputs"], use_cache=False)
        assert all(seen)


@each_family
def test_gradients_end_where_a_tower_is_partly_frozen(tiny, samples, model_type):
    """The last block alone is trained: the blocks before it keep nothing."""
    bare, processor = tiny(model_type)
    model = prepared(bare, model_type)
    recompute_activations(model)
    blocks = model.get_base_model().model.visual.blocks
    blocks[-1].requires_grad_(True)
    assert not is_frozen(model)
    seen = []
    for block in blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    batch = Collator(encoder_of(model_type, processor))(samples)
    model(**batch["inputs"], use_cache=False).logits.sum().backward()
    assert seen[: len(blocks)] == [False] * (len(blocks) - 1) + [True]
    assert all(parameter.grad is not None for parameter in blocks[-1].parameters() if parameter.requires_grad)


@each_family
def test_frozen_means_the_mergers_too(tiny, model_type):
    model = tiny(model_type)[0]
    assert is_frozen(prepared(model, model_type))
    assert not is_frozen(prepared(model, model_type, vision="lora"))
    assert not is_frozen(prepared(model, model_type, merger="lora"))
