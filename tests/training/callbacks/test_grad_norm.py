"""Norms by area: right, before clipping, only where they are logged, and without a trace in the weights."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from boxtune.models.families import family
from boxtune.training.callbacks.grad_norm import GradNormCallback, area_name, measured
from boxtune.training.curves import Curves
from training.runs import events, history, short_run, weights, write_coco

LORA = ("adapter.language=lora", "adapter.vision=lora", "adapter.merger=frozen", "trainer.max_grad_norm=1e-3")


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture(scope="module")
def full(coco, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "full"
    short_run(coco, folder, "trainer.max_grad_norm=1e-3", "logging.steps=2", "logging.tensorboard=true")
    return folder


def of(row: dict, group: str) -> dict[str, float]:
    return {name.removeprefix(f"{group}/"): value for name, value in row.items() if name.startswith(f"{group}/")}


def test_areas_add_up_to_the_norm_before_clipping(full):
    rows = [row for row in history(full) if "loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        areas = of(row, "grad_norm")
        assert set(areas) == set(of(row, "weight_norm")) == {"vision", "merger", "language"}  # its head is tied
        assert math.sqrt(sum(norm**2 for norm in areas.values())) == pytest.approx(row["grad_norm"], rel=1e-5)
        assert row["grad_norm"] > 0.1  # clipped to a hundredth of that


def test_first_step_is_not_changed_by_clipping(coco, tmp_path):
    found = []
    for limit in ("1e-3", "1e6"):
        folder = tmp_path / limit
        short_run(coco, folder, "trainer.max_steps=1", f"trainer.max_grad_norm={limit}")
        found.append(of(history(folder)[0], "grad_norm"))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_weights_are_what_is_saved(full):
    saved = weights(full)
    row = next(row for row in reversed(history(full)) if "loss" in row)  # measured before the last step's update
    total = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in saved.values()))
    assert math.sqrt(sum(norm**2 for norm in of(row, "weight_norm").values())) == pytest.approx(total, rel=1e-3)


def test_tensorboard_has_a_group_of_each(full):
    tags = events(full).Tags()["scalars"]
    assert {"grad_norm/vision", "grad_norm/merger", "weight_norm/language", "train/loss"} <= set(tags)


def test_adapters_stand_for_themselves_and_leave_no_trace(coco, tmp_path, monkeypatch):
    short_run(coco, tmp_path / "with", *LORA)
    (first, *_) = history(tmp_path / "with")
    for norms in (of(first, "grad_norm"), of(first, "weight_norm")):
        assert set(norms) == {"vision_lora", "language_lora", "adapter"}
        assert norms["adapter"] == pytest.approx(math.hypot(norms["vision_lora"], norms["language_lora"]))
    with monkeypatch.context() as patch:
        patch.setattr(GradNormCallback, "on_pre_optimizer_step", lambda *args, **kwargs: None)
        short_run(coco, tmp_path / "without", *LORA)
    assert not of(history(tmp_path / "without")[0], "grad_norm")
    expected = weights(tmp_path / "without")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "with").items())


def test_measured_of_known_tensors():
    one, two = nn.Parameter(torch.tensor([3.0, 0.0])), nn.Parameter(torch.tensor([[4.0]]))
    one.grad = torch.tensor([0.0, 2.0])
    assert measured({"a": [one, two], "b": [two]}).tolist() == [[2.0, 0.0], [5.0, 4.0]]


def test_measures_only_before_a_logged_step():
    row = family("qwen2_vl")
    model = SimpleNamespace(named_parameters=lambda: [("lm_head.weight", nn.Parameter(torch.ones(4)))])
    norms = GradNormCallback(row, Curves())
    args = SimpleNamespace(deepspeed_plugin=None, logging_first_step=True)
    norms.on_train_begin(args, None, None, model=model)
    due = []
    for done in range(8):
        norms.on_pre_optimizer_step(args, SimpleNamespace(global_step=done, logging_steps=4), None)
        due.append(norms._pending is not None)
    assert due == [True, False, False, True, False, False, False, True]


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.default.weight", "language_lora"),
        ("base_model.model.model.visual.blocks.0.attn.qkv.base_layer.weight", "vision"),
        ("model.visual.merger.mlp.0.weight", "merger"),
    ],
)
def test_names_of_areas(name, area):
    assert area_name(family("qwen2_vl"), name) == area
