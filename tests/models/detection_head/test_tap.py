from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from boxtune.collators.batch import pad
from boxtune.models.compile import compile_blocks
from boxtune.models.detection_head.tap import layer_behind, tapped
from boxtune.models.families import FAMILIES
from collators.conversations import encoder_of


@pytest.mark.parametrize("model_type", FAMILIES)
def test_states_are_those_that_the_model_reports(tiny, samples, model_type):
    model, processor = tiny(model_type)
    encoded = [encoder_of(model_type, processor).sample(sample) for sample in samples[:2]]
    inputs, _ = pad(encoded, [e.input_ids for e in encoded], processor.tokenizer.pad_token_id)
    with torch.no_grad():
        with tapped(model) as features:
            outputs = model(**inputs, use_cache=False, output_hidden_states=True)
        vision = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    torch.testing.assert_close(features.hidden, outputs.hidden_states[-1])
    torch.testing.assert_close(features.vision, torch.cat(vision))
    torch.testing.assert_close(model.lm_head(features.hidden), outputs.logits)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_states_in_front_of_a_layer_carry_gradients_to_what_lies_below(
    tiny, samples, model_type, layers, checkpointing
):
    model, processor = tiny(model_type)
    model = copy.deepcopy(model).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    encoded = [encoder_of(model_type, processor).sample(sample) for sample in samples[:2]]
    inputs, _ = pad(encoded, [e.input_ids for e in encoded], processor.tokenizer.pad_token_id)
    entered = []
    language = model.model.language_model
    watch = language.layers[layers].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    with tapped(model, layers) as features:
        model(**inputs, use_cache=False)
    watch.remove()
    assert features.hidden is entered[0]
    features.hidden.square().sum().backward()
    reached = [any(p.grad is not None for p in layer.parameters()) for layer in language.layers]
    assert reached == [index < layers for index in range(len(language.layers))]
    assert model.get_input_embeddings().weight.grad is not None


def test_a_layer_that_would_not_call_the_hook_is_not_watched(tiny):
    model = copy.deepcopy(tiny("qwen2_vl")[0])
    compile_blocks(model, "eager", apart=layer_behind(model, 1))
    with tapped(model, 1), tapped(model):
        pass
    with pytest.raises(AssertionError, match="compiled"), tapped(model, 0):
        pass


@pytest.mark.parametrize("layers", [None, 1])
def test_nothing_is_kept_afterwards_even_after_an_error(tiny, layers):
    model, _ = tiny("qwen2_vl")
    with pytest.raises(TypeError, match="must be Tensor"), tapped(model, layers):
        model(input_ids=0)
    assert not model.model.visual._forward_hooks
    assert not model.model.language_model._forward_hooks
    assert not model.model.language_model.layers[1]._forward_pre_hooks


def test_an_adapter_around_the_model_is_seen_through(tiny, samples):
    model, processor = tiny("qwen2_vl")
    wrapped = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=["q_proj"]))
    encoded = encoder_of("qwen2_vl", processor).sample(samples[0])
    inputs, _ = pad([encoded], [encoded.input_ids], processor.tokenizer.pad_token_id)
    with torch.no_grad(), tapped(wrapped) as features:
        wrapped(**inputs, use_cache=False)
    assert features.hidden.shape == (1, len(encoded), 64)
    assert features.vision.shape == (int(encoded.vision_mask.sum()), 64)
