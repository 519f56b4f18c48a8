"""A run whose loss is no number any more is ended: nothing that follows can be of use."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boxtune.errors import ConfigError


class DivergenceCallback(TrainerCallback):
    """Looks at the logged losses, which costs no extra wait for the GPU; the last ones are in the summary's mean."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Refuse to go on with a loss that is not finite.

        Raises:
            ConfigError: names the step and what to try.
        """
        for name in ("loss", "train_loss"):
            value = (logs or {}).get(name, 0.0)
            if not math.isfinite(value):
                raise ConfigError(
                    f"The loss became {value} by step {state.global_step}: lower trainer.learning_rate (now "
                    f"{args.learning_rate:g}) or trainer.max_grad_norm, and start again in another --output-dir."
                )
