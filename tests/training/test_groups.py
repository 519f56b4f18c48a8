"""Every trained parameter is in one group, with the rate of that group and the weight decay that transformers gives."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from transformers import Trainer, TrainingArguments

from boxtune.config.groups import GROUPS
from boxtune.config.load import load_config
from boxtune.errors import BoxtuneError, GroupError
from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.families import FAMILIES, family
from boxtune.training.groups import batch_scale, describe_rates, group_of, group_rates, parameter_groups, split_by_group

MODES = {
    "full": {"vision": "full", "merger": "full", "language": "full"},
    "lora": {"vision": "lora", "merger": "lora", "language": "lora"},
    "vision": {"vision": "full", "merger": "full", "language": "frozen"},
    "mixed": {"vision": "full", "merger": "frozen", "language": "lora"},
}
EXPECTED = {
    "full": ["vision", "merger", "language"],
    "lora": ["adapter"],
    "vision": ["vision", "merger"],
    "mixed": ["vision", "adapter"],
}


def prepared(tiny, model_type: str, mode: str):
    model = copy.deepcopy(tiny(model_type)[0])
    return prepare_for_training(model, family(model_type), MODES[mode], LowRank(rank=2, use_dora=True))


@pytest.mark.parametrize(("model_type", "mode"), itertools.product(FAMILIES, MODES))
def test_every_trained_parameter_is_in_one_group(tiny, model_type, mode):
    if model_type.endswith("moe") and mode != "full":
        pytest.skip("the rest is as in qwen3_vl")
    model = prepared(tiny, model_type, mode)
    groups = parameter_groups(model, family(model_type))
    assert list(groups) == EXPECTED[mode]
    found = [id(parameter) for members in groups.values() for parameter in members]
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(found) == sorted(trained)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("base_model.model.model.visual.blocks.0.attn.qkv.lora_A.default.weight", "adapter"),
        ("base_model.model.model.language_model.layers.0.mlp.up_proj.lora_magnitude_vector.default.weight", "adapter"),
        ("base_model.model.model.visual.merger.mlp.0.base_layer.weight", "merger"),
        ("model.visual.blocks.1.norm1.weight", "vision"),
        ("lm_head.weight", "language"),
        ("detection_head.boxes.layers.0.weight", "detection_head"),
    ],
)
def test_group_of_a_name(name, group):
    assert group_of(family("qwen2_5_vl"), name) == group
    assert group in GROUPS


@pytest.mark.parametrize("kind", [KeyError, BoxtuneError, GroupError])
def test_the_rest_is_listed(tiny, kind):
    model = copy.deepcopy(tiny("qwen2_vl")[0])
    model.gate = torch.nn.Linear(2, 3)
    with pytest.raises(kind) as error:
        parameter_groups(model.requires_grad_(True), family("qwen2_vl"))
    assert str(error.value).startswith(
        "2 trained parameters belong to no group of qwen2_vl: gate.weight, gate.bias. Add"
    )


def test_a_long_rest_is_cut(tiny):
    model = copy.deepcopy(tiny("qwen2_vl")[0]).requires_grad_(False)
    model.gates = torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(15))
    with pytest.raises(GroupError, match=r"^30 trained .* and 10 more\. Add"):
        parameter_groups(model, family("qwen2_vl"))


@pytest.mark.parametrize("mode", MODES)
def test_weight_decay_is_that_of_transformers(tiny, tmp_path, mode):
    model = prepared(tiny, "qwen2_5_vl", mode)
    arguments = TrainingArguments(output_dir=str(tmp_path), weight_decay=0.3, use_cpu=True, report_to=[])
    optimizer = Trainer(model, arguments).create_optimizer()
    before = {id(p): part["weight_decay"] for part in optimizer.param_groups for p in part["params"]}
    groups = parameter_groups(model, family("qwen2_5_vl"))
    rates = {group: 0.1 * number for number, group in enumerate(groups, start=1)}
    for _ in range(2):  # the second time it is divided already
        split_by_group(optimizer, groups, rates)
        assert before == {id(p): part["weight_decay"] for part in optimizer.param_groups for p in part["params"]}
        parts = [(part["group"], part["weight_decay"]) for part in optimizer.param_groups]
        assert sorted(parts) == sorted({(group, before[id(p)]) for group in groups for p in groups[group]})
    assert set(before.values()) <= {0.0, 0.3}
    for part in optimizer.param_groups:
        assert part["params"]
        assert part["lr"] == rates[part["group"]]
        assert {id(p) for p in part["params"]} <= {id(p) for p in groups[part["group"]]}


@pytest.mark.parametrize(
    ("meant_for", "how", "images", "scale"),
    [
        (None, "sqrt", 7.0, 1.0),
        (32, "sqrt", 32.0, 1.0),
        (32, "sqrt", 8.0, 0.5),
        (32, "linear", 8.0, 0.25),
        (8, "linear", 20.0, 2.5),
    ],
)
def test_scale_of_a_batch(meant_for, how, images, scale):
    config = load_config(None, [f"trainer.rate_for_batch={meant_for or 'null'}", f"trainer.rate_scaling={how}"])
    assert batch_scale(config, images) == pytest.approx(scale)


def test_a_group_without_a_rate_has_that_of_the_run():
    config = load_config(None, ["trainer.learning_rate=1e-3", "trainer.rates.vision=1e-5", "trainer.rates.adapter=0.5"])
    rates = group_rates(config, {"vision": (), "language": ()}, 2.0)
    assert rates == {"vision": 2e-5, "language": 2e-3}
    assert describe_rates(rates) == "vision 2e-05, language 0.002"
