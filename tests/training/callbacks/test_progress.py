"""What is said while a run goes: one short line now and then, or a bar that fits beside its words."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from boxtune.training.callbacks.progress import ProgressCallback
from boxtune.training.clock import RunClock

FIGURES = {"eval_map": 0.41234, "eval_map50": 0.7, "eval_mean_iou": 0.655, "eval_parse_rate": 1.0}


def shown(monkeypatch, *, terminal: bool, figures: dict) -> list[str]:
    """The lines of a run's end at 80 columns, after 98 765 steps, a logged loss and a look at the watched images."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("boxtune.training.clock.time", SimpleNamespace(monotonic=lambda: now.seconds))
    said = io.StringIO()
    console = Console(file=said, width=80, force_terminal=terminal, legacy_windows=False, color_system=None)
    clock = RunClock()
    progress = ProgressCallback(clock, console, images_per_step=8)
    state = SimpleNamespace(
        global_step=0, max_steps=120000, is_world_process_zero=True, stateful_callbacks={}, log_history=[]
    )
    control = SimpleNamespace(should_training_stop=False)
    for callback in (progress, clock):
        callback.on_train_begin(None, state, control)
    now.seconds, state.global_step = 40000.0, 98765
    progress.on_log(None, state, control, logs={"loss": 0.12345, "learning_rate": 1e-4})
    progress.on_evaluate(None, state, control, metrics=figures)
    control.should_training_stop = True
    progress.on_step_end(None, state, control)
    progress.on_train_end(None, state, control)
    return said.getvalue().splitlines()


def test_lines(monkeypatch):
    assert shown(monkeypatch, terminal=False, figures=FIGURES) == [
        "watch step 98765: AP 0.412 AP50 0.700 mean IoU 0.655 parsed 1.000",
        "train  82% step 98765 loss 0.1235 lr 1.0e-04 19.8 img/s left 143:20 AP 0.412",
    ]


def test_a_loss_is_said_once(monkeypatch):
    """Where points of the curve are rare, a line tells no loss rather than an old one."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr("boxtune.training.callbacks.progress.time", SimpleNamespace(monotonic=lambda: now.seconds))
    said = io.StringIO()
    progress = ProgressCallback(RunClock(), Console(file=said, width=80), images_per_step=1)
    control = SimpleNamespace(should_training_stop=False)
    state = SimpleNamespace(global_step=0, max_steps=9, is_world_process_zero=True, stateful_callbacks={})
    for loss in (None, 0.5, None, None, 0.5):
        state.global_step += 1
        now.seconds += 20
        if loss is not None:
            progress.on_log(None, state, control, logs={"loss": loss, "learning_rate": 1e-4})
        progress.on_log(None, state, control, logs={"eval_map": 0.1})
        progress.on_step_end(None, state, control)
    assert ["loss 0.5000 lr 1.0e-04" in line for line in said.getvalue().splitlines()] == [
        False,
        True,
        False,
        False,
        True,
    ]


def test_no_true_box_no_ap(monkeypatch):
    first, last = shown(monkeypatch, terminal=False, figures={"eval_parse_rate": 1.0})
    assert first.endswith("AP – AP50 – mean IoU – parsed 1.000")
    assert last.endswith("AP –")


@pytest.mark.parametrize("figures", [FIGURES, {}])
def test_a_bar_keeps_its_words_on_one_line(monkeypatch, figures):
    lines = shown(monkeypatch, terminal=True, figures=figures)
    last = next(line for line in reversed(lines) if "img/s" in line)
    assert "left 143:20 AP" in last
    assert "…" not in last
