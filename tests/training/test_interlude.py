"""What is asked of a model in between leaves no trace."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from boxtune.models.areas import LowRank, prepare_for_training, recompute_activations
from boxtune.models.families import FAMILIES, family
from boxtune.models.merge import probe_inputs
from boxtune.training.interlude import as_loaded, interlude


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def trainable(tiny, model_type: str):
    model = copy.deepcopy(tiny(model_type)[0])
    model.model.rope_deltas = None  # other tests ask the shared model
    areas = {"vision": "frozen", "merger": "frozen", "language": "lora"}
    model = prepare_for_training(model, family(model_type), areas, LowRank(rank=2, dropout=0.5))
    recompute_activations(model)
    return model.train()


def test_random_numbers_go_on(tiny):
    model = tiny("qwen2_vl")[0]
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    expected = drawn(), drawn()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    first = drawn()
    with interlude(model):
        assert drawn() == expected[1]
        drawn()
    assert (first, drawn()) == expected


def test_also_after_an_error(tiny):
    model = copy.deepcopy(tiny("qwen2_vl")[0]).train()

    def ask():
        with interlude(model):
            model.eval()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask()
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("model_type", [name for name in FAMILIES if not name.endswith("moe")])
def test_a_step_after_a_question_is_the_step_without_it(model_type, tiny):
    """Dropout, gradient checkpointing and the offsets of positions included."""
    gradients = []
    for asked in (False, True):
        torch.manual_seed(0)  # of the new adapters
        model, processor = trainable(tiny, model_type), tiny(model_type)[1]
        inputs = probe_inputs(processor)
        mixed = [module.training for module in model.modules()]
        settings = (model.config.to_dict(), model.generation_config.to_dict())
        torch.manual_seed(1)
        if asked:
            with interlude(model), torch.inference_mode():
                model.eval()
                model.generate(**inputs, max_new_tokens=3, use_cache=True)
        assert [module.training for module in model.modules()] == mixed
        assert (model.config.to_dict(), model.generation_config.to_dict()) == settings
        assert all(module.rope_deltas is None for module in model.modules() if hasattr(module, "rope_deltas"))
        model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0]
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


def test_asked_as_its_folder_would_be_and_then_as_before(tiny):
    """accelerate's wrapper is off inside and on again after an error; narrow weights come back to the bit."""
    model = copy.deepcopy(tiny("qwen2_vl")[0]).to(torch.bfloat16)
    model.lm_head.float()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    AcceleratorState._reset_state()  # a run of another test has left its precision
    assert Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model) is model
    AcceleratorState._reset_state()
    forward = vars(model)["forward"]

    def ask():
        with as_loaded(model):
            assert model.forward == model._original_forward
            assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask()
    assert model.forward is forward
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_a_model_that_nobody_wrapped_is_asked_as_it_is(tiny):
    model = copy.deepcopy(tiny("qwen2_vl")[0])
    with as_loaded(model):
        assert "forward" not in vars(model)
    assert "forward" not in vars(model)
