"""When the watched images are looked at in the course of a run."""

from __future__ import annotations

import math
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boxtune.training.callbacks.interrupt import InterruptCallback
from boxtune.training.clock import RunClock
from boxtune.training.watch import Watch

AUTO_SHARE = 0.1  # of the run between two looks
_MOST_OF_TIME = 0.1  # of the time of training, where nothing hangs on a look
_FIRST_GUESS_SECONDS = 6.0  # what a look takes, before one was taken


class WatchCallback(TrainerCallback):
    """Asks the trainer for an evaluation when one is due; belongs behind all callbacks that may end the run.

    Args:
        watch: what an evaluation is, and what the ones before have cost.
        clock: of the run.
        interrupt: a run that is ended by a signal takes no last look.
        every: steps between two looks, or a share of the run, or `auto`.
        decisive: a look decides which weights are saved or when the run ends. So none is left out to save time, and
            the last step is looked at too.
    """

    def __init__(
        self, watch: Watch, clock: RunClock, interrupt: InterruptCallback, every: int | float | str, *, decisive: bool
    ) -> None:
        self.watch, self.clock, self.interrupt, self.decisive = watch, clock, interrupt, decisive
        self.steps = every if isinstance(every, int) else None
        self.share = AUTO_SHARE if isinstance(every, str) else float(every)
        self.thrifty = every == "auto" and not decisive
        self._shares_done = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See how far the sittings before have come."""
        self._shares_done = self._shares(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for an evaluation, after which the trainer saves and ends as it is told."""
        last = control.should_training_stop and self.interrupt.received is None
        due = self._is_due(state) or (self.decisive and last)
        if args.world_size > 1:
            due = broadcast_object_list([due])[0]  # each process has its own clock, and all must come
        if due:
            control.should_evaluate = True

    def _is_due(self, state: TrainerState) -> bool:
        if self.steps is not None:
            return state.global_step % self.steps == 0
        shares, before = self._shares(state), self._shares_done
        self._shares_done = shares
        return shares > before and (not self.thrifty or self._is_cheap())

    def _shares(self, state: TrainerState) -> int:
        progress = self.clock.progress(state.global_step, state.max_steps)
        return math.floor(progress / self.share + 1e-9)  # 0.3 / 0.1 is a little less than 3

    def _is_cheap(self) -> bool:
        next_seconds = self.watch.last_seconds or _FIRST_GUESS_SECONDS
        return self.watch.seconds_spent + next_seconds <= _MOST_OF_TIME * self.clock.seconds_here
