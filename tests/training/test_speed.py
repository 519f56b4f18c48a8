"""What is done to a model to be fast, what is said of it, and what happens where the compiler fails."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import AutoModelForImageTextToText

from boxtune.config.load import load_config
from boxtune.config.schema import ModelConfig
from boxtune.models import compile as compile_module
from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.compile import are_compiled, blocks_of
from boxtune.models.families import family
from boxtune.models.tiny import build_tiny
from boxtune.training import speed as speed_module
from boxtune.training.auto import fit_speed
from boxtune.training.speed import slow_down, speed_up
from boxtune.training.trainer import DetectionTrainer
from models.joined_products import count_products
from training.runs import history, interrupt_after, short_run, weights, write_coco

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco")


def prepared(tiny, *overrides: str) -> tuple[Any, Any]:
    model = copy.deepcopy(tiny("qwen2_vl")[0])
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


LEVERS = {  # what asks for it, and what a run says of it
    "label_logits": ("model.speedups=[label_logits]", "logits at labels only"),
    "patch_product": ("model.speedups=[patch_product]", "patches as one product"),
    "frozen_vision": ("model.speedups=[frozen_vision]", "frozen vision tower without gradients"),
    "padded_vision": ("model.speedups=[padded_vision]", "vision MLPs 60 → 128 wide"),
    "compiled_blocks": ("model.speedups=[compiled_blocks]", "blocks compiled"),
    "adapter_arithmetic": ("model.speedups=[adapter_arithmetic]", ""),
    "joined_adapters": ("model.speedups=[joined_adapters]", "wide adapters as one product"),
    "packed rows": ("collator.batching=packed", "language model segments"),
    "checkpointing": ("trainer.gradient_checkpointing=true", ""),
    "vision cache": ("model.vision_cache=FOLDER", "pictures came from it"),
}


@pytest.fixture(scope="module")
def awkward(tmp_path_factory) -> Path:
    """A folder with a tiny model whose vision MLPs are 60 wide."""
    folder = tmp_path_factory.mktemp("models") / "awkward"
    model, processor = build_tiny("qwen2_5_vl")
    config = copy.deepcopy(model.config)
    config.vision_config.intermediate_size = 60
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parity
@pytest.mark.parametrize("lever", LEVERS)
def test_each_lever_alone_leaves_a_run_as_it_is(coco, awkward, tmp_path, monkeypatch, lever):
    """Gradients of each are compared beside its source; here it goes through a whole run."""
    monkeypatch.setattr(
        speed_module, "compile_blocks", functools.partial(compile_module.compile_blocks, backend="eager")
    )
    with_it, what_is_said = LEVERS[lever]
    arithmetic = "bfloat16" if lever == "adapter_arithmetic" else "float32"
    plain = (
        f"model.name={awkward}",
        f"model.dtype={arithmetic}",
        "adapter.language=lora",
        "collator.batching=padded",
        "model.vision_cache=none",
        "model.speedups=[]",
        "trainer.gradient_checkpointing=false",
    )
    expected, without = short_run(coco, tmp_path / "plain", *plain)
    found, said = short_run(coco, tmp_path / "fast", *plain, with_it.replace("FOLDER", str(tmp_path / "cache")))
    assert dict(found.losses) == pytest.approx(dict(expected.losses), rel=1e-5)
    assert what_is_said in said
    assert what_is_said not in without or not what_is_said


@pytest.mark.parity
@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_joined_adapters_through_all_that_happens_in_a_run(coco, tmp_path, monkeypatch, arithmetic):
    """Accumulated gradients, recomputed layers, evaluations in between (which cast a bf16 base on a CPU), a way back to
    a snapshot, checkpoints, an end and another sitting: what is saved has the names of a plain run's, and its values.
    """
    style = (
        "adapter.language=lora",
        "adapter.lora.dropout=0.2",
        "collator.batching=padded",
        "trainer.max_steps=6",
        "trainer.gradient_accumulation_steps=2",
        "trainer.gradient_checkpointing=true",
        "trainer.save_steps=2",
        "trainer.warmup_fraction=0",
        "trainer.stability.snapshot_steps=1",
        "evaluation.every=2",
        "evaluation.watch_images=2",
        "evaluation.keep_best=true",
        f"model.dtype={arithmetic}",
    )
    plain, joined = "model.speedups=[adapter_arithmetic]", "model.speedups=[adapter_arithmetic,joined_adapters]"
    products: list[int] = []
    count_products(monkeypatch, products)
    with spoiled_weights(monkeypatch, step=3):
        expected, without = short_run(coco, tmp_path / "plain", *style, plain)
        assert not products
        with monkeypatch.context() as patch:
            interrupt_after(4, patch)
            short_run(coco, tmp_path / "joined", *style, joined)
        found, said = short_run(coco, tmp_path / "joined", *style, joined, resume=True)
    assert products
    assert "back to the weights of step" in without
    tolerance = 1e-4 if arithmetic == "float32" else 2e-2  # of bf16: 2⁻⁸, through some layers and steps
    assert dict(found.losses) == pytest.approx(dict(expected.losses), rel=tolerance)
    assert "wide adapters as one product" in said
    for folder in ("", "checkpoint-6"):
        saved, wanted = weights(tmp_path / "joined" / folder), weights(tmp_path / "plain" / folder)
        assert saved.keys() == wanted.keys()
        if arithmetic == "float32":
            for name, value in wanted.items():
                torch.testing.assert_close(saved[name], value, rtol=1e-3, atol=1e-5, msg=name)


@contextmanager
def spoiled_weights(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[None]:
    """The B of a joined layer is not finite at a step, and the optimizer has it so."""
    plain_loss = DetectionTrainer.compute_loss

    def compute_loss(self: DetectionTrainer, model: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step + 1 == step:
            up = next(p for name, p in model.named_parameters() if "layers.0.mlp.gate_proj.lora_B" in name)
            with torch.no_grad():
                up[0, 0] = torch.nan
        return plain_loss(self, model, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionTrainer, "compute_loss", compute_loss)
        yield


def test_every_speedup_has_a_test_of_parity():
    names = {name for part in get_args(ModelConfig.model_fields["speedups"].annotation) for name in get_args(part)}
    literals = {name for literal in names if literal is not ... for name in get_args(literal)}
    assert literals
    assert literals <= LEVERS.keys()


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
