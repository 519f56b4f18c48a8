"""The terms of the loss as curves of one group, `loss/…`."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boxtune.training.curves import Curves

_PREFIX = "loss_"


class TermsCallback(TrainerCallback):
    """Draws what the trainer logs as `loss_TERM` under `loss/TERM`; the history has it under the first name.

    Args:
        curves: where the figures go.
    """

    def __init__(self, curves: Curves) -> None:
        self.curves = curves

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Pass on."""
        figures = {
            f"loss/{name.removeprefix(_PREFIX)}": value
            for name, value in (logs or {}).items()
            if name.startswith(_PREFIX)
        }
        if figures and state.is_world_process_zero:
            self.curves.add_figures(figures, state.global_step)
