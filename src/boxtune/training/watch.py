"""The model in training, asked about the watched images."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from rich.console import Console

from boxtune.console import say
from boxtune.data.dataset import DetectionDataset
from boxtune.errors import ModelError
from boxtune.evaluation.evaluate import Evaluation, evaluate
from boxtune.inference.detector import Decoder, Detector
from boxtune.models.load import LoadedModel
from boxtune.training.interlude import as_loaded, interlude

SHOWN_FIGURES = ("map", "map50", "mean_iou", "mean_iou_all", "parse_rate")


class Watch:
    """Evaluates the live weights on a few images, as at the end of a run; several processes share them.

    No logits are kept. Where a batch does not fit beside what training holds in memory, it is halved, for good.

    Args:
        loaded: the model that is trained, with processor and the contract of the run.
        samples: the watched images.
        batch_size: images a forward pass.
        console: is told of smaller batches.
        decoder: text, head or both.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        samples: DetectionDataset,
        batch_size: int,
        console: Console,
        decoder: Decoder = "text",
    ) -> None:
        self.decoder: Decoder = decoder
        self.loaded, self.samples, self.batch_size, self.console = loaded, samples, batch_size, console
        self.last: Evaluation | None = None
        self.seconds_spent = self.last_seconds = 0.0
        self.looking: Callable[[], AbstractContextManager[None]] = nullcontext  # what may end a look stands around it

    def look(self, model: Any) -> dict[str, float]:
        """Figures under the names of `Metrics`, those that there are, each after `eval_`; also `eval_seconds`.

        Args:
            model: with the weights of now, not wrapped for several processes.

        Raises:
            ModelError: not even one image fits into memory.
        """
        began = time.monotonic()
        with interlude(model), as_loaded(model):
            self.last = self._evaluate(dataclasses.replace(self.loaded, model=model, trained_here=True))
        self.last_seconds = time.monotonic() - began
        self.seconds_spent += self.last_seconds
        metrics = self.last.metrics
        figures = {f"eval_{name}": getattr(metrics, name) for name in SHOWN_FIGURES}
        known = {name: float(value) for name, value in figures.items() if value is not None}
        return known | {"eval_seconds": self.last_seconds}

    def _evaluate(self, trained: LoadedModel) -> Evaluation:
        while True:
            try:
                detector = Detector(trained, batch_size=self.batch_size, decoder=self.decoder)
                return evaluate(detector, self.samples, details=True, shared=True, around=self.looking)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise ModelError(
                        "The watched images do not fit into memory beside the training, not even one by one: set "
                        "evaluation.every=none, or lower model.max_pixels."
                    ) from None
            # here, where the exception no longer holds the tensors of what did not fit
            torch.cuda.empty_cache()
            self.batch_size = max(1, self.batch_size // 2)
            say(self.console, f"Out of memory while watching: {self.batch_size} images at a time from now on.")
