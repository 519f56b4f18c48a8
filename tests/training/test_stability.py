"""NaN and Inf in losses, gradients and weights: the step is dropped, the rest is as if it had not been."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from boxtune.config.schema import StabilityConfig
from boxtune.errors import ConfigError, ModelError
from boxtune.training import control
from boxtune.training.objective import Objective
from boxtune.training.stability import FAULTS_FILE, Stability
from boxtune.training.trainer import DetectionTrainer
from training.runs import history, short_run, weights, write_coco

HEAD = ("model.detection_head=true", "detection_head.num_queries=5", "detection_head.width=32")
BAD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Little:
    """Two groups of parameters that a step draws to a target, and the judge."""

    def __init__(
        self, folder: Path, snapshot_steps: int | None = 2, *, later: bool = False, fused: bool = False, **settings: Any
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.groups = {"body": (nn.Parameter(torch.full((3,), 4.0)),), "head": (nn.Parameter(torch.full((2,), 2.0)),)}
        self.parameters = [p for members in self.groups.values() for p in members]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.1, weight_decay=0.1, fused=fused)
        self.said: list[str] = []
        self.folder = folder
        say = self.said.append
        self.stability = Stability(StabilityConfig(**settings), self.groups, snapshot_steps, folder, say, later=later)
        self.stability.take_snapshot(self.optimizer, 0)
        self.step = 0

    def go(self, spoil: Callable[[Little], float | None] = lambda _: None) -> bool:
        """A step, spoiled between backward pass and judgement; `spoil` may give another loss."""
        self.stability.settle(self.optimizer)  # as the trainer does before it runs the model
        self.step += 1
        loss = sum(((p - 1) ** 2).sum() for p in self.parameters)
        loss.backward()
        other = spoil(self)
        self.stability.note(loss if other is None else torch.tensor(other), [f"image-{self.step}"])
        stands = self.stability.judge(self.optimizer, self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.stability.snapshot_steps and self.step % self.stability.snapshot_steps == 0:
            self.stability.verify(self.optimizer, self.step)
            self.stability.take_snapshot(self.optimizer, self.step)
        return stands

    @property
    def state(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.parameters]

    @property
    def faults(self) -> list[dict[str, Any]]:
        path = self.folder / FAULTS_FILE
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def equal(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, two, strict=True))


def bad_gradient(value: float, group: str = "body") -> Callable[[Little], None]:
    def spoil(little: Little) -> None:
        little.groups[group][0].grad[1] = value

    return spoil


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("kind", ["gradient", "loss"])
def test_a_bad_step_is_as_if_it_had_not_been(kind, value, tmp_path):
    (tmp_path / "b").mkdir()
    clean, spoiled = Little(tmp_path), Little(tmp_path / "b")
    for step in range(1, 8):
        if step == 4:
            before = spoiled.state
            assert not spoiled.go(bad_gradient(value) if kind == "gradient" else lambda _: value)
            assert equal(spoiled.state, before)
            continue
        assert clean.go()
        assert spoiled.go()
    assert equal(clean.state, spoiled.state)
    (fault,) = spoiled.faults
    assert (fault["step"], fault["kind"], fault["sample_ids"], fault["returned_to"]) == (4, kind, ["image-4"], None)
    assert clean.faults == []


def nothing(_: Little) -> None:
    return None


def bad_loss(_: Little) -> float:
    return math.nan


def bad_weight(little: Little) -> float:
    with torch.no_grad():
        little.groups["head"][0][0] = math.nan
    return math.nan


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("spoilt", [
    {4: bad_loss}, {3: bad_gradient(math.inf)}, {1: bad_loss}, {3: bad_loss, 4: bad_gradient(math.nan, "head")},
    {4: bad_weight, 6: bad_loss}, {2: bad_loss, 4: bad_loss, 6: bad_loss}, {6: bad_gradient(math.nan)},
])  # fmt: skip
def test_judged_later_a_run_is_the_same(spoilt, fused, tmp_path):
    """Where the optimizer reads on the device whether the step stands, nobody waits for it before the next."""
    at_once, later = (
        Little(tmp_path / name, snapshot_steps=3, later=name == "later", fused=fused) for name in ("at once", "later")
    )
    waited = []
    for step in range(1, 8):
        stands = at_once.go(spoilt.get(step, nothing))
        waited.append(later.go(spoilt.get(step, nothing)) == stands and not stands)
        later.stability.settle(later.optimizer)
        assert equal(at_once.state, later.state)
    assert at_once.faults == later.faults
    assert at_once.said == later.said
    assert at_once.stability.state == later.stability.state
    assert not hasattr(later.optimizer, "found_inf")
    first = min(spoilt) - 1
    assert waited[first] != fused  # only torch's fused optimizer can leave a step out by itself


def test_what_was_judged_is_heard_of_before_weights_are_used(tmp_path):
    little = Little(tmp_path, snapshot_steps=None, later=True, fused=True)
    before = little.state
    assert little.go(bad_loss)  # nobody has looked
    assert little.faults == []
    assert equal(little.state, before)
    little.stability.verify(little.optimizer, 1)
    assert [fault["step"] for fault in little.faults] == [1]
    assert all(not moments for moments in little.optimizer.state.values()) or all(
        int(moments["step"]) == 0 for moments in little.optimizer.state.values()
    )


def test_groups_of_a_fault_and_what_is_said(tmp_path):
    little = Little(tmp_path, rate_factor=0.25)
    little.go(bad_gradient(math.nan, "head"))
    assert little.stability.lowered == {"body": 1.0, "head": 0.25}
    little.go()
    little.go()
    little.go(lambda _: math.inf)
    assert little.stability.lowered == {"body": 0.25, "head": 0.0625}
    assert little.said == [
        "Step 1: the gradient of head not finite (images image-1); step dropped; rates: head × 0.25",
        "Step 4: the loss not finite (images image-4); step dropped; rates: body × 0.25, head × 0.0625",
    ]
    assert [fault["groups"] for fault in little.faults] == [["head"], ["body", "head"]]


def test_what_rests_is_not_to_blame(tmp_path):
    little = Little(tmp_path)
    little.stability.resting = lambda: frozenset({"body"})
    little.go(lambda _: math.nan)
    assert little.faults[0]["groups"] == ["head"]


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("where", ["weights", "moments"])
def test_damaged_weights_return_to_the_snapshot(where, value, tmp_path):
    little = Little(tmp_path, snapshot_steps=2)
    for _ in range(4):
        little.go()
    at_snapshot = little.state
    little.go()
    damaged = little.groups["head"][0]
    with torch.no_grad():
        (damaged if where == "weights" else little.optimizer.state[damaged]["exp_avg"])[0] = value
    if where == "weights":
        assert not little.go(lambda _: math.nan)  # as its loss would be
    else:
        little.stability.verify(little.optimizer, little.step)
    assert equal(little.state, at_snapshot)
    (fault,) = little.faults
    assert (fault["kind"], fault["groups"], fault["returned_to"]) == ("weights", ["head"], 4)
    assert all(torch.isfinite(v).all() for s in little.optimizer.state.values() for v in s.values())
    assert little.go()


def test_a_second_fault_in_a_row_returns_to_the_snapshot(tmp_path):
    little = Little(tmp_path, snapshot_steps=2)
    for _ in range(3):
        little.go()
    little.go(bad_gradient(math.nan))
    little.go(bad_gradient(math.nan))
    assert [fault["returned_to"] for fault in little.faults] == [None, 2]
    assert [fault["num_in_row"] for fault in little.faults] == [1, 2]


def test_rates_rise_again_with_good_steps(tmp_path):
    little = Little(tmp_path, recover_steps=3)
    little.go(bad_gradient(math.nan))
    little.go()
    little.go()
    little.go(bad_gradient(math.nan))
    lowered = []
    for _ in range(8):
        little.go()
        lowered.append(little.stability.lowered["body"])
    assert lowered == [0.25, 0.25, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0]


def test_rates_stay_where_nothing_may_recover(tmp_path):
    little = Little(tmp_path, recover_steps=None)
    little.go(bad_gradient(math.nan))
    for _ in range(50):
        little.go()
    assert little.stability.lowered["body"] == 0.5


@pytest.mark.parametrize("pattern", ["xxx", "x.x.x", "xx.x"])
def test_too_many_in_a_row_stop_the_run(pattern, tmp_path):
    """One good step between two bad ones breaks no row: an explosion shows a step after it."""
    little = Little(tmp_path, stop_after=3)
    for sign in pattern:
        assert not little.stability.stopped
        little.go(bad_gradient(math.nan) if sign == "x" else lambda _: None)
    assert little.stability.stopped
    with pytest.raises(ConfigError, match=r"Ended at step \d: 3 faults in a row, .*lower trainer.learning_rate"):
        little.stability.raise_if_stopped()


def test_faults_apart_do_not(tmp_path):
    little = Little(tmp_path, stop_after=2)
    for sign in "x..x..x..":
        little.go(bad_gradient(math.nan) if sign == "x" else lambda _: None)
    assert not little.stability.stopped
    little.stability.raise_if_stopped()
    assert little.stability.num_faults == 3


def test_no_snapshot_is_taken_in_the_middle_of_a_row(tmp_path):
    little = Little(tmp_path, snapshot_steps=1)
    little.go()
    little.go(bad_gradient(math.nan))
    assert little.stability.snapshot is not None
    assert little.stability.snapshot.step == 1


def test_damage_without_a_snapshot_ends_the_run(tmp_path):
    little = Little(tmp_path, snapshot_steps=None)
    little.go()
    little.go(bad_gradient(math.nan))
    with torch.no_grad():
        little.parameters[0].fill_(math.nan)
    with pytest.raises(
        ConfigError, match="Ended at step 3: 2 faults in a row, the last in the weights; nothing is left"
    ):
        little.go()


def test_sharded_parameters_end_the_run_at_a_bad_loss(tmp_path):
    stability = Stability(StabilityConfig(), {}, None, tmp_path, lambda _: None)
    stability.note(torch.tensor(1.0), ["a"])
    assert stability.judge(None, 1)
    stability.note(torch.tensor(math.nan), ["b"])
    with pytest.raises(ConfigError, match="the last in the loss"):
        stability.judge(None, 2)


def test_of_several_batches_those_with_a_bad_loss_are_suspects(tmp_path):
    little = Little(tmp_path)
    for loss, ids in ((0.5, ["a", "b"]), (math.nan, ["c"]), (0.25, ["d"])):
        logged = little.stability.note(torch.tensor(loss), ids)
        assert math.isfinite(logged)
    assert not little.stability.judge(little.optimizer, 1)
    assert little.faults[0]["sample_ids"] == ["c"]


def test_what_a_bad_loss_counts_as(tmp_path):
    stability = Little(tmp_path).stability
    losses = [math.nan, 2.0, math.inf, math.nan, 3.0]
    assert [stability.note(torch.tensor(loss), []).item() for loss in losses] == [0.0, 2.0, 2.0, 2.0, 3.0]


# ---- in a run --------------------------------------------------------------------------------------------------------

RUN = (
    "trainer.max_steps=6",
    "trainer.schedule=constant",
    "trainer.warmup_fraction=0",
    "trainer.stability.rate_factor=1",
)


@contextmanager
def spoiled(monkeypatch: pytest.MonkeyPatch, steps: set[int], what: str, value: float) -> Iterator[None]:
    """The loss, a gradient of the language model, or one of its weights is `value` at those steps (from 1).

    A `constant` is added to the loss, whose gradients stay what they are.
    """
    plain_loss = DetectionTrainer.compute_loss

    def compute_loss(self: DetectionTrainer, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step + 1 not in steps:
            return plain_loss(self, model, *args, **kwargs)
        bare = self.accelerator.unwrap_model(model)
        parameter = next(p for n, p in bare.named_parameters() if "layers.0.self_attn.q_proj" in n and p.requires_grad)
        if what == "weights":
            with torch.no_grad():
                parameter.view(-1)[0] = value
        loss = plain_loss(self, model, *args, **kwargs)
        if what == "gradient":
            handle = parameter.register_hook(lambda gradient: (handle.remove(), gradient * value)[1])
        return {"loss": loss * value, "constant": loss + value}.get(what, loss)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionTrainer, "compute_loss", compute_loss)
        yield


def faults(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FAULTS_FILE).read_text().splitlines()]


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco", 12)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient", "weights"])
@pytest.mark.parametrize("how", ["lora", "full"])
def test_a_run_survives_a_fault(how, what, value, coco, tmp_path, monkeypatch):
    """With a snapshot at each step it is, to the bit, the run whose optimizer passes that step over."""
    style = (*RUN, f"adapter.language={how}", "trainer.stability.snapshot_steps=1")
    with spoiled(monkeypatch, {3}, what, value):
        result, said = short_run(coco, tmp_path / "spoiled", *style)
    assert result.num_steps == 6
    (fault,) = faults(tmp_path / "spoiled")
    assert (fault["step"], fault["kind"]) == (3, what)
    assert fault["returned_to"] == (2 if what == "weights" else None)
    assert len(fault["sample_ids"]) == 2
    assert f"Step 3: the {what}" in said
    assert "1 faults in this run" in said
    found = weights(tmp_path / "spoiled")
    assert all(torch.isfinite(tensor).all() for tensor in found.values())
    assert all(math.isfinite(row["loss"]) for row in history(tmp_path / "spoiled") if "loss" in row)

    judge = Stability.judge

    def drop_third(self: Stability, optimizer: Any, step: int) -> bool:
        if step == 3:
            for parameter in self.snapshot.parameters:
                parameter.grad = None
        return judge(self, optimizer, step)

    monkeypatch.setattr(Stability, "judge", drop_third)
    short_run(coco, tmp_path / "clean", *style)
    expected = weights(tmp_path / "clean")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("what", ["loss", "gradient", "weights"])
def test_a_run_that_is_judged_later_is_the_same(what, coco, tmp_path, monkeypatch):
    """As on a GPU: nobody waits for the judgement of a step before the model runs again."""
    style = (*RUN, "adapter.language=lora", "trainer.stability.snapshot_steps=4", "logging.steps=1")
    heard: list[bool] = []

    def late(*args: Any, **kwargs: Any) -> Stability:
        stability = Stability(*args, **{**kwargs, "later": True})
        look = stability._look
        stability._look = lambda judged, optimizer: (heard.append(stability._losses == []), look(judged, optimizer))[1]
        return stability

    for name in ("at once", "later"):
        with monkeypatch.context() as patch, spoiled(monkeypatch, {3}, what, math.nan):
            if name == "later":
                patch.setattr(control, "Stability", late)
            short_run(coco, tmp_path / name, *style)
    assert len(heard) == 6
    assert faults(tmp_path / "at once") == faults(tmp_path / "later")
    assert len(faults(tmp_path / "later")) == 1
    expected, found = weights(tmp_path / "at once"), weights(tmp_path / "later")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    rates = [[row.get("learning_rate") for row in history(tmp_path / name)] for name in ("at once", "later")]
    assert rates[0][3:] == rates[1][3:]  # the step behind the fault is logged with what it began with
    assert all(math.isfinite(row.get("grad_norm", 0.0)) for row in history(tmp_path / "later"))


def test_a_fault_of_the_detection_head_lowers_its_rate_alone(coco, tmp_path, monkeypatch):
    real, calls = Objective.sums, []

    def sums(self: Objective, *args: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        found = real(self, *args)
        return {**found, "box_l1": found["box_l1"] * (math.nan if len(calls) == 2 else 1.0)}

    monkeypatch.setattr(Objective, "sums", sums)
    short_run(coco, tmp_path / "run", *HEAD, "adapter.language=lora", "trainer.schedule=constant")
    (fault,) = faults(tmp_path / "run")
    assert (fault["step"], fault["kind"], fault["groups"]) == (2, "loss", ["detection_head"])
    rows = [row for row in history(tmp_path / "run") if "loss" in row]
    assert all(math.isfinite(row[name]) for row in rows for name in row if name.startswith("loss"))
    last = rows[-1]
    assert last["rate/detection_head"] == pytest.approx(0.5 * last["rate/adapter"])


def test_a_run_that_does_not_recover_stops_with_a_checkpoint(coco, tmp_path, monkeypatch):
    style = (*RUN, "trainer.max_steps=30", "trainer.stability.stop_after=3", "adapter.language=full")
    with (
        spoiled(monkeypatch, set(range(4, 30)), "gradient", math.nan),
        pytest.raises(
            ConfigError, match=r"Ended at step 6: 3 faults in a row, the last in the gradient; the last good"
        ),
    ):
        short_run(coco, tmp_path / "run", *style)
    saved = weights(tmp_path / "run" / "checkpoint-6")
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())
    assert [fault["num_in_row"] for fault in faults(tmp_path / "run")] == [1, 2, 3]
    assert not (tmp_path / "run" / "boxtune.json").exists()  # not a finished run


def test_what_was_lowered_goes_through_a_checkpoint(coco, tmp_path, monkeypatch):
    style = ("trainer.max_steps=6", "trainer.save_steps=3", "trainer.schedule=constant", "trainer.warmup_fraction=0")
    language = ("adapter.language=full", "adapter.vision=frozen", "adapter.merger=frozen", "trainer.learning_rate=1e-3")
    with spoiled(monkeypatch, {2, 9}, "gradient", math.inf):
        short_run(coco, tmp_path / "run", *style, *language)
        longer = ("trainer.max_steps=8", "trainer.save_steps=3")
        short_run(coco, tmp_path / "run", *style, *language, *longer, resume=True)
    rows = {row["step"]: row for row in history(tmp_path / "run") if "loss" in row}
    rates = [rows[step]["rate/language"] for step in sorted(rows)]
    assert rates == pytest.approx([1e-3, 1e-3, *[5e-4] * 5, 1e-3])  # up again after five good steps
    assert [rows[step].get("faults") for step in sorted(rows)] == [None, *[1.0] * 7]


def test_anomaly_mode_ends_a_run_with_the_operation(coco, tmp_path, monkeypatch):
    style = ("trainer.stability.anomaly_mode=true", "adapter.language=lora", "model.speedups=[]")
    with (
        spoiled(monkeypatch, {2}, "loss", math.nan),
        pytest.raises(ModelError, match=r"Step 2, images .*: Function '\w+Backward0?' returned nan"),
        pytest.warns(UserWarning, match="Error detected in"),
    ):
        short_run(coco, tmp_path / "run", *style)


@pytest.mark.slow
def test_ten_faults_cost_next_to_nothing(coco, tmp_path, monkeypatch):
    """A little task is learned all the same, but for a fiftieth of what there is to learn."""
    style = ("trainer.max_steps=200", "trainer.learning_rate=2e-3", "adapter.language=full", "adapter.vision=full")
    at = set(range(5, 185, 18))
    short_run(coco, tmp_path / "clean", *style)
    with spoiled(monkeypatch, at, "gradient", math.nan):
        _, said = short_run(coco, tmp_path / "spoiled", *style)
    found = faults(tmp_path / "spoiled")
    assert len(found) == 10
    assert {fault["step"] for fault in found} == at
    assert all(f"Step {step}: the gradient of" in said for step in at)
    first, clean = head_and_tail(tmp_path / "clean")
    assert clean < 0.05 * first
    assert (first - head_and_tail(tmp_path / "spoiled")[1]) / (first - clean) > 0.98


def head_and_tail(folder: Path) -> tuple[float, float]:
    """The first loss, and the mean of the last twenty."""
    losses = [row["loss"] for row in history(folder) if "loss" in row]
    return losses[0], sum(losses[-20:]) / 20
