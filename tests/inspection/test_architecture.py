"""Layers by area, name and pattern, held against PEFT's own choice and against the model itself."""

from __future__ import annotations

import copy
import io

import pytest
from peft import LoraConfig, get_peft_model
from rich.console import Console
from torch import nn

from boxtune.errors import ConfigError, ModelError
from boxtune.inspection.architecture import describe_architecture, find_modules_by_pattern, list_linear_modules
from boxtune.inspection.model_tables import print_architecture, print_layer_names, print_modules
from boxtune.inspection.skeleton import load_skeleton
from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.families import FAMILIES, family
from inspection.shapes import write_shape

each_family = pytest.mark.parametrize("model_type", FAMILIES)


@pytest.fixture(scope="module")
def qwen2_5_7b(tmp_path_factory):
    return load_skeleton(str(write_shape(tmp_path_factory.mktemp("7b"), "Qwen2.5-VL-7B-Instruct"))).model


@each_family
def test_areas_count_everything_once(tiny, model_type):
    model = tiny(model_type)[0]
    found = describe_architecture(model)
    parameters = list(model.parameters())
    assert found.num_parameters == sum(p.numel() for p in parameters)
    assert found.num_bytes == 4 * found.num_parameters
    assert sum(area.num_tensors for area in found.areas) == len(parameters)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert sum(area.num_linears for area in found.areas) == len(linears)
    assert found.tied == (("lm_head.weight", "model.language_model.embed_tokens.weight"),)
    head = next(area for area in found.areas if area.area == "lm_head")
    assert (head.num_parameters, head.num_linears) == (0, 1)


def test_areas_of_a_published_shape_by_hand(qwen2_5_7b):
    found = describe_architecture(qwen2_5_7b)
    rows = {area.area: area for area in found.areas}
    assert {name: (row.num_blocks, row.num_linears) for name, row in rows.items()} == {
        "merger": (0, 2),
        "vision": (32, 5 * 32),
        "language": (28, 7 * 28),
        "lm_head": (0, 1),
    }
    assert rows["lm_head"].num_parameters == 152064 * 3584
    assert found.tied == ()
    assert (found.dtypes, found.num_bytes) == (("bfloat16",), 2 * 8_292_166_656)


@pytest.mark.parametrize("target", ["proj", "qkv", "gate_proj", "q_proj", "linear_fc1", "embed_tokens", "mlp.0"])
@each_family
def test_counts_of_a_name_are_what_peft_wraps(tiny, model_type, target):
    """`target_modules=["proj"]` of PEFT reaches every layer whose name ends so, in whichever area."""
    model = copy.deepcopy(tiny(model_type)[0])
    known = {layer.name: layer for layer in describe_architecture(model).layer_names}
    if target not in known:
        with pytest.raises(ValueError, match="not found"):
            get_peft_model(model, LoraConfig(target_modules=[target]))
        return
    wrapped = get_peft_model(model, LoraConfig(target_modules=[target]))
    reached = [name for name, module in wrapped.named_modules() if hasattr(module, "base_layer")]
    assert sum(place.count for place in known[target].places) == len(reached)


def test_names_that_a_bare_target_should_not_use(qwen2_5_7b):
    found = {layer.name: layer for layer in describe_architecture(qwen2_5_7b).layer_names}
    assert {name for name, layer in found.items() if layer.is_ambiguous} == {
        "proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert [(p.area, p.kind, p.count) for p in found["proj"].places] == [
        ("vision", "Conv3d", 1),
        ("vision", "Linear", 32),
    ]
    assert [(p.area, p.count) for p in found["gate_proj"].places] == [("vision", 32), ("language", 28)]
    assert [(p.area, p.count) for p in found["mlp.0"].places] == [("merger", 1)]
    areas = set(family("qwen2_5_vl").areas) - {"detection_head"}  # not the model's own
    assert {place.area for layer in found.values() for place in layer.places} == areas


@each_family
def test_a_wrapped_model_lists_as_the_bare_one(tiny, model_type):
    model = copy.deepcopy(tiny(model_type)[0])
    before = (list_linear_modules(model), find_modules_by_pattern(model, "proj|fc"), describe_architecture(model))
    training = {"vision": "lora", "merger": "frozen", "language": "lora"}
    wrapped = prepare_for_training(model, family(model_type), training, LowRank())
    assert list_linear_modules(wrapped) == before[0]
    assert find_modules_by_pattern(wrapped, "proj|fc") == before[1]
    assert describe_architecture(wrapped).layer_names == before[2].layer_names


