"""How far a run is, and the rate that follows from it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxtune.training import clock as clock_module
from boxtune.training.clock import RunClock, rate_factor


@pytest.fixture
def now(monkeypatch):
    """A watch that is set by hand."""
    watch = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(monotonic=lambda: watch.seconds))
    return watch


def state(step: int = 0, saved: dict | None = None) -> SimpleNamespace:
    saved_by = {} if saved is None else {"RunClock": saved}
    return SimpleNamespace(global_step=step, max_steps=10, stateful_callbacks=saved_by)


def control() -> SimpleNamespace:
    return SimpleNamespace(should_training_stop=False, should_save=False)


@pytest.mark.parametrize(
    ("step", "num_steps", "share"), [(0, 10, 0), (5, 10, 0.5), (10, 10, 1), (12, 10, 1), (0, 0, 0)]
)
def test_progress_in_steps(step, num_steps, share):
    assert RunClock().progress(step, num_steps) == share


def test_progress_in_time(now):
    clock = RunClock(budget_seconds=60)
    assert clock.progress(999, 1000) == 0  # not begun
    clock.on_train_begin(None, state(), control())
    now.seconds += 15
    assert clock.progress(1, 10**7) == 0.25
    assert clock.seconds_left(1, 10**7) == 45
    now.seconds += 600
    assert clock.progress(1, 10**7) == 1


def test_time_left_of_a_run_of_steps(now):
    clock = RunClock()
    clock.on_train_begin(None, state(), control())
    assert clock.seconds_left(0, 10) is None
    now.seconds += 8
    assert clock.seconds_left(4, 10) == pytest.approx(12)


def test_seconds_go_through_a_checkpoint(now):
    first = RunClock(budget_seconds=60)
    first.on_train_begin(None, state(), control())
    now.seconds += 20
    saved = first.state()
    now.seconds += 1000  # the machine was off
    second = RunClock(budget_seconds=60)
    second.on_train_begin(None, state(7, saved), control())
    now.seconds += 10
    assert second.seconds == pytest.approx(30)
    fresh = RunClock(budget_seconds=60)  # a trainer that is used again from step 0 starts anew
    fresh.on_train_begin(None, state(0, saved), control())
    assert fresh.seconds == 0


def test_a_run_that_is_over_is_stopped_before_another_step(now):
    saved = {"attributes": {"used_before": 60.0}}
    for clock, step, over in (
        (RunClock(), 9, False),
        (RunClock(), 10, True),
        (RunClock(budget_seconds=60), 3, True),
        (RunClock(budget_seconds=61), 3, False),
        (RunClock(budget_seconds=60), 0, False),  # begun anew
    ):
        told = control()
        clock.on_train_begin(None, state(step, saved), told)
        assert told.should_training_stop == over


def test_time_that_is_not_training_is_not_counted(now):
    clock = RunClock(budget_seconds=60)
    with clock.standing_still():  # before it runs, nothing is to be held
        now.seconds += 5
    clock.on_train_begin(None, state(), control())
    now.seconds += 10
    with clock.standing_still():
        now.seconds += 300
    now.seconds += 10
    assert clock.seconds == clock.seconds_here == 20


def test_stops_before_the_step_that_would_outlast_the_budget(now):
    clock = RunClock(budget_seconds=10)
    clock.on_train_begin(None, state(), control())
    for step in itertools.count(1):
        clock.on_step_begin(None, state(step), control())
        now.seconds += 3
        wishes = control()
        clock.on_step_end(None, state(step), wishes)
        if wishes.should_training_stop:
            break
    assert step == 3
    assert clock.seconds == 9
    assert wishes.should_save


@given(
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
    warmup=st.floats(0, 0.99),
    progress=st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
)
def test_shape_of_the_rate(schedule, warmup, progress):
    factor = rate_factor(schedule, warmup)
    before, after = factor(progress[0]), factor(progress[1])
    assert 0 <= before <= 1
    assert 0 <= after <= 1
    if progress[1] < warmup:
        assert before <= after
    elif progress[0] >= warmup:
        assert before >= after - 1e-12


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("num_steps", [1, 2, 9])
def test_a_warm_up_shorter_than_a_step_is_none(schedule, num_steps):
    factor = rate_factor(schedule, 0.1)
    assert factor(0.0, num_steps) == 1
    assert factor(0.0, 10) == factor(0.0) == 1e-3
    assert factor(0.5, 10) == factor(0.5)


@pytest.mark.parametrize(("schedule", "end"), [("cosine", 0), ("linear", 0), ("constant", 1)])
def test_peak_and_end_of_the_rate(schedule, end):
    factor = rate_factor(schedule, 0.1)
    assert factor(0.1) == 1
    assert factor(0.0) > 0  # the first step learns something
    assert factor(1.0) == pytest.approx(end)
    assert rate_factor(schedule, 0.0)(0.0) == 1
