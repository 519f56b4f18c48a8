"""The rate of a group is its own, times schedule, phase, and what faults left of it; one decision for all groups."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from boxtune.training import clock as clock_module
from boxtune.training.clock import RunClock, rate_factor
from boxtune.training.phases import Phase, Phases
from boxtune.training.rates import Rates
from training.runs import events, history, short_run, write_coco


def groups() -> dict[str, tuple[nn.Parameter, ...]]:
    return {"vision": (nn.Parameter(torch.ones(2)),), "language": (nn.Parameter(torch.ones(3)),)}


def optimizer_of(members: dict[str, tuple[nn.Parameter, ...]]) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for some in members.values() for p in some], lr=7.0)


def test_every_factor_counts():
    members, lowered = groups(), {"vision": 1.0, "language": 1.0}
    phases = Phases((Phase(0.5, {"vision": 0.1}), Phase(1.0)), members)
    rates = Rates(RunClock(), rate_factor("linear", 0.0), members, {"vision": 2.0, "language": 4.0}, phases, lowered)
    optimizer = optimizer_of(members)
    rates.divide(optimizer)
    scheduler = rates.scheduler(optimizer, 4)
    found = []
    for step in range(4):
        rates.note(optimizer)
        found.append((rates.of_step["vision"], rates.of_step["language"]))
        optimizer.step()
        lowered["language"] = 0.5 if step == 2 else 1.0
        scheduler.step()
    assert found == [(0.2, 4.0), (pytest.approx(0.15), 3.0), (1.0, 2.0), (0.5, 0.5)]


def test_without_groups_all_follow_the_schedule():
    members = groups()
    optimizer = optimizer_of(members)
    rates = Rates(RunClock(), rate_factor("linear", 0.0))
    rates.divide(optimizer)
    scheduler = rates.scheduler(optimizer, 2)
    optimizer.step()
    scheduler.step()
    rates.note(optimizer)
    assert [part["lr"] for part in optimizer.param_groups] == [3.5]
    assert rates.of_step == {}


def test_groups_of_a_step_are_in_one_phase_though_time_goes_on(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    members = groups()
    clock = RunClock(budget_seconds=4)
    clock.on_train_begin(None, SimpleNamespace(global_step=0, max_steps=9, stateful_callbacks={}), None)
    phases = Phases((Phase(0.5), Phase(1.0, {"vision": 0.5, "language": 0.5})), members)
    rates = Rates(clock, lambda *_: 1.0, members, dict.fromkeys(members, 1.0), phases, {})
    optimizer = optimizer_of(members)
    rates.divide(optimizer)
    scheduler = rates.scheduler(optimizer, 9)
    for _ in range(4):
        assert len({part["lr"] for part in optimizer.param_groups}) == 1
        optimizer.step()
        scheduler.step()
    assert {part["lr"] for part in optimizer.param_groups} == {0.5}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates")
    rates = ("trainer.rates.vision=1e-5", "trainer.rates.language=2e-4", "trainer.learning_rate=1e-3")
    areas = ("adapter.language=full", "adapter.vision=full", "adapter.merger=full")
    scaled = ("trainer.rate_for_batch=8", "trainer.rate_scaling=linear", "trainer.schedule=constant")
    data = write_coco(folder / "coco", 6)
    _, said = short_run(
        data, folder / "run", *rates, *areas, *scaled, "trainer.warmup_fraction=0", "logging.tensorboard=true"
    )
    return folder / "run", said


def test_a_run_with_three_rates(run):
    folder, said = run
    for row in (row for row in history(folder) if "loss" in row):
        found = {name: row[f"rate/{name}"] for name in ("vision", "merger", "language")}
        assert found == pytest.approx({"vision": 0.25e-5, "merger": 0.25e-3, "language": 0.5e-4})
        assert row["learning_rate"] == pytest.approx(0.25e-3)
    assert "Rates are meant for 8 images a step, and 2.0 come on average: × 0.25 (linear)" in said
    assert "Rates by group: vision 2.5e-06, merger 0.00025, language 5e-05" in said


def test_tensorboard_groups_them(run):
    tags = set(events(run[0]).Tags()["scalars"])
    assert {"rate/vision", "rate/merger", "rate/language", "grad_norm/language", "weight_norm/vision"} <= tags


@pytest.mark.parametrize(
    ("batching", "expected"),
    [
        (("trainer.per_device_train_batch_size=4",), 10 / 3),  # 4, 4 and 2 images
        (("trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=2"), 10 / 3),
        (("collator.batching=packed", "collator.token_budget=100000"), 10.0),
    ],
)
def test_real_images_a_step(batching, expected, tmp_path):
    data = write_coco(tmp_path / "coco", 10)
    # the set has no val split, and nothing is held out of it
    style = ("data.val_fraction=0", "evaluation.every=none", "trainer.max_steps=1", "trainer.rate_for_batch=1")
    _, said = short_run(data, tmp_path / "run", *style, *batching)
    assert f"and {expected:.1f} come on average" in said


def test_a_rate_of_0_freezes_before_the_run(tmp_path):
    data = write_coco(tmp_path / "coco", 4)
    areas = ("adapter.language=full", "adapter.vision=full", "adapter.merger=full")
    _, said = short_run(data, tmp_path / "run", *areas, "trainer.rates.vision=0", "trainer.max_steps=1")
    rows = {
        line.split()[0]: line.split()[1] for line in said.splitlines() if line.startswith(("vision", "merger", "lan"))
    }
    assert rows == {"vision": "frozen", "merger": "full", "language": "full"}
    logged = history(tmp_path / "run")[0]
    assert "rate/vision" not in logged
    assert "grad_norm/vision" not in logged
    assert logged["rate/merger"] > 0