def test_prefix_ends_at_a_name(qwen2_5_7b):
    assert len(list_linear_modules(qwen2_5_7b, "model.visual.blocks.1")) == 5  # and not those of 10 to 19
    assert len(list_linear_modules(qwen2_5_7b, "model.visual.")) == 162
    assert [module.name for module in list_linear_modules(qwen2_5_7b, "lm_head")] == ["lm_head"]
    first = list_linear_modules(qwen2_5_7b, "model.language_model.layers.0")[0]
    assert (first.name, first.area) == ("model.language_model.layers.0.self_attn.q_proj", "language")
    assert (first.shape, first.num_parameters) == ((3584, 3584), 3584 * 3584 + 3584)


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("visual", "Did you mean 'model.visual'?"),
        ("model.layers", "'model.language_model.layers'"),
        ("model.visual.block", "'model.visual.blocks'"),
        ("zzz", "Known: model, model.visual, model.language_model, lm_head."),
        ("model.visual.rotary_pos_emb", "No linear layer in"),
    ],
)
def test_a_prefix_that_matches_nothing(qwen2_5_7b, prefix, said):
    with pytest.raises(ModelError) as caught:
        list_linear_modules(qwen2_5_7b, prefix)
    assert said in str(caught.value)


def test_pattern(qwen2_5_7b):
    assert len(find_modules_by_pattern(qwen2_5_7b, "q_proj")) == 28
    assert len(find_modules_by_pattern(qwen2_5_7b, r"\.proj$")) == 33
    anchored = find_modules_by_pattern(qwen2_5_7b, rf"^{family('qwen2_5_vl').lora_targets['vision']}$")
    assert len(anchored) == 160
    assert len(find_modules_by_pattern(qwen2_5_7b, "gate_proj", "model.language_model")) == 28
    assert [(m.name, m.area, m.kind) for m in find_modules_by_pattern(qwen2_5_7b, "^model$")] == [
        ("model", None, "Qwen2_5_VLModel")
    ]


def test_a_pattern_that_is_none_or_matches_nothing(qwen2_5_7b):
    with pytest.raises(ConfigError, match=r"'\(q' is no regular expression: missing \)"):
        find_modules_by_pattern(qwen2_5_7b, "(q")
    with pytest.raises(ModelError, match=r"No module's name matches 'q_prj'\. Did you mean 'q_proj'"):
        find_modules_by_pattern(qwen2_5_7b, "q_prj")
    with pytest.raises(ModelError, match="No module is called 'visual'"):
        find_modules_by_pattern(qwen2_5_7b, "proj", "visual")


@pytest.mark.parametrize("width", [60, 200])
def test_tables_keep_numbers_and_names_whole(qwen2_5_7b, width):
    out = io.StringIO()
    console = Console(file=out, width=width)
    print_architecture(describe_architecture(qwen2_5_7b), "[bold]a model[/bold]", console)
    wide = "proj (vision: 1 Conv3d and 32); gate_proj, up_proj, down_proj (vision: 32, language: 28)."
    assert f"as a LoRA target too wide: {wide}" in out.getvalue()
    assert "Names of layers" not in out.getvalue()
    print_layer_names(describe_architecture(qwen2_5_7b), console)
    print_modules(list_linear_modules(qwen2_5_7b), "Linear layers", console)
    said = out.getvalue()
    for expected in (
        "[bold]a model[/bold]: qwen2_5_vl, 8,292,166,656 parameters, 15.4 GiB in bfloat16",
        "13.2 GiB",
        "gate_proj !",
        "Linear layers: 359",
        "28 × 3584 → 18944   67.9 M  model.language_model.layers.{0…27}.mlp.gate_proj",
        "model.visual.merger.mlp.2",
    ):
        assert expected in said
    assert "\x1b" not in said
    tables = [line for line in said.splitlines() if line.startswith(("area", "vision ", "proj"))]
    assert max(len(line) for line in tables if " × " not in line) <= width


def test_a_tied_head_is_said_and_counted_once():
    out = io.StringIO()
    skeleton = load_skeleton("tiny:qwen3_vl")
    print_architecture(describe_architecture(skeleton.model), "tiny", Console(file=out, width=80))
    assert (
        "Tied: lm_head.weight is model.language_model.embed_tokens.weight, one tensor, counted once" in out.getvalue()
    )
