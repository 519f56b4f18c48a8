"""The first step says whether everything that should learn does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from boxtune.errors import ModelError
from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.families import FAMILIES, family
from boxtune.models.merge import probe_inputs
from boxtune.training.callbacks.audit import AuditCallback, check_gradients
from training.runs import short_run, write_coco

LORA = {"vision": "lora", "merger": "lora", "language": "lora"}


def after_backward(tiny, model_type: str, training) -> nn.Module:
    model = copy.deepcopy(tiny(model_type)[0])
    model = prepare_for_training(model, family(model_type), training, LowRank(rank=2)).train()
    inputs = probe_inputs(tiny(model_type)[1])
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    return model


@pytest.mark.parametrize("training", [LORA, dict.fromkeys(LORA, "full")], ids=["lora", "full"])
@pytest.mark.parametrize("model_type", [name for name in FAMILIES if not name.endswith("moe")])
def test_a_fresh_model_passes(tiny, model_type, training):
    """LoRA's A has a gradient of exact zeros in the first step, since B is zero; that is no fault."""
    model = after_backward(tiny, model_type, training)
    check_gradients(model, new=True)
    zeros = [name for name, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    assert all(".lora_A." in name for name in zeros)
    assert bool(zeros) is (training is LORA)


def lose(model):
    name = next(name for name, p in model.named_parameters() if p.requires_grad and "visual" in name)
    model.get_parameter(name).grad = None


def silence(model):
    name = next(name for name, p in model.named_parameters() if ".lora_B." in name and "visual" in name)
    model.get_parameter(name).grad.zero_()


def leak(model):
    frozen = next(p for name, p in model.named_parameters() if not p.requires_grad and "visual" in name)
    frozen.grad = torch.ones_like(frozen)


FAULTS = {
    "none": (lose, r"1 parameters \('.*visual.*'\) of \d+ got no gradient in the first step"),
    "zeros": (silence, r"1 parameters \('.*visual.*lora_B.*'\) of \d+ got a gradient of zeros"),
    "frozen": (leak, r"1 parameters \('.*visual.*'\) got a gradient in the first step although frozen"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(tiny, fault):
    change, message = FAULTS[fault]
    model = after_backward(tiny, "qwen3_vl", LORA)
    change(model)
    with pytest.raises(ModelError, match=message) as caught:
        check_gradients(model, new=True)
    assert "\n" not in str(caught.value)


def test_zeros_say_nothing_later_or_when_there_is_nothing_to_learn(tiny):
    model = after_backward(tiny, "qwen2_vl", LORA)
    silence(model)
    check_gradients(model, new=False)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    check_gradients(model, new=True)


def test_a_run_ends_when_an_area_is_cut_off(tmp_path, monkeypatch):
    """Here the mergers' outputs are detached, so vision tower and merger would never learn."""
    from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchMerger

    real = PatchMerger.forward
    monkeypatch.setattr(PatchMerger, "forward", lambda self, *args, **kwargs: real(self, *args, **kwargs).detach())
    data = write_coco(tmp_path / "data", 2)
    with pytest.raises(ModelError, match=r"parameters \('model\.visual\..*, .*, .* …\) of \d+ got no gradient"):
        short_run(data, tmp_path / "o", "adapter.language=full")


def test_it_looks_once(tiny):
    model = after_backward(tiny, "qwen2_vl", LORA)
    audit = AuditCallback()
    told = (TrainingArguments(output_dir="unused", report_to=[]), TrainerState(), TrainerControl())
    audit.on_pre_optimizer_step(*told, model=model)
    lose(model)
    audit.on_pre_optimizer_step(*told, model=model)
    audit.look_again()  # as a phase asks for that wakes a group
    with pytest.raises(ModelError, match="got no gradient"):
        audit.on_pre_optimizer_step(*told, model=model)


def test_a_dropped_step_is_not_looked_at(tiny):
    model = after_backward(tiny, "qwen2_vl", LORA)
    audit = AuditCallback()
    told = (TrainingArguments(output_dir="unused", report_to=[]), TrainerState(), TrainerControl())
    gradients = {p: p.grad for p in model.parameters()}
    model.zero_grad()
    audit.on_pre_optimizer_step(*told, model=model)
    assert not audit.done
    for parameter, gradient in gradients.items():
        parameter.grad = gradient
    lose(model)
    with pytest.raises(ModelError, match="got no gradient"):
        audit.on_pre_optimizer_step(*told, model=model)


def test_what_rests_needs_no_gradient(tiny):
    model = after_backward(tiny, "qwen2_vl", LORA)
    resting = next(p for name, p in model.named_parameters() if p.requires_grad and "visual" in name)
    lose(model)
    check_gradients(model, new=True, is_resting=lambda parameter: parameter is resting)
