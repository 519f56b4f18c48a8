"""Several processes end a step in the same way: what one of them decides, all do."""

from __future__ import annotations

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boxtune.training.callbacks.interrupt import InterruptCallback


class AgreementCallback(TrainerCallback):
    """Makes a stop, a checkpoint and a signal of one process those of all; belongs behind all other callbacks.

    Each process has a clock of its own, and a signal may come to one alone. A process that saved or stopped while the
    others went on would leave them waiting for its part of the next step.

    Args:
        interrupt: knows of signals.
    """

    def __init__(self, interrupt: InterruptCallback) -> None:
        self.interrupt = interrupt

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Compare."""
        self._agree(args, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Compare: a signal that came meanwhile ends the run."""
        self._agree(args, control)

    def _agree(self, args: TrainingArguments, control: TrainerControl) -> None:
        if args.world_size == 1:
            return
        here = [control.should_save, control.should_training_stop, self.interrupt.received or 0]
        wishes = torch.tensor([int(wish) for wish in here], device=args.device)
        distributed.all_reduce(wishes, op=distributed.ReduceOp.MAX)
        save, stop, received = wishes.tolist()
        control.should_save, control.should_training_stop = bool(save), bool(stop)
        self.interrupt.received = received or None
