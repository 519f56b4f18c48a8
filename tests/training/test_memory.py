"""Estimates of memory, and the settings that follow from them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from boxtune.config.load import load_config
from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.memory import Memory, token_centres
from boxtune.models.families import family
from boxtune.models.tiny import build_tiny
from boxtune.training.callbacks.memory import MemoryCallback
from boxtune.training.curves import Curves
from boxtune.training.memory import Layers, StepCost, _head_bytes, fit_memory, held_in_training, step_cost, will_be_held

GPU = torch.device("cuda")
GIB = 2**30
# Qwen2.5-VL-7B in bf16 with LoRA of rank 64 on the language model, as measured
SEVEN_B = StepCost(
    held_bytes=int(15.45 * GIB) + 161_480_704 * 16,
    language=Layers(28, 3584, 18944, kv_width=1024),
    vision=Layers(32, 1280, 3456, kv_width=2560),
    vision_trained=False,
    vocab_size=152064,
    image_share=0.85,
    label_share=0.09,
    compiled=True,
)


@pytest.mark.parametrize(
    ("changes", "checkpointing", "measured_gib"),
    [({}, False, 55.8), ({"compiled": False}, False, 66.3), ({}, True, 23.0)],
)
def test_estimates_are_near_what_was_measured(changes, checkpointing, measured_gib):
    """Rows of 8192 tokens on an H200 with torch 2.11; adapters held in fp32 are added to what was measured in bf16."""
    estimated = StepCost(**{**vars(SEVEN_B), **changes}).peak_bytes(8192, checkpointing=checkpointing) / GIB
    assert estimated == pytest.approx(measured_gib, rel=0.1)


@pytest.fixture
def free_gib(monkeypatch):
    """Let a GPU be there that has so much memory free."""

    def install(gib):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(gib * GIB), int(gib * GIB)))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)

    return install


@pytest.mark.parametrize(
    ("gib", "memory", "checkpointing", "budget"),
    [
        (140, "auto", False, 8192),
        (48, "auto", True, 8192),
        (23, "auto", True, 4096),
        (140, "small", True, 8192),
        (48, "fast", False, 5000),
    ],
)
def test_what_fits_is_taken(free_gib, gib, memory, checkpointing, budget):
    free_gib(gib)
    config = load_config(None, [f"model.memory={memory}", "collator.batching=packed"])
    fitted = fit_memory(config, SEVEN_B, [800, 1200], GPU)
    assert fitted.trainer.gradient_checkpointing is checkpointing
    assert fitted.collator.token_budget == pytest.approx(budget, abs=1000)
    assert SEVEN_B.peak_bytes(int(fitted.collator.token_budget), checkpointing=checkpointing) < gib * GIB


def test_the_longest_sample_fits_into_a_row(free_gib):
    free_gib(10)
    config = load_config(None, ["collator.batching=packed"])
    assert fit_memory(config, SEVEN_B, [800, 9000], GPU).collator.token_budget == 9000


def test_what_is_asked_for_stays(free_gib):
    free_gib(10)
    overrides = ["collator.batching=packed", "collator.token_budget=20000", "trainer.gradient_checkpointing=false"]
    config = load_config(None, overrides)
    assert fit_memory(config, SEVEN_B, [800], GPU) == config
    padded = fit_memory(load_config(None, ["collator.batching=padded"]), SEVEN_B, [800], GPU)
    assert padded.collator.token_budget is None


@pytest.mark.parametrize(("memory", "checkpointing"), [("auto", False), ("fast", False), ("small", True)])
def test_on_a_cpu_rows_hold_a_number_of_images(memory, checkpointing):
    config = load_config(None, ["collator.batching=packed", f"model.memory={memory}"])
    fitted = fit_memory(config, None, (), torch.device("cpu"))
    assert (fitted.collator.token_budget, fitted.trainer.gradient_checkpointing) == (None, checkpointing)


@pytest.mark.parametrize(
    "areas", [("lora", "frozen", "frozen"), ("full", "frozen", "frozen"), ("full", "full", "full")]
)
@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"])
def test_what_will_be_held_is_what_is_held(model_type, areas):
    model, _ = build_tiny(model_type)
    language, vision, merger = areas
    training = {"language": language, "vision": vision, "merger": merger}
    config = load_config(None, [f"adapter.{area}={how}" for area, how in training.items()])
    model = model.to(torch.bfloat16)
    expected = will_be_held(model, family(model_type), config)
    prepared = prepare_for_training(model, family(model_type), training, LowRank())
    assert held_in_training(prepared) == expected
    bare = prepared.get_base_model() if hasattr(prepared, "get_base_model") else prepared
    cost = step_cost(bare, config.changed("model", speedups=()), expected, image_share=0.5, label_share=0.1)
    assert cost.label_share == 1.0
    assert cost.peak_bytes(1000, checkpointing=False) > cost.peak_bytes(1000, checkpointing=True) > expected


@pytest.mark.parametrize(("hidden_size", "width", "layers"), [(3584, 512, 2), (256, 256, 2), (1024, 128, 4)])
def test_what_a_head_keeps_of_a_token_is_what_torch_saves(hidden_size, width, layers):
    text = SimpleNamespace(hidden_size=hidden_size, vocab_size=100)
    head = DetectionHead(fitted_to(text, 2, width=width, decoder_layers=layers))
    own = {parameter.untyped_storage().data_ptr() for parameter in head.parameters()}

    def kept(side: int) -> int:
        states = [torch.randn(1, side * side, hidden_size, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
        prompt, mask = torch.randn(1, 3, hidden_size, dtype=torch.bfloat16), torch.ones(1, 3, dtype=torch.bool)
        real = torch.ones(1, side * side, dtype=torch.bool)
        memory = Memory(*states, prompt, real, mask, token_centres(side, side)[None])
        saved = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
            return tensor

        noted = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with noted, torch.autocast("cpu", torch.bfloat16):
            outputs = head(memory)
        assert outputs.states.requires_grad
        return sum(size for place, (size, _) in saved.items() if place not in own)

    config = load_config(None, ["model.detection_head=true"])
    config = config.changed("detection_head", width=width, decoder_layers=layers)
    measured = (kept(20) - kept(12)) / (20**2 - 12**2)
    assert _head_bytes(config, hidden_size) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("language", ["lora", "full"])
def test_a_head_is_held_too(language):
    model, _ = build_tiny("qwen2_vl")
    head = DetectionHead(fitted_to(model.config.text_config, 2))
    training = {"language": language, "vision": "frozen", "merger": "frozen"}
    settings = ["model.detection_head=true", *(f"adapter.{area}={how}" for area, how in training.items())]
    config = load_config(None, settings).changed("model", speedups=())
    row = family("qwen2_vl")
    expected = will_be_held(model, row, config, head)
    without = will_be_held(model, row, config)
    assert expected - without == 16 * sum(parameter.numel() for parameter in head.parameters())
    assert held_in_training(prepare_for_training(model, row, training, LowRank(), head)) == expected
    config = config.changed("detection_head", width=64, decoder_layers=2)
    plain = load_config(None, settings[1:]).changed("model", speedups=())
    costs = [step_cost(model, one, expected, image_share=0.5, label_share=0.1) for one in (config, plain)]
    with_head, alone = (cost.peak_bytes(1000, checkpointing=False) for cost in costs)
    assert with_head - alone == pytest.approx(500 * _head_bytes(config, 64), abs=1)


def test_the_measured_peak_is_said_once(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 30 * GIB)

    class OnGpu:
        device = GPU

    callback = MemoryCallback(20 * GIB, said.append, Curves())
    callback.on_train_begin(OnGpu(), None, None)
    for _ in range(10):
        callback.on_step_end(OnGpu(), None, None)
    state = SimpleNamespace(log_history=[{"loss": 1.0}], is_world_process_zero=True, global_step=10)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 * GIB)
    callback.on_log(OnGpu(), state, None, logs={"loss": 1.0})
    callback.on_log(OnGpu(), state, None, logs={"eval_map": 1.0})
    assert state.log_history == [{"loss": 1.0, "memory/peak_gib": 30.0, "memory/held_gib": 10.0}]
    assert len(said) == 1
    assert "30.0 GiB measured, 20.0 GiB estimated (+50%); set collator.token_budget" in said[0]
