"""What is done to a model to be fast, what is said of it, and what happens where the compiler fails."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from boxtune.config.load import load_config
from boxtune.models import compile as compile_module
from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.compile import are_compiled, blocks_of
from boxtune.models.families import family
from boxtune.training import speed as speed_module
from boxtune.training.auto import fit_speed
from boxtune.training.speed import slow_down, speed_up
from training.runs import history, short_run, write_coco

CPU = torch.device("cpu")


def prepared(tiny, *overrides: str) -> tuple[Any, Any]:
    model, _ = tiny("qwen2_vl")
    config = fit_speed(load_config(None, ["model.dtype=float32", *overrides]), CPU)
    training = {"vision": "frozen", "merger": "frozen", "language": "lora"}
    return prepare_for_training(model, family("qwen2_vl"), training, LowRank()), config


@pytest.mark.parametrize(
    ("quantize", "checkpointing", "language"),
    [("none", "true", True), ("none", "false", True), ("nf4", "false", True), ("nf4", "true", False)],
)
def test_blocks_of_4_bits_are_not_compiled_with_checkpointing(tiny, quantize, checkpointing, language):
    model, config = prepared(
        tiny, "model.speedups=[compiled_blocks]", f"trainer.gradient_checkpointing={checkpointing}"
    )
    speed = speed_up(model, config.changed("model", quantize=quantize), CPU)
    compiled = [block._compiled_call_impl is not None for block in blocks_of(model)]
    num_vision = len(blocks_of(model, language=False))
    assert compiled[-num_vision:] == [True] * num_vision
    assert compiled[:-num_vision] == [language] * (len(compiled) - num_vision)
    assert ("vision blocks compiled" in str(speed)) != language
    slow_down(model)
    assert not are_compiled(model)


def test_nothing_special_is_said_to_be_nothing_special(tiny):
    model, config = prepared(tiny, "model.speedups=[]")
    assert str(speed_up(model, config, CPU)).endswith("Speed: nothing special")


def failing_backend(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no compiler on this machine")


def test_where_blocks_do_not_compile_the_run_goes_on_without(tmp_path, monkeypatch):
    failing = functools.partial(compile_module.compile_blocks, backend=failing_backend)
    monkeypatch.setattr(speed_module, "compile_blocks", failing)
    torch._dynamo.reset()
    data = write_coco(tmp_path / "data")
    compiled, said = short_run(data, tmp_path / "compiled", "model.speedups=[compiled_blocks]")
    plain, _ = short_run(data, tmp_path / "plain", "model.speedups=[]")
    assert "Blocks run uncompiled" in said
    assert "no compiler on this machine" in said
    assert dict(compiled.losses) == pytest.approx(dict(plain.losses), rel=1e-5)
    assert all(0 <= row["waiting"] <= 1 for row in history(tmp_path / "plain") if "loss" in row)
