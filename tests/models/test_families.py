"""The families table against the real classes of transformers."""

from __future__ import annotations

import re

import pytest
from torch import nn

from boxtune.errors import ModelError
from boxtune.models.families import FAMILIES, family

ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
LANGUAGE = {name: ATTENTION + ([] if name == "qwen3_vl_moe" else MLP) for name in FAMILIES}
VISION = {
    "qwen2_vl": ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"],
    "qwen2_5_vl": ["attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    "qwen3_vl": ["attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2"],
    "qwen3_vl_moe": ["attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2"],
}
CONVENTIONS = {
    "qwen2_vl": {"space": "relative_1000", "form": "tokens"},
    "qwen2_5_vl": {"space": "input_pixels", "form": "json"},
    "qwen3_vl": {"space": "relative_1000", "form": "json"},
    "qwen3_vl_moe": {"space": "relative_1000", "form": "json"},
}
each_family = pytest.mark.parametrize("model_type", FAMILIES)


def matched(model, pattern: str) -> set[str]:
    return {name for name, _ in model.named_modules() if re.fullmatch(pattern, name)}


@each_family
def test_every_parameter_belongs_to_exactly_one_area(tiny, model_type):
    row = family(model_type)
    for name, _ in tiny(model_type)[0].named_parameters(remove_duplicate=False):
        areas = [area for area, prefix in row.areas.items() if re.match(prefix, name)]
        assert areas == [row.area_of(name)], name


@each_family
def test_areas_hold_the_parts_they_are_named_for(tiny, model_type):
    model, row = tiny(model_type)[0], family(model_type)
    parts = {
        "vision": [model.model.visual.blocks, model.model.visual.patch_embed],
        "merger": [model.model.visual.merger],
        "language": [model.model.language_model],
    }
    if model_type.startswith("qwen3"):
        parts["vision"].append(model.model.visual.pos_embed)
        parts["merger"].append(model.model.visual.deepstack_merger_list)
    found = {area: {id(p) for n, p in model.named_parameters() if row.area_of(n) == area} for area in parts}
    expected = {area: {id(p) for module in modules for p in module.parameters()} for area, modules in parts.items()}
    assert found == expected


@each_family
def test_targets_hit_exactly_the_linears_of_their_area(tiny, model_type):
    model = tiny(model_type)[0]
    language = {f"model.language_model.layers.{i}.{name}" for i in range(2) for name in LANGUAGE[model_type]}
    vision = {f"model.visual.blocks.{i}.{name}" for i in range(2) for name in VISION[model_type]}
    targets = family(model_type).lora_targets
    assert matched(model, targets["language"]) == language
    assert matched(model, targets["vision"]) == vision
    assert all(isinstance(model.get_submodule(name), nn.Linear) for name in language | vision)


def test_bare_suffixes_would_hit_the_vision_tower_of_qwen2_5(tiny):
    """The reason for anchored patterns: the obvious target list reaches where it should not."""
    hits = matched(tiny("qwen2_5_vl")[0], r".*\.(gate_proj|up_proj|down_proj)")
    assert any(name.startswith("model.visual.") for name in hits)


@each_family
def test_conventions(model_type):
    assert family(model_type).codec.describe() == CONVENTIONS[model_type]


@each_family
def test_a_config_names_its_family(tiny, model_type):
    assert family(tiny(model_type)[0].config) is FAMILIES[model_type]


@pytest.mark.parametrize("unknown", ["llama", "", None, object()], ids=["other", "empty", "none", "object"])
def test_unknown_family_names_the_known_ones(unknown):
    with pytest.raises(ModelError) as error:
        family(unknown)
    assert all(name in str(error.value) for name in FAMILIES)
    assert "models/families.py" in str(error.value)


def test_a_parameter_of_no_area_is_an_error():
    with pytest.raises(ModelError, match=r"'model\.audio\.weight' belongs to no area"):
        family("qwen3_vl").area_of("model.audio.weight")
