"""Figures and pictures beside those that transformers logs: in TensorBoard and in Weights & Biases, under our names.

transformers puts `train/` before every name that it logs; these keep theirs, so `grad_norm/…` is a group of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers import TrainerCallback, TrainerState
from transformers.integrations import TensorBoardCallback


class Curves:
    """Writes to whatever the run logs to; to nothing where it logs nowhere.

    Args:
        callbacks: of the trainer; transformers' own for TensorBoard holds the writer.
        wandb: whether the run is logged there.
    """

    def __init__(self, callbacks: Sequence[TrainerCallback] = (), *, wandb: bool = False) -> None:
        self._boards = [callback for callback in callbacks if isinstance(callback, TensorBoardCallback)]
        self._wandb = wandb

    def add_figures(self, figures: Mapping[str, float], step: int) -> None:
        """One point of each curve."""
        for writer in self._writers():
            for name, value in figures.items():
                writer.add_scalar(name, value, step)
        if (run := self._run()) is not None:
            run.log({**figures, "train/global_step": step})

    def add_beside(self, figures: Mapping[str, float], state: TrainerState) -> None:
        """Figures of the step that transformers has just logged: into the same row of its history, and as curves."""
        state.log_history[-1].update(figures)
        if state.is_world_process_zero:
            self.add_figures(figures, state.global_step)

    def add_pictures(self, pictures: Mapping[str, Image.Image], step: int) -> None:
        """RGB pictures; the same name at a later step is the same picture later."""
        for writer in self._writers():
            for name, picture in pictures.items():
                writer.add_image(name, np.asarray(picture), step, dataformats="HWC")
            writer.flush()
        if (run := self._run()) is not None:
            import wandb

            shown = {name: wandb.Image(picture) for name, picture in pictures.items()}
            run.log({**shown, "train/global_step": step})

    @property
    def is_drawn(self) -> bool:
        """Whether anything comes of pictures."""
        return bool(self._writers()) or self._run() is not None

    def _writers(self) -> list[Any]:
        return [board.tb_writer for board in self._boards if board.tb_writer is not None]

    def _run(self) -> Any:
        """The run that transformers' callback has begun; None in every process but the first."""
        if not self._wandb:
            return None
        import wandb

        return wandb.run
