"""Phases change rates and freeze groups where the run's clock says, and nowhere else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from boxtune.config.load import load_config
from boxtune.models.detection_head.saving import WEIGHTS_FILE
from boxtune.training.phases import Phase, Phases, phases_of
from training.runs import history, short_run, weights, write_coco

REST = Phase(0.25, {"head": 0.0})
THREE = (REST, Phase(0.75), Phase(1.0, {"body": 0.1}))


def groups() -> dict[str, tuple[nn.Parameter, ...]]:
    return {"body": (nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))), "head": (nn.Parameter(torch.ones(4)),)}


@pytest.mark.parametrize(
    ("progress", "index", "resting", "factor"),
    [
        (0.0, 0, {"head"}, 1.0),
        (0.249, 0, {"head"}, 1.0),
        (3 * (1 / 12), 1, set(), 1.0),  # a quarter, but for rounding
        (0.5, 1, set(), 1.0),
        (0.75, 2, set(), 0.1),
        (1.0, 2, set(), 0.1),
    ],
)
def test_where_a_run_is(progress, index, resting, factor):
    phases = Phases(THREE, groups())
    phases.advance(progress)
    assert (phases.index, phases.resting, phases.factor("body")) == (index, resting, factor)
    phases.advance(0.0)
    assert phases.index == index  # never back


def test_words():
    phases = Phases(THREE, groups())
    assert str(phases) == "1 of 3, until 25% of the run: head rests"
    phases.advance(0.3)
    assert str(phases) == "2 of 3, until 75% of the run: all groups at their rates"
    phases.advance(0.8)
    assert str(phases) == "3 of 3, until 100% of the run: body × 0.1"


def test_phases_of_a_configuration():
    none = load_config(None, [])
    assert phases_of(none) == (Phase(1.0),)
    by_epochs = load_config(
        None,
        ["trainer.num_train_epochs=8", "trainer.phases=[{until_epoch: 2, factors: {language: 0}}, {until: 1.0}]"],
    )
    first, second = phases_of(by_epochs)
    assert (first.until, second.until) == (0.25, 1.0)
    assert (first.factors["language"], first.factors["vision"], second.factors["language"]) == (0, 1, 1)


@pytest.mark.parametrize("one_process", [True, False])
def test_what_rests_is_moved_by_nothing(one_process):
    """Neither by weight decay nor by momentum, and afterwards it goes on with the momentum that it had."""
    members = groups()
    phases = Phases((Phase(0.25), Phase(0.75, {"head": 0.0}), Phase(1.0)), members, one_process=one_process)
    parts = [{"params": list(some)} for some in members.values()]
    optimizer = torch.optim.AdamW(parts, lr=0.1, weight_decay=0.5)
    seen, moments = [], []
    for step in range(8):
        phases.advance(step / 8)
        phases.apply()
        sum((p**2).sum() for some in members.values() for p in some).backward()
        assert (members["head"][0].grad is None) == (one_process and 2 <= step < 6)
        phases.drop_gradients()
        optimizer.step()
        optimizer.zero_grad()
        seen.append([some[0][0].item() for some in members.values()])
        moments.append(float(optimizer.state[members["head"][0]]["exp_avg"][0]))
    body, head = zip(*seen, strict=True)
    assert len(set(body)) == 8
    assert head[1] == head[2] == head[5]
    assert len({head[0], head[1], head[6], head[7]}) == 4
    assert moments[1] == moments[5] != moments[6]
    phases.release()
    assert all(p.requires_grad for some in members.values() for p in some)


def test_apply_tells_of_a_change_once():
    phases = Phases(THREE, groups())
    assert [phases.apply(), phases.apply()] == [True, False]
    phases.advance(0.3)
    assert [phases.apply(), phases.apply()] == [True, False]
    phases.advance(0.8)
    assert not phases.apply()


def test_resting_is_known_by_parameter():
    members = groups()
    phases = Phases(THREE, members)
    assert phases.is_resting(members["head"][0])
    assert not phases.is_resting(members["body"][1])


# ---- in a run --------------------------------------------------------------------------------------------------------

PHASES = (
    "trainer.phases=[{until: 0.5, factors: {language: 0, merger: 0.5}}, {until: 1.0, factors: {vision: 0.1}}]",
    "trainer.schedule=constant",
    "trainer.warmup_fraction=0",
    "trainer.weight_decay=0.1",
    "trainer.rates.vision=4e-4",
    "trainer.learning_rate=1e-3",
    "trainer.save_steps=2",
    "adapter.language=full",
    "adapter.vision=full",
    "adapter.merger=full",
)


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco")


def test_a_run_in_two_phases(coco, tmp_path):
    _, said = short_run(coco, tmp_path / "run", *PHASES)
    rows = [row for row in history(tmp_path / "run") if "loss" in row]
    rates = [{name: row[f"rate/{name}"] for name in ("vision", "merger", "language")} for row in rows]
    assert rates[:2] == [pytest.approx({"vision": 4e-4, "merger": 5e-4, "language": 0.0})] * 2
    assert rates[2:] == [pytest.approx({"vision": 4e-5, "merger": 1e-3, "language": 1e-3})] * 2
    assert [row["learning_rate"] for row in rows] == pytest.approx([5e-4, 5e-4, 1e-3, 1e-3])
    assert [row["grad_norm/language"] > 0 for row in rows] == [False, False, True, True]
    assert "Phase 1 of 2, until 50% of the run: merger × 0.5, language rests; from step 1" in said
    assert "Phase 2 of 2, until 100% of the run: vision × 0.1; from step 3" in said
    first = weights(tmp_path / "run" / "checkpoint-2")
    last = weights(tmp_path / "run")
    short_run(coco, tmp_path / "untrained", "adapter.language=frozen", "adapter.vision=full", "trainer.max_steps=1")
    language = [name for name in first if "visual" not in name]
    untrained = weights(tmp_path / "untrained")
    assert language
    assert all(torch.equal(first[name].float(), untrained[name].float()) for name in language)
    assert any(not torch.equal(first[name], last[name]) for name in language)


def test_a_resumed_run_is_in_the_phase_of_an_unbroken_one(coco, tmp_path):
    short_run(coco, tmp_path / "whole", *PHASES)
    short_run(coco, tmp_path / "broken", *PHASES)
    for name in ("checkpoint-4", "boxtune.json", "model.safetensors"):
        path = tmp_path / "broken" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _, said = short_run(coco, tmp_path / "broken", *PHASES, resume=True)
    assert "Phase 2 of 2" in said
    assert "Phase 1 of 2" not in said
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "broken").items())


def test_a_detection_head_that_rests_first(coco, tmp_path):
    head = ("model.detection_head=true", "detection_head.num_queries=5", "detection_head.width=32")
    style = (*head, "adapter.language=lora", "trainer.save_steps=2", "trainer.learning_rate=1e-3")
    phases = "trainer.phases=[{until: 0.5, factors: {detection_head: 0}}, {until: 1}]"
    short_run(coco, tmp_path / "phases", *style, phases)
    _, said = short_run(coco, tmp_path / "frozen", *style, "trainer.rates.detection_head=0")
    resting, woken, frozen = (
        load_file(tmp_path / folder / WEIGHTS_FILE) for folder in ("phases/checkpoint-2", "phases", "frozen")
    )
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in resting.items())
    assert not all(torch.equal(tensor, frozen[name]) for name, tensor in woken.items())
    assert next(line for line in said.splitlines() if line.startswith("detection_head")).split()[1] == "frozen"
