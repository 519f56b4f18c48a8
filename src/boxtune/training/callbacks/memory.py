"""What the first steps really took of a GPU's memory, beside what was estimated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boxtune.training.curves import Curves

_LOOKED_AFTER = 3  # steps: the first one compiles, the optimizer's state appears with it
_OFF = 0.25


class MemoryCallback(TrainerCallback):
    """Says once what was measured, and logs `memory/peak_gib`, the most so far, and `memory/held_gib` between steps.

    Args:
        estimated_bytes: of a step.
        say: where lines go.
        curves: where the figures go; they also go to the trainer's history.
    """

    def __init__(self, estimated_bytes: int, say: Callable[[str], None], curves: Curves) -> None:
        self.estimated_bytes, self.say, self.curves = estimated_bytes, say, curves
        self.measured_bytes: int | None = None
        self._steps = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget what loading took."""
        if args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(args.device)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look once, after the first steps."""
        self._steps += 1
        if self._steps != _LOOKED_AFTER or args.device.type != "cuda":
            return
        self.measured_bytes = measured = torch.cuda.max_memory_allocated(args.device)
        off = measured / max(self.estimated_bytes, 1) - 1
        note = "" if abs(off) <= _OFF else "; set collator.token_budget or model.memory by hand"
        self.say(
            f"Memory: {measured / 2**30:.1f} GiB measured, {self.estimated_bytes / 2**30:.1f} GiB estimated "
            f"({off:+.0%}){note}"
        )

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Write down what is taken now."""
        if args.device.type == "cuda" and "loss" in (logs or {}):
            peak, held = torch.cuda.max_memory_allocated(args.device), torch.cuda.memory_allocated(args.device)
            self.curves.add_beside({"memory/peak_gib": peak / 2**30, "memory/held_gib": held / 2**30}, state)
