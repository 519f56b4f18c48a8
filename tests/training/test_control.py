"""What steers a run is made from its configuration; snapshots only where there is room for them."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest

from boxtune.config.load import load_config
from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.families import family
from boxtune.training import control
from boxtune.training.clock import RunClock

FULL = {"vision": "full", "merger": "full", "language": "full"}


def controls(tiny, *settings: str, memory_bytes: int = 2**40, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(control, "describe_cpu", lambda: SimpleNamespace(total_bytes=memory_bytes))
    model = prepare_for_training(copy.deepcopy(tiny("qwen2_vl")[0]), family("qwen2_vl"), FULL, LowRank())
    said: list[str] = []
    config = load_config(None, ["trainer.learning_rate=1e-4", *settings])
    rates, stability = control.controls(config, model, family("qwen2_vl"), RunClock(), 4.0, said.append)
    return rates, stability, said


def test_the_usual_needs_no_words(tiny, monkeypatch):
    rates, stability, said = controls(tiny, monkeypatch=monkeypatch)
    assert rates.highest == {"vision": 1e-4, "merger": 1e-4, "language": 1e-4}
    assert stability.snapshot_steps == 50
    assert said == []


@pytest.mark.parametrize(
    ("asked", "num_processes", "steps"),
    [("auto", 1, 50), ("auto", 2, None), ("7", 2, 7), ("null", 1, None)],
)
def test_snapshots_where_there_is_room(tiny, monkeypatch, asked, num_processes, steps):
    _, measured, _ = controls(tiny, monkeypatch=monkeypatch)
    one = sum(12 * p.numel() for p in measured.snapshot.parameters)
    monkeypatch.setenv("WORLD_SIZE", str(num_processes))
    _, stability, said = controls(
        tiny, f"trainer.stability.snapshot_steps={asked}", memory_bytes=4 * one + 8, monkeypatch=monkeypatch
    )
    assert stability.snapshot_steps == steps
    assert (stability.snapshot is None) == (steps is None)
    assert [line.split(":")[0] for line in said] == (["No snapshots"] if asked == "auto" and steps is None else [])


def test_deepspeed_steps_by_itself(tiny, monkeypatch):
    zero = "trainer.deepspeed={zero_optimization: {stage: 2}}"
    rates, stability, _ = controls(tiny, zero, monkeypatch=monkeypatch)
    assert rates.groups
    assert stability.groups == {}
    assert stability.snapshot is None


def test_divided_parameters_are_judged_as_whole_ones(tiny, monkeypatch):
    rates, stability, _ = controls(tiny, "trainer.fsdp=true", monkeypatch=monkeypatch)
    assert rates.groups == stability.groups
    assert rates.groups
    assert stability.snapshot is not None
