"""A progress bar with loss, learning rate, images a second and time left; plain lines where there is no terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boxtune.console import say
from boxtune.evaluation.summary import format_share
from boxtune.training.clock import RunClock

_SECONDS_BETWEEN_LINES = 15.0


class ProgressCallback(TrainerCallback):
    """Shows how the run goes.

    Args:
        clock: of the run.
        console: where to write.
        images_per_step: over all processes and accumulated batches.
    """

    def __init__(self, clock: RunClock, console: Console, images_per_step: float) -> None:
        self.clock, self.console, self.images_per_step = clock, console, images_per_step
        self.loss: float | None = None  # nothing is logged yet
        self.rate = 0.0
        self.is_new = False  # no line has told of this loss
        self.watched = ""  # nothing is looked at yet
        self.bar: Progress | None = None
        self.first_step = 0
        self.last_line = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar."""
        self.first_step = state.global_step
        if self.console.is_terminal and state.is_world_process_zero:
            self.bar = Progress(
                TextColumn("[bold]train"),
                BarColumn(bar_width=None),  # what the words leave of the line
                TextColumn("{task.fields[words]}"),
                console=self.console,
                expand=True,
            )
            self.task = self.bar.add_task("train", total=1.0, words="")
            self.bar.start()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Keep the newest loss and rate."""
        self.is_new = self.is_new or "loss" in (logs or {})
        self.loss = (logs or {}).get("loss", self.loss)
        self.rate = (logs or {}).get("learning_rate", self.rate)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """A line for each look at the watched images, and its AP beside the loss from then on."""
        found = metrics or {}
        ap, ap50, iou, parsed = (
            format_share(found.get(f"eval_{name}")) for name in ("map", "map50", "mean_iou", "parse_rate")
        )
        self.watched = f" AP {ap}"
        if state.is_world_process_zero:
            say(self.console, f"watch step {state.global_step}: AP {ap} AP50 {ap50} mean IoU {iou} parsed {parsed}")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar, or write a line now and then."""
        if not state.is_world_process_zero:
            return
        progress = self.clock.progress(state.global_step, state.max_steps)
        if self.bar is not None:
            self.bar.update(self.task, completed=progress, words=self._words(state, self.loss))
        elif time.monotonic() - self.last_line > _SECONDS_BETWEEN_LINES or control.should_training_stop:
            self.last_line = time.monotonic()
            words = self._words(state, self.loss if self.is_new else None)
            say(self.console, f"train {progress:4.0%} {words}")
            self.is_new = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _words(self, state: TrainerState, loss: float | None) -> str:
        steps = state.global_step - self.first_step
        speed = steps * self.images_per_step / max(1e-9, self.clock.seconds_here)
        left = self.clock.seconds_left(state.global_step, state.max_steps)
        time_left = "?" if left is None else f"{int(left) // 60}:{int(left) % 60:02d}"
        learned = "" if loss is None else f"loss {loss:.4f} lr {self.rate:.1e} "
        return f"step {state.global_step} {learned}{speed:.1f} img/s left {time_left}{self.watched}"
