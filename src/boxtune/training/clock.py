"""How far a run is, by steps or by time, and the learning rate that follows from it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from boxtune import processes
from boxtune.training.kept import kept_attributes


class RunClock(TrainerCallback, ExportableState):
    """Progress of a run from 0 to 1: steps done of all, or seconds used of a budget.

    With a budget the run ends before the step that would outlast it, and the learning rate falls with the time used,
    so that it has come down when the time is over, however fast the machine is. Such a run is not repeatable to the
    bit. The seconds used are part of the checkpoint.
    """

    def __init__(self, budget_seconds: float | None = None) -> None:
        self.budget_seconds = budget_seconds
        self.used_before = 0.0
        self.started: float | None = None
        self.step_seconds = 0.0
        self._step_started = 0.0
        self._agreed_seconds: float | None = None  # of several processes

    @property
    def seconds(self) -> float:
        """Time used, over all sittings."""
        return self.used_before + (time.monotonic() - self.started if self.started is not None else 0.0)

    @property
    def seconds_here(self) -> float:
        """Time used in this sitting."""
        return self.seconds - self.used_before

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Time inside is not counted: the budget is for training alone."""
        began = time.monotonic()
        try:
            yield
        finally:
            if self.started is not None:
                self.started += time.monotonic() - began

    def progress(self, step: int, num_steps: int) -> float:
        """Share of the run that is done."""
        if self.budget_seconds is not None:
            used = self.seconds if self._agreed_seconds is None else self._agreed_seconds
            return min(1.0, used / self.budget_seconds)
        return min(1.0, step / max(1, num_steps))

    def seconds_left(self, step: int, num_steps: int) -> float | None:
        """Estimate of the time that remains, None before the first step."""
        if self.budget_seconds is not None:
            return max(0.0, self.budget_seconds - self.seconds)
        return self.seconds / step * (num_steps - step) if step else None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {"budget_seconds": self.budget_seconds}, "attributes": {"used_before": self.seconds}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up the seconds of the sittings before."""
        if kept := kept_attributes(self, state):
            self.used_before = float(kept["used_before"])
        if state.global_step and self.progress(state.global_step, state.max_steps) >= 1:
            control.should_training_stop = True  # the sitting before was ended after its last step, see the trainer
        self.started = time.monotonic()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the step's time; what it is by the first process's watch gives all of them the same rates and phase."""
        if self.budget_seconds is not None and processes.count() > 1:
            self._agreed_seconds = broadcast_object_list([self.seconds])[0]
        self._step_started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop when the next step would not end within the budget."""
        last = time.monotonic() - self._step_started
        self.step_seconds = last if self.step_seconds == 0 else 0.8 * self.step_seconds + 0.2 * last
        if self.budget_seconds is not None and self.seconds + self.step_seconds > self.budget_seconds:
            control.should_training_stop = True
            control.should_save = True


def warms_up(num_steps: int, warmup_fraction: float) -> bool:
    """Whether a warm-up lasts a step or longer; a shorter one would only waste the first step."""
    return num_steps * warmup_fraction >= 1


def rate_factor(schedule: str, warmup_fraction: float) -> Callable[[float, int | None], float]:
    """Progress 0–1 → factor of the learning rate: a linear rise, then cosine or linear to 0, or constant.

    Where the number of steps is given too, a rise that would last less than a step is left out.
    """

    def factor(progress: float, num_steps: int | None = None) -> float:
        rise = warmup_fraction if num_steps is None or warms_up(num_steps, warmup_fraction) else 0.0
        if progress < rise:
            return max(1e-3, progress / rise)
        rest = (progress - rise) / (1 - rise)
        if schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * rest))
        return 1 - rest if schedule == "linear" else 1.0

    return factor
