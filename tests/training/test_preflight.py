"""What is about to be trained is what was declared, and is shown."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from rich.console import Console

from boxtune.config.load import load_config
from boxtune.errors import ModelError
from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.families import FAMILIES, family
from boxtune.models.load import load_model
from boxtune.training.preflight import areas_table, changes, check_model
from training.runs import short_run, weights, write_coco

LORA = {"vision": "frozen", "merger": "frozen", "language": "lora"}
FULL = {"vision": "full", "merger": "full", "language": "full"}
VISION = {"vision": "full", "merger": "full", "language": "frozen"}
MIXES = (LORA, FULL, VISION, dict.fromkeys(LORA, "lora"))


FITTED = ["model.min_pixels=64", "model.max_pixels=4096", "trainer.per_device_train_batch_size=3"]
PACKED = ["collator.batching=packed", "collator.token_budget=900"]


@pytest.mark.parametrize(
    ("asked", "fitted", "said"),
    [
        ([], FITTED + PACKED, []),
        (["model.max_pixels=4096"], FITTED, []),
        (["model.max_pixels=64"], ["model.min_pixels=64", "model.max_pixels=64"], ["model.max_pixels=64 allows"]),
        (["model.min_pixels=64"], ["model.min_pixels=64", "model.max_pixels=64"], ["max_pixels, which is raised"]),
        (["model.min_pixels=64", "model.max_pixels=64"], ["model.min_pixels=64", "model.max_pixels=64"], []),
        (
            ["trainer.per_device_train_batch_size=8"],
            FITTED + PACKED,
            ["batch_size=8 is not used: rows of up to 900 tokens hold as many images as fit, 3 on average"],
        ),
        (["trainer.per_device_train_batch_size=8", *PACKED], FITTED + PACKED, []),  # both were asked for
        (["trainer.per_device_train_batch_size=3"], [*FITTED, "collator.batching=packed"], []),  # no budget
        (["trainer.per_device_train_batch_size=3"], [*FITTED, "collator.batching=padded", PACKED[1]], []),
    ],
)
def test_what_is_done_otherwise_is_said(asked, fitted, said):
    lines = changes(load_config(None, asked), load_config(None, fitted))
    assert len(lines) == len(said)
    assert all(words in line for words, line in zip(said, lines, strict=True))


def prepared(tiny, training, model_type="qwen3_vl"):
    model = copy.deepcopy(tiny(model_type)[0])
    return prepare_for_training(model, family(model_type), training, LowRank(rank=2))


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("training", MIXES, ids=["lora", "full", "vision", "loras"])
def test_as_declared(tiny, model_type, training):
    rows = check_model(prepared(tiny, training, model_type), family(model_type), training)
    assert {row.area: row.training for row in rows} == training


@pytest.mark.parametrize(
    ("prepared_as", "declared", "message"),
    [
        (LORA, {**LORA, "vision": "full"}, r"adapter\.vision=full, but nothing of it is trained \(0 of"),
        (LORA, {**LORA, "merger": "lora"}, r"adapter\.merger=lora, but nothing of it is trained \(0 of"),
        (LORA, {**LORA, "language": "frozen"}, r"adapter\.language=frozen, but it is lora"),
        (VISION, {**VISION, "merger": "frozen"}, r"adapter\.merger=frozen, but it is full"),
    ],
    ids=["nothing of vision", "nothing of merger", "lora in a frozen area", "full in a frozen area"],
)
def test_what_is_not_as_declared(tiny, prepared_as, declared, message):
    with pytest.raises(ModelError, match=message):
        check_model(prepared(tiny, prepared_as), family("qwen3_vl"), declared)


def test_half_an_area_is_not_enough(tiny):
    model = prepared(tiny, VISION)
    model.model.visual.merger.linear_fc2.weight.requires_grad_(False)
    with pytest.raises(ModelError, match=r"adapter\.merger=full, but it is mixed"):
        check_model(model, family("qwen3_vl"), VISION)


def test_frozen_adapters_in_a_frozen_area_are_found(tiny):
    model = prepared(tiny, dict.fromkeys(LORA, "lora"))
    for name, parameter in model.named_parameters():
        if "merger" in name:
            parameter.requires_grad_(False)
    with pytest.raises(ModelError, match=r"adapter\.merger=frozen, but it is frozen .* [1-9][\d,]* of LoRA"):
        check_model(model, family("qwen3_vl"), {**dict.fromkeys(LORA, "lora"), "merger": "frozen"})


def test_trained_weights_in_half_precision_are_refused(tiny):
    model = prepared(tiny, VISION).to(torch.bfloat16)
    with pytest.raises(ModelError, match=r"is to be trained as torch\.bfloat16"):
        check_model(model, family("qwen3_vl"), VISION)


def test_trained_4_bit_weights_are_refused():
    pytest.importorskip("bitsandbytes")
    loaded = load_model("tiny:qwen2_vl", quantize="nf4")
    loaded.model.requires_grad_(False)
    weight = loaded.model.model.language_model.layers[0].mlp.up_proj.weight
    weight.data = weight.data.view(-1).view(torch.float16)  # only floating point numbers can be asked for gradients
    weight.requires_grad_(True)
    with pytest.raises(ModelError, match=r"up_proj\.weight' holds 4-bit weights, which no step can change"):
        check_model(loaded.model, loaded.family, LORA)


def test_table(tiny):
    said = io.StringIO()
    rows = check_model(prepared(tiny, LORA), family("qwen3_vl"), LORA)
    Console(file=said, width=120).print(areas_table(rows))
    lines = [line.split() for line in said.getvalue().splitlines()]
    assert lines[0][:5] == ["area", "training", "tensors", "parameters", "trained"]
    by_area = {line[0]: line for line in lines[1:]}
    language = next(row for row in rows if row.area == "language")
    assert by_area["vision"][1] == "frozen"
    assert by_area["language"][1:5] == [
        "lora",
        str(language.num_tensors),
        f"{language.num_parameters:,}",
        f"{language.num_low_rank:,}",
    ]


@pytest.mark.parametrize("count", [0, 2, 99])
def test_first_samples_are_shown_and_change_nothing(count, tmp_path):
    data = write_coco(tmp_path / "coco", 4)
    style = ("data.augment=strong", "data.val_fraction=0", "trainer.max_steps=2", "adapter.language=lora")
    _, said = short_run(data, tmp_path / "shown", *style, f"logging.first_samples={count}")
    assert [said.count(f"sample {number}, '") for number in (1, 2, 3, 4)] == [int(count >= n) for n in (1, 2, 3, 4)]
    assert ("trained" in said and "<|box_start|>" in said) is bool(count)
    _, quiet = short_run(data, tmp_path / "quiet", *style)
    assert "<|box_start|>" not in quiet
    expected = weights(tmp_path / "quiet")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "shown").items())
