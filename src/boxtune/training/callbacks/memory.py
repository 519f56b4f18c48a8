"""What the first steps really took of a GPU's memory, beside what was estimated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_LOOKED_AFTER = 3  # steps: the first one compiles, the optimizer's state appears with it
_OFF = 0.25


class MemoryCallback(TrainerCallback):
    """Says once what was measured.

    Args:
        estimated_bytes: of a step.
        say: where lines go.
    """

    def __init__(self, estimated_bytes: int, say: Callable[[str], None]) -> None:
        self.estimated_bytes, self.say = estimated_bytes, say
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
