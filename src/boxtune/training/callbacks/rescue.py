"""Whether an error in the middle of a step has left the steps before it whole, so that they can be saved."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boxtune.training.generators import Generators


class RescueCallback(TrainerCallback):
    """Keeps where the random generators were after each step; a step in hand has drawn from them already."""

    def __init__(self) -> None:
        self._generators: Generators | None = None
        self._is_whole = False  # between the optimizer's step and the end of ours, some weights may have moved
        self._saved_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What a resumed run begins with is saved."""
        self._saved_step = state.global_step
        self._is_whole = True

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From here on the step is neither the last one nor the next."""
        self._is_whole = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The step is whole."""
        self._generators = Generators()
        self._is_whole = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """It is on the disk."""
        self._saved_step = state.global_step

    def bring_back(self, step: int) -> bool:
        """Make the generators those of the end of the last step; False where it is saved already, or not whole.

        Args:
            step: the last one.
        """
        if not self._is_whole or step == self._saved_step or self._generators is None:
            return False
        self._generators.put_back()
        return True
