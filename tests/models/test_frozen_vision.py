"""A vision tower that is not trained, run outside of the model's forward."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from boxtune.collators.batch import Collator, pack
from boxtune.collators.labels import assistant
from boxtune.losses import language
from boxtune.models.areas import LowRank, prepare_for_training, recompute_activations
from boxtune.models.families import FAMILIES, family
from boxtune.models.frozen_vision import Picture, frozen_features, is_frozen, joined_features, tower_features
from boxtune.models.vision_geometry import grids_of
from collators.conversations import encode_messages, encoder_of, many_turns, picture, two_images

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


@pytest.mark.parity
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


# ---- features that come with the batch ------------------------------------------------------------------------------


def as_pictures(batch, merge_size, kept=()):
    """What a vision cache would say of a batch's images; those at `kept` are known."""
    grids = batch["inputs"]["image_grid_thw"].tolist()
    return [
        Picture(str(at), tuple(grid), math.prod(grid) // merge_size**2, (1, 1), at in kept)
        for at, grid in enumerate(grids)
    ]


def with_known(model, batch, kept):
    """The batch without the pixels of the images at `kept`, and their features, each seen by the tower alone."""
    inputs, merge_size = batch["inputs"], model.get_base_model().config.vision_config.spatial_merge_size
    patches = inputs["pixel_values"].split(inputs["image_grid_thw"].prod(1).tolist())
    alone = [tower_features(model, patches[at], grids_of(inputs["image_grid_thw"][[at]])) for at in kept]
    new = [patch for at, patch in enumerate(patches) if at not in kept]
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    features = torch.cat(alone, dim=1) if alone else None
    return rest | ({"pixel_values": torch.cat(new)} if new else {}), as_pictures(batch, merge_size, kept), features


@pytest.mark.parity
@pytest.mark.parametrize("kept", [(), (0,), (1, 3), (0, 1, 2, 3)], ids=["none", "first", "some", "all"])
@pytest.mark.parametrize("batching", ["padded", "packed"])
@each_family
def test_known_and_new_pictures_give_the_same_loss_and_gradients(tiny, samples, model_type, batching, kept):
    bare, processor = tiny(model_type)
    model = prepared(bare, model_type)
    batch = Collator(encoder_of(model_type, processor), batching=batching)(samples)
    expected_loss, expected = loss_and_gradients(model, batch["inputs"], batch["targets"])
    inputs, features, new = joined_features(model, *with_known(model, batch, kept))
    assert (new is None) == (len(kept) == 4)
    assert features.shape[1] == sum(picture.num_tokens for picture in as_pictures(batch, 2))
    loss, found = loss_and_gradients(model, inputs, batch["targets"])
    # a tower sums in another order where it sees fewer pictures at once
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("kept", [(0,), (1, 2), (0, 1, 2, 3)])
@each_family
def test_several_images_in_a_conversation(tiny, model_type, kept):
    bare, processor = tiny(model_type)
    model = prepared(bare, model_type)
    encoder = encoder_of(model_type, processor)
    pictures = [picture(60 + 30 * number, 120, number) for number in range(4)]
    made = [encode_messages(encoder, talk(), pictures[at : at + 2]) for at, talk in ((0, two_images), (2, many_turns))]
    inputs, labels = pack(made, [assistant(one) for one in made], processor.image_processor.merge_size)
    batch = {"inputs": inputs, "targets": language.label_targets(labels)}
    expected_loss, expected = loss_and_gradients(model, inputs, batch["targets"])
    joined, *_ = joined_features(model, *with_known(model, batch, kept))
    loss, found = loss_and_gradients(model, joined, batch["targets"])
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)
