"""What is shown before training is what training makes, to the byte."""

from __future__ import annotations

import copy
import dataclasses
import io

import pytest
import torch
from rich.console import Console

from boxtune.errors import ModelError
from boxtune.inspection.model_tables import print_memory, print_plan
from boxtune.inspection.skeleton import load_skeleton
from boxtune.inspection.trainables import (
    QUANTIZABLE,
    compare_memory,
    nf4_bytes,
    plan_training,
    summarize_trainables_by_area,
)
from boxtune.inspection.units import short_bytes, short_count
from boxtune.models.areas import LowRank, prepare_for_training, summarize
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.families import FAMILIES, family
from boxtune.models.load import load_model
from inspection.shapes import write_shape

FROZEN = {"vision": "frozen", "merger": "frozen", "language": "frozen"}
CHOICES = {
    "language": FROZEN | {"language": "lora"},
    "everything": dict.fromkeys(FROZEN, "full"),
    "vision": FROZEN | {"vision": "full", "merger": "full"},
    "joint": dict.fromkeys(FROZEN, "lora"),
}
TABLES = 16 * 4 + 256 * 4 + 4  # bytes of a 4-bit layer that `models.areas.summarize` leaves out
each_family = pytest.mark.parametrize("model_type", FAMILIES)


@pytest.fixture(scope="module")
def qwen2_5_7b(tmp_path_factory):
    return load_skeleton(str(write_shape(tmp_path_factory.mktemp("7b"), "Qwen2.5-VL-7B-Instruct"))).model


