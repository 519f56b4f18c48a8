"""What the steps since the last log have added to the next one goes through checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from boxtune.training.kept import kept_attributes

if TYPE_CHECKING:
    from boxtune.training.trainer import DetectionTrainer


class UnloggedCallback(TrainerCallback, ExportableState):
    """A resumed run logs the losses of an unbroken one: each is a mean over an interval, which may have begun before.

    transformers forgets them (`Trainer._inner_training_loop` of 5.18 to 5.23 begins `_tr_loss` anew). Of several
    processes only the first writes, and knows no sums but its own; there the first interval begins with the sitting.

    Args:
        trainer: whose sums they are.
    """

    def __init__(self, trainer: DetectionTrainer) -> None:
        self.trainer = trainer

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        trainer = self.trainer
        if trainer.accelerator.num_processes > 1 or not hasattr(trainer, "_tr_loss"):  # before the first sitting
            return {"args": {}, "attributes": {}}
        kept = {"loss_sum": trainer._tr_loss.item(), "logged_step": trainer._globalstep_last_logged}
        return {"args": {}, "attributes": kept | {"terms": trainer.terms.state()}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on with the interval."""
        kept = kept_attributes(self, state)
        if not kept:
            return
        self.trainer._tr_loss += kept["loss_sum"]
        self.trainer._globalstep_last_logged = kept["logged_step"]
        self.trainer.terms.take_up(kept["terms"], args.device)
