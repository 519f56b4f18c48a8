"""A Trainer whose work is not lost: checkpoints appear whole, signals wait for them, errors leave one behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from boxtune.training.aside import UNFINISHED, publish, written_aside
from boxtune.training.callbacks.checkpoints import checkpoint_folder
from boxtune.training.callbacks.interrupt import InterruptCallback
from boxtune.training.callbacks.rescue import RescueCallback
from boxtune.training.damage import note_sizes
from boxtune.training.failures import is_about_saving


class DurableTrainer(Trainer):
    """As transformers' Trainer, but for how it ends.

    Attributes:
        complete: is given each checkpoint's folder before it gets its name, to put into it what else belongs there.
        interrupt: listens to signals.
    """

    def __init__(self, *args: Any, interrupt: InterruptCallback | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.complete: Callable[[Path], None] = lambda _: None
        self.interrupt = interrupt or InterruptCallback()
        self._rescue = RescueCallback()
        self._aside: str | None = None
        self.add_callback(self._rescue)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; an error in the middle of a step leaves a checkpoint of the steps before it.

        In several processes it does not: the others wait elsewhere.
        """
        try:
            return super().train(*args, **kwargs)
        except Exception as error:
            if self.accelerator.num_processes == 1 and not is_about_saving(error):
                self._save_before(error)
            raise

    def _save_before(self, error: Exception) -> None:
        try:
            if self._rescue.bring_back(self.state.global_step):
                self.forget_step()
                self.verify_weights()
                self._save_checkpoint(self.model, None)
                self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        except Exception as second:  # the first one is what has to be told
            error.add_note(f"The state before it could not be saved either ({second}).")

    def forget_step(self) -> None:
        """Called before the state is saved that was there before the step in hand."""

    def verify_weights(self) -> None:
        """Called after that: weights that are no good are not saved."""

    def _get_output_dir(self, trial: Any) -> str:
        return self._aside or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As `Trainer._save_checkpoint`; a checkpoint has its name only once it is whole, and no signal cuts it."""
        assert self.args.output_dir is not None
        home = Path(self.args.output_dir)
        name = checkpoint_folder(home, self.state.global_step).name
        with self.interrupt.saving(), written_aside(home, name) if self.args.should_save else nullcontext():
            self.accelerator.wait_for_everyone()
            self._aside = str(home / UNFINISHED)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._aside = None
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.complete(home / UNFINISHED / name)
                note_sizes(home / UNFINISHED / name)
                publish(home / UNFINISHED / name, home / name)
            self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """As `Trainer._save`, without its own arguments: a pickle, which would be run by whoever reads it."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            (Path(output_dir or self.args.output_dir or "") / TRAINING_ARGS_NAME).unlink(missing_ok=True)