@pytest.mark.parametrize("shape", [(64, 64), (100, 37), (1, 7), (256, 512), (1, 64 * 256 + 1)])
def test_bytes_of_a_4_bit_layer_are_those_of_bitsandbytes(shape):
    functional = pytest.importorskip("bitsandbytes").functional
    packed, state = functional.quantize_4bit(torch.randn(shape), quant_type="nf4", compress_statistics=True)
    parts = (packed, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
    assert nf4_bytes(shape[0] * shape[1]) == sum(part.numel() * part.element_size() for part in parts)


@pytest.mark.parametrize("choice", CHOICES)
@each_family
def test_plan_is_what_training_makes(tiny, model_type, choice):
    row, low_rank = family(model_type), LowRank(rank=4, use_dora=choice == "joint")
    real = copy.deepcopy(tiny(model_type)[0]).to(torch.bfloat16)
    real = prepare_for_training(real, row, CHOICES[choice], low_rank)
    skeleton = load_skeleton(f"tiny:{model_type}").model
    plan = plan_training(skeleton, CHOICES[choice], low_rank, dtype=torch.bfloat16)
    assert list(plan.areas) == summarize(real, row)
    assert plan.num_trainable == sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert plan.num_weight_bytes == sum(p.numel() * p.element_size() for p in real.parameters())
    assert plan.num_optimizer_bytes == 12 * plan.num_trainable


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_family
def test_plan_in_4_bits_is_what_loading_in_4_bits_makes(model_type, dtype):
    pytest.importorskip("bitsandbytes")
    row = family(model_type)
    real = load_model(f"tiny:{model_type}", dtype=dtype, quantize="nf4").model
    real = prepare_for_training(real, row, CHOICES["language"], LowRank())
    plan = plan_training(load_skeleton(f"tiny:{model_type}").model, CHOICES["language"], LowRank(), QUANTIZABLE, dtype)
    for shown, made in zip(plan.areas, summarize_trainables_by_area(real), strict=True):
        num_packed = sum(type(p).__name__ == "Params4bit" for p in real.parameters()) if shown.area == "language" else 0
        missing = shown.num_bytes - made.num_bytes
        assert missing in (0, num_packed * TABLES), shown.area
        assert dataclasses.replace(shown, num_bytes=made.num_bytes) == made


def test_planning_leaves_the_skeleton_as_it_is():
    skeleton = load_skeleton("tiny:qwen2_5_vl").model
    before = {name: (p.dtype, p.requires_grad) for name, p in skeleton.named_parameters()}
    plan_training(skeleton, CHOICES["joint"], LowRank(), QUANTIZABLE)
    compare_memory(skeleton, LowRank())
    assert {name: (p.dtype, p.requires_grad) for name, p in skeleton.named_parameters()} == before


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("use_dora", [False, True])
def test_reckoned_adapters_are_those_that_peft_makes(model_type, use_dora):
    skeleton, low_rank = load_skeleton(f"tiny:{model_type}").model, LowRank(rank=3, use_dora=use_dora)
    everywhere = dict.fromkeys(("vision", "merger", "language"), "lora")
    made = plan_training(skeleton, everywhere, low_rank).areas
    reckoned = {row.area: row.low_rank for row in compare_memory(skeleton, low_rank) if row.low_rank is not None}
    assert reckoned == {row.area: 4 * row.num_low_rank for row in made if row.num_low_rank}


def test_a_head_is_an_area_of_the_plan():
    skeleton = load_skeleton("tiny:qwen2_vl").model
    head = fitted_to(skeleton.config.text_config, 0, num_queries=7)
    frozen = dict.fromkeys(CHOICES["language"], "frozen")
    plan = plan_training(skeleton, frozen, LowRank(), head=head)
    area = next(row for row in plan.areas if row.area == "detection_head")
    weights = sum(parameter.numel() for parameter in DetectionHead(head).parameters())
    assert (area.training, area.num_trainable, area.dtypes) == ("full", weights, ("float32",))
    assert plan.num_trainable == weights


def test_memory_of_a_published_shape_by_hand(qwen2_5_7b):
    rows = {row.area: row for row in compare_memory(qwen2_5_7b, LowRank(rank=16))}
    assert sum(row.bf16 for row in rows.values()) == 2 * 8_292_166_656
    # q, k, v, o (3584 wide, 512 for k and v) and gate, up, down (18944): rank × (in + out) each, in fp32
    widths = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    assert rows["language"].low_rank == 4 * 16 * 28 * widths
    assert [rows[area].num_targets for area in ("language", "vision", "merger", "lm_head")] == [196, 160, 2, 0]
    linears = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    in_4_bits = rows["language"].nf4 - (rows["language"].bf16 - 2 * linears)
    assert in_4_bits / linears == pytest.approx(0.516, abs=0.001)  # 0.5 + 1/64 + 4/(64·256) bytes a weight (QLoRA §3)
    assert rows["vision"].nf4 is rows["merger"].nf4 is rows["lm_head"].nf4 is None


@pytest.mark.parametrize(
    ("training", "quantized", "said"),
    [
        (FROZEN, (), "every area is frozen"),
        (CHOICES["everything"], ("language",), "adapter.language=full cannot be combined with 4 bits"),
        (CHOICES["language"], ("vision",), "The area 'vision' of qwen2_vl is not quantised; known: language"),
    ],
)
def test_conflicts_are_named(training, quantized, said):
    with pytest.raises(ModelError, match=said):
        plan_training(load_skeleton("tiny:qwen2_vl").model, training, LowRank(), quantized)


def test_an_adapter_is_no_model_to_train():
    model = prepare_for_training(load_model("tiny:qwen2_vl").model, family("qwen2_vl"), CHOICES["language"], LowRank())
    with pytest.raises(ModelError, match="merge it first"):
        plan_training(model, CHOICES["language"], LowRank())


@pytest.mark.parametrize("width", [60, 120])
def test_tables_say_what_is_trained(qwen2_5_7b, width):
    out = io.StringIO()
    console = Console(file=out, width=width)
    print_plan(plan_training(qwen2_5_7b, CHOICES["language"], LowRank(), QUANTIZABLE), "A run", console)
    print_memory(compare_memory(qwen2_5_7b, LowRank()), 16, console)
    said = out.getvalue()
    assert "Trained: 40,370,176 of 8,332,536,832 weights (0.484%)" in said
    assert "13.2 GiB  4.15 GiB" in said
    rows = [line for line in said.splitlines() if line.startswith(("area", "vision", "language", "all"))]
    assert max(map(len, rows)) <= width
    assert any("frozen" in row for row in rows)


@pytest.mark.parametrize(
    ("number", "count", "size"),
    [(0, "0", "0 B"), (999, "999", "999 B"), (2048, "2.05 k", "2.00 KiB"), (7_615_616_512, "7.62 B", "7.09 GiB")],
)
def test_short_numbers(number, count, size):
    assert (short_count(number), short_bytes(number)) == (count, size)
