"""Looking at the watched images in the course of a run: when, and that the run does not notice."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from boxtune.errors import DataError
from boxtune.training.callbacks.watch import WatchCallback
from boxtune.training.clock import RunClock
from training.runs import events, history, short_run, weights, write_coco

STYLES = {
    "full": (),
    "lora": (
        "adapter.language=lora",
        "adapter.lora.dropout=0.2",
        "collator.batching=packed",
        "trainer.gradient_checkpointing=true",
        "data.augment=light",
    ),
}


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_coco(folder / "coco" / "train")
    write_coco(folder / "coco" / "val", 5, seed=1)
    return folder / "coco"


# ---- a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_a_watched_run_equals_one_that_is_not(style, coco, tmp_path):
    watched = ("evaluation.every=1", "evaluation.watch_images=3", "logging.tensorboard=true")
    plain, _ = short_run(coco, tmp_path / "plain", *STYLES[style], "evaluation.every=none")
    looked_at, said = short_run(coco, tmp_path / "watched", *STYLES[style], *watched)
    assert looked_at.losses == plain.losses
    expected = weights(tmp_path / "plain")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "watched").items())
    drawn, drawn_too = (
        torch.load(tmp_path / run / "checkpoint-4" / "rng_state.pth", weights_only=False)
        for run in ("plain", "watched")
    )
    assert drawn["python"] == drawn_too["python"]
    assert str(drawn["numpy"]) == str(drawn_too["numpy"])
    assert torch.equal(drawn["cpu"], drawn_too["cpu"])
    check_what_was_told(tmp_path / "watched", said)


def check_what_was_told(folder: Path, said: str) -> None:
    rows = [row for row in history(folder) if "eval_map" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert {"eval_map50", "eval_mean_iou_all", "eval_parse_rate", "eval_seconds"} <= rows[0].keys()
    assert {"eval/map", "eval/map50", "eval/mean_iou_all", "eval/parse_rate"} <= set(events(folder).Tags()["scalars"])
    assert said.count("watch step") == 4
    assert "3 of these to watch" in said
    assert len(json.loads((folder / "run.json").read_text())["watched"]) == 3


def test_nothing_to_watch(coco, tmp_path):
    short, said = short_run(coco / "train", tmp_path / "auto")  # no val split: nothing is held out for it
    assert "to watch" not in said
    assert short.num_steps == 4
    with pytest.raises(DataError, match=r"no val split to watch: set evaluation\.watch_split=train, or data\.val_fr"):
        short_run(coco / "train", tmp_path / "asked", "evaluation.every=2", "data.val_fraction=0")


# ---- when -----------------------------------------------------------------------------------------------------------


def steps_looked_at(every, *, decisive=False, num_steps=20, ended_by=None, first=1) -> list[int]:
    watch = SimpleNamespace(last_seconds=0.0, seconds_spent=0.0)
    callback = WatchCallback(watch, RunClock(), SimpleNamespace(received=ended_by), every, decisive=decisive)
    args = SimpleNamespace(world_size=1)
    callback.on_train_begin(args, SimpleNamespace(global_step=first - 1, max_steps=num_steps), None)
    found = []
    for step in range(first, num_steps + 1):
        control = SimpleNamespace(should_evaluate=False, should_training_stop=step == num_steps)
        callback.on_step_end(args, SimpleNamespace(global_step=step, max_steps=num_steps), control)
        found += [step] if control.should_evaluate else []
    return found


@pytest.mark.parametrize(
    ("expected", "settings"),
    [
        ([6, 12, 18], {"every": 6}),
        ([6, 12, 18, 20], {"every": 6, "decisive": True}),
        ([6, 12, 18], {"every": 6, "decisive": True, "ended_by": 2}),
        ([5, 10, 15, 20], {"every": 0.25}),
        ([6, 12, 18], {"every": 0.3}),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], {"every": 0.1, "num_steps": 10}),
        ([1, 2, 3], {"every": 0.1, "num_steps": 3}),
        ([15, 20], {"every": 0.25, "first": 11}),  # resumed: what was looked at is not looked at again
        (list(range(2, 21, 2)), {"every": "auto", "decisive": True}),
        ([], {"every": "auto"}),  # no time has passed, so none may be spent
    ],
)
def test_when(expected, settings):
    assert steps_looked_at(**settings) == expected


def test_auto_takes_a_tenth_of_the_time_at_most(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("boxtune.training.clock.time", SimpleNamespace(monotonic=lambda: now.seconds))
    watch = SimpleNamespace(last_seconds=0.0, seconds_spent=0.0)
    clock = RunClock()
    callback = WatchCallback(watch, clock, SimpleNamespace(received=None), "auto", decisive=False)
    args, found = SimpleNamespace(world_size=1), []
    for begin in (clock, callback):
        begin.on_train_begin(args, SimpleNamespace(global_step=0, max_steps=100, stateful_callbacks={}), None)
    for step in range(1, 101):
        now.seconds += 4
        control = SimpleNamespace(should_evaluate=False, should_training_stop=step == 100)
        callback.on_step_end(args, SimpleNamespace(global_step=step, max_steps=100), control)
        if control.should_evaluate:
            with clock.standing_still():
                now.seconds += 9
            watch.last_seconds, watch.seconds_spent = 9, watch.seconds_spent + 9
            found.append(step)
    assert found == [20, 50, 70, 90]  # 80, 200, 280 and 360 seconds of training
    assert clock.seconds == 400
