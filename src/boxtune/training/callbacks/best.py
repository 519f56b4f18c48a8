"""Which weights of a run were the best on the watched images, and whether it still gets better."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from boxtune.console import say
from boxtune.training.callbacks.checkpoints import checkpoint_folder, checkpoints
from boxtune.training.kept import kept_attributes

KEPT: Final = ("watched", "best_map", "best_step", "num_without_gain", "num_evaluations")
"""Attributes that a checkpoint keeps."""


class BestCallback(TrainerCallback, ExportableState):
    """Keeps the checkpoint with the best AP, and ends a run that has not become better for a while.

    Of equal ones the later is the best, since it was trained for longer; it is no gain that `patience` would wait for.
    What is known goes through checkpoints. It is forgotten where other images are watched now, or where the best
    checkpoint has gone.

    Args:
        keep: save a checkpoint of each new best, for the end of the run.
        patience: evaluations without a gain until the run is ended, counted once AP is above 0; None: never ended.
        watched: fingerprint of the watched images.
        console: is told why the run ends.
    """

    def __init__(self, *, keep: bool, patience: int | None, watched: str, console: Console | None = None) -> None:
        self.keep, self.patience, self.watched, self.console = keep, patience, watched, console
        self.best_map: float | None = None
        self.best_step: int | None = None
        self.num_without_gain = 0
        self.num_evaluations = 0

    @property
    def kept_step(self) -> int | None:
        """The step whose checkpoint must stay."""
        return self.best_step if self.keep else None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "args": {"keep": self.keep, "patience": self.patience, "watched": self.watched},
            "attributes": {name: getattr(self, name) for name in KEPT},
        }

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up what the sittings before have found."""
        known = kept_attributes(self, state)
        if not known or known["watched"] != self.watched:
            return
        if self.keep and known["best_step"] is not None:
            assert args.output_dir is not None
            if checkpoint_folder(Path(args.output_dir), known["best_step"]) not in checkpoints(Path(args.output_dir)):
                return
        for name, value in known.items():
            setattr(self, name, value)
        if self.patience is not None and self.num_without_gain >= self.patience:
            self.num_without_gain = 0  # it had run out, and the user goes on nevertheless

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Compare, and ask for a checkpoint or for the end."""
        found = (metrics or {}).get("eval_map")
        if found is None:
            return
        self.num_evaluations += 1
        best = -1.0 if self.best_map is None else self.best_map
        self.num_without_gain = 0 if found > best or found == 0 else self.num_without_gain + 1
        if found >= best:
            self.best_map, self.best_step = found, state.global_step
            control.should_save = control.should_save or self.keep
        if self.patience is not None and self.num_without_gain >= self.patience and not control.should_training_stop:
            control.should_save = control.should_training_stop = True
            if self.console is not None and state.is_world_process_zero:
                say(
                    self.console,
                    f"Ended at step {state.global_step}: no gain in AP for {self.patience} evaluations "
                    "(trainer.early_stopping_patience).",
                )
