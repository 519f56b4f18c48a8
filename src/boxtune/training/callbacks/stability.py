"""When snapshots are taken, when weights are looked at, and how a run ends that does not recover."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from boxtune.training.callbacks.interrupt import InterruptCallback
from boxtune.training.curves import Curves
from boxtune.training.kept import kept_attributes
from boxtune.training.stability import FAULTS_FILE, Stability


class StabilityCallback(TrainerCallback, ExportableState):
    """Belongs behind all callbacks that may save, evaluate or end the run: what they use is looked at first.

    The lowered rates and the number of faults are part of the checkpoint.

    Args:
        stability: judges the steps.
        curves: get `faults`, their number so far, once there are some.
        interrupt: a run that is ended by a signal goes on later, with whatever troubles it.
    """

    def __init__(self, stability: Stability, curves: Curves, interrupt: InterruptCallback) -> None:
        self.stability, self.curves, self.interrupt = stability, curves, interrupt

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": dataclasses.asdict(self.stability.state)}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Take up what the sittings before have lowered, and the first snapshot."""
        if kept := kept_attributes(self, state):
            self.stability.take_up(kept)
        self.stability.verify(optimizer, state.global_step)
        self.stability.take_snapshot(optimizer, state.global_step)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Look at the weights where somebody will use them; end the run where it does not recover."""
        stability, step = self.stability, state.global_step
        due = stability.snapshot_steps is not None and step % stability.snapshot_steps == 0
        last = control.should_training_stop or step >= state.max_steps
        if due or last or control.should_save or control.should_evaluate:
            stability.verify(optimizer, step)
        if due:
            stability.take_snapshot(optimizer, step)
        if last and self.interrupt.received is None:
            stability.end(optimizer)
        if stability.stopped:
            control.should_save = control.should_training_stop = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Count."""
        if "loss" in (logs or {}) and self.stability.num_faults:
            self.curves.add_beside({"faults": float(self.stability.num_faults)}, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say how many there were."""
        if self.stability.num_faults:
            self.stability.say(f"{self.stability.num_faults} faults in this run, all are in {FAULTS_FILE}.")
