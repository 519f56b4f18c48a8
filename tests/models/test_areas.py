"""What is trained changes, what is frozen stays, bit for bit, in every family."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from boxtune.errors import ModelError
from boxtune.models.areas import (
    LowRank,
    bare_name,
    check_low_rank,
    prepare_for_training,
    recompute_activations,
    summarize,
)
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
    "merger-lora": {"vision": "frozen", "merger": "lora", "language": "frozen"},
    "three-loras": {"vision": "lora", "merger": "lora", "language": "lora"},
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


@each_family
def test_summary_says_how_each_area_is_held(tiny, model_type):
    model = prepared(tiny, model_type, "two-loras", torch.bfloat16)
    rows = {row.area: row for row in summarize(model, family(model_type))}
    assert {area: row.training for area, row in rows.items()} == {
        "vision": "lora",
        "merger": "frozen",
        "language": "lora",
    }
    assert rows["merger"].dtypes == ("bfloat16",)
    assert rows["vision"].dtypes == ("bfloat16", "float32")
    for row in rows.values():
        assert row.num_bytes == 2 * (row.num_parameters - row.num_low_rank) + 4 * row.num_low_rank
    assert sum(row.num_tensors for row in rows.values()) == len(list(model.named_parameters()))
    assert rows["vision"].num_trainable_tensors == sum(
        ".visual." in name for name, p in model.named_parameters() if p.requires_grad
    )


@each_family
def test_lora_reaches_every_linear_of_mergers_and_no_patch_embedding(tiny, model_type):
    model = prepared(tiny, model_type, "three-loras")
    wrapped = {bare_name(name.split(".lora_A.")[0]) for name, _ in model.named_parameters() if ".lora_A." in name}
    bare = tiny(model_type)[0]
    linears = {name for name, module in bare.named_modules() if isinstance(module, nn.Linear) and ".visual." in name}
    assert {name for name in wrapped if ".visual." in name} == linears
    assert not [name for name in wrapped if "patch_embed" in name]
    if model_type.startswith("qwen3"):
        assert {"model.visual.merger.linear_fc1", "model.visual.deepstack_merger_list.0.linear_fc2"} <= wrapped


@pytest.mark.parametrize("shape", [{"use_dora": True}, {"use_rslora": True}], ids=["dora", "rslora"])
def test_variants_of_lora(tiny, shape):
    model = copy.deepcopy(tiny("qwen2_5_vl")[0])
    low_rank = LowRank(rank=4, alpha=8, **shape)
    model = prepare_for_training(model, family("qwen2_5_vl"), RECIPES["three-loras"], low_rank)
    layer = next(m for m in model.modules() if hasattr(m, "lora_A") and isinstance(m.lora_A, nn.ModuleDict))
    assert layer.scaling["default"] == (4.0 if "use_rslora" in shape else 2.0)
    magnitudes = [name for name, _ in model.named_parameters() if "lora_magnitude_vector" in name]
    assert bool(magnitudes) is ("use_dora" in shape)
    step(model, probe_inputs(tiny("qwen2_5_vl")[1]))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("recipe", ["lora", "merger-lora", "merger", "two-loras", "everything"])
@each_family
def test_a_frozen_vision_tower_keeps_no_activations(tiny, model_type, recipe, checkpointing):
    """Nothing that it computes hangs on a graph, so that no backward pass goes through it."""
    model = prepared(tiny, model_type, recipe).train()
    if checkpointing:
        recompute_activations(model)
    tower = next(module for name, module in model.named_modules() if name.endswith("model.visual"))
    merger = next(module for name, module in model.named_modules() if name.endswith("model.visual.merger"))
    graphs: dict[str, list[bool]] = {"blocks": [], "merger": []}
    for block in (tower.patch_embed, *tower.blocks):
        block.register_forward_hook(lambda m, i, output: graphs["blocks"].append(output.requires_grad))
    merger.register_forward_hook(lambda m, i, output: graphs["merger"].append(output.requires_grad))
    inputs = probe_inputs(tiny(model_type)[1])
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    trained = RECIPES[recipe]
    assert any(graphs["blocks"]) is (trained["vision"] != "frozen")
    assert any(graphs["merger"]) is (trained["vision"] != "frozen" or trained["merger"] != "frozen")
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parity
@pytest.mark.parametrize("recipe", ["lora", "everything"])
def test_recomputed_activations_give_the_same_gradients(tiny, recipe):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)  # of the adapters
        model = prepared(tiny, "qwen3_vl", recipe).train()
        if checkpointing:
            recompute_activations(model)
            blocks = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
            assert blocks
        inputs = probe_inputs(tiny("qwen3_vl")[1])
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=1e-4, atol=1e-7), name


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
