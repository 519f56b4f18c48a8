"""The learning rate of each group of parameters, beside the loss of the same step."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boxtune.training.curves import Curves
from boxtune.training.rates import Rates


class RatesCallback(TrainerCallback):
    """Logs `rate/GROUP`.

    Args:
        rates: of the run.
        curves: where the figures go; they also go to the trainer's history.
    """

    def __init__(self, rates: Rates, curves: Curves) -> None:
        self.rates, self.curves = rates, curves

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Note what the step is taken with."""
        self.rates.note(optimizer)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Write them down."""
        if "loss" in (logs or {}):
            self.curves.add_beside({f"rate/{group}": rate for group, rate in self.rates.of_step.items()}, state)
