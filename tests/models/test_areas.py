"""What is trained changes, what is frozen stays, bit for bit, in every family."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from boxtune.errors import ModelError
from boxtune.models.areas import LowRank, bare_name, check_low_rank, prepare_for_training, summarize
from boxtune.models.families import FAMILIES, family
from boxtune.models.merge import probe_inputs

FULL = {"vision": "full", "merger": "full", "language": "full"}
RECIPES = {
    "lora": {"vision": "frozen", "merger": "frozen", "language": "lora"},
    "everything": FULL,
    "vision": {"vision": "full", "merger": "frozen", "language": "frozen"},
    "merger": {"vision": "frozen", "merger": "full", "language": "frozen"},
    "lora-and-merger": {"vision": "frozen", "merger": "full", "language": "lora"},
    "two-loras": {"vision": "lora", "merger": "frozen", "language": "lora"},
}
each_family = pytest.mark.parametrize("model_type", FAMILIES)
each_recipe = pytest.mark.parametrize("recipe", RECIPES)


def prepared(tiny, model_type: str, recipe: str, dtype: torch.dtype = torch.float32):
    model = copy.deepcopy(tiny(model_type)[0]).to(dtype)
    return prepare_for_training(model, family(model_type), RECIPES[recipe], LowRank(rank=4, alpha=8))


def step(model, inputs) -> None:
    """One AdamW step without weight decay: a parameter without gradient stays as it was."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=any(p.dtype == torch.bfloat16 for p in model.parameters())):
        model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()


def routing_all_experts(model) -> None:
    """Every expert takes part in every token, so that none is left without gradient by chance."""
    for module in model.modules():
        if hasattr(module, "top_k"):
            module.top_k = module.num_experts


@each_recipe
@each_family
def test_one_step_changes_exactly_the_trainable(tiny, model_type, recipe):
    model = prepared(tiny, model_type, recipe)
    if model_type == "qwen3_vl_moe":
        routing_all_experts(model)
    with torch.no_grad():  # LoRA's A has a gradient only once B is not zero
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    step(model, probe_inputs(tiny(model_type)[1]))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is not parameter.requires_grad, name


@each_recipe
@each_family
def test_areas_are_trained_as_asked(tiny, model_type, recipe):
    row = family(model_type)
    for name, parameter in prepared(tiny, model_type, recipe).named_parameters():
        how = RECIPES[recipe][row.area_of(bare_name(name))]
        assert parameter.requires_grad == (how == "full" or (how == "lora" and ".lora_" in name)), name


@pytest.mark.parametrize("recipe", ["lora", "vision", "lora-and-merger"])
@each_family
def test_trained_weights_are_fp32_and_frozen_ones_keep_their_dtype(tiny, model_type, recipe):
    model = prepared(tiny, model_type, recipe, torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert dtypes[name] == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
    step(model, probe_inputs(tiny(model_type)[1]))  # the mixture runs


def test_tied_head_stays_tied(tiny):
    model = prepared(tiny, "qwen2_5_vl", "everything", torch.bfloat16)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


@each_family
def test_summary_counts_every_parameter_once(tiny, model_type):
    model = prepared(tiny, model_type, "lora")
    rows = {row.area: row for row in summarize(model, family(model_type))}
    assert set(rows) == {"vision", "merger", "language"}
    assert sum(row.num_parameters for row in rows.values()) == sum(p.numel() for p in model.parameters())
    low_rank = sum(p.numel() for n, p in model.named_parameters() if ".lora_" in n)
    assert {area: row.num_trainable for area, row in rows.items()} == {"vision": 0, "merger": 0, "language": low_rank}


def test_nothing_to_train_is_refused(tiny):
    frozen = dict.fromkeys(FULL, "frozen")
    with pytest.raises(ModelError, match="every area is frozen"):
        prepare_for_training(copy.deepcopy(tiny("qwen2_vl")[0]), family("qwen2_vl"), frozen, LowRank())


@pytest.mark.parametrize(
    ("training", "changed"),
    [
        (RECIPES["lora"], {"lora_targets": {"language": r"language_model\.layers\.\d+\.q_proj"}}),
        (FULL, {"areas": {**family("qwen2_vl").areas, "vision": r"visual\."}}),
    ],
    ids=["lora", "full"],
)
def test_a_rule_that_matches_nothing_is_an_error(tiny, training, changed):
    row = dataclasses.replace(family("qwen2_vl"), **changed)
    with pytest.raises(ModelError, match=r"matches no (module|parameter)"):
        prepare_for_training(copy.deepcopy(tiny("qwen2_vl")[0]), row, training, LowRank())


def test_a_pattern_that_reaches_into_another_area_is_an_error(tiny):
    row = dataclasses.replace(family("qwen2_5_vl"), lora_targets={"language": r".*\.gate_proj"})
    with pytest.raises(ModelError, match=r"visual.*lie in the area 'vision'"):
        prepare_for_training(copy.deepcopy(tiny("qwen2_5_vl")[0]), row, RECIPES["lora"], LowRank())


def test_check_finds_lora_outside_its_areas(tiny):
    model = prepared(tiny, "qwen2_vl", "two-loras")
    check_low_rank(model, family("qwen2_vl"), ["vision", "language"])
    with pytest.raises(ModelError, match="'vision'"):
        check_low_rank(model, family("qwen2_vl"), ["language"])


def test_low_rank_has_the_shape_asked_for(tiny):
    model = prepared(tiny, "qwen3_vl", "lora")
    layers = [m for m in model.modules() if hasattr(m, "lora_A") and isinstance(m.lora_A, nn.ModuleDict)]
    assert layers
    assert {(m.r["default"], m.scaling["default"]) for m in layers} == {(4, 2.0)}
