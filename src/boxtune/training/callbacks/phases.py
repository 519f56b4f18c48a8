"""Groups of parameters that rest in a phase of the run, put to rest and woken between two steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boxtune.training.clock import RunClock
from boxtune.training.phases import Phases


class PhaseCallback(TrainerCallback):
    """Follows the phases, which the learning rates advance; belongs behind the clock.

    Args:
        phases: of the run.
        clock: tells a resumed run how far it is.
        say: is told of each phase, where there are several.
        on_change: called where groups were put to rest or woken.
    """

    def __init__(
        self, phases: Phases, clock: RunClock, say: Callable[[str], None], on_change: Callable[[], None]
    ) -> None:
        self.phases, self.clock, self.say, self.on_change = phases, clock, say, on_change
        self._said: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the phase that the sitting before ended in."""
        self.phases.advance(self.clock.progress(state.global_step, state.max_steps))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a phase."""
        if self.phases.apply():
            self.on_change()
        if len(self.phases.phases) > 1 and self.phases.index != self._said:
            self._said = self.phases.index
            self.say(f"Phase {self.phases}; from step {state.global_step + 1}")
