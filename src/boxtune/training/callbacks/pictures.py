"""The same few watched images with true and found boxes, over the course of a run."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boxtune.inference.draw import draw_detections, fit
from boxtune.training.curves import Curves
from boxtune.training.watch import Watch

_SIDE_PX = 640  # of a picture at most: event files hold all of them


class PicturesCallback(TrainerCallback):
    """Draws what the last evaluation found, for TensorBoard and Weights & Biases.

    Args:
        watch: the evaluations.
        curves: where the pictures go, as `watched/SAMPLE`.
        count: how many of the watched images are shown, the first ones.
    """

    def __init__(self, watch: Watch, curves: Curves, count: int) -> None:
        self.watch, self.curves, self.count = watch, curves, count

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Draw and send."""
        evaluation = self.watch.last
        if evaluation is None or not state.is_world_process_zero or not self.curves.is_drawn:
            return
        pictures = {}
        for index, seen in enumerate(evaluation.images[: self.count]):
            found = seen.prediction.result.detections
            image = self.watch.samples[index].image
            drawn = draw_detections(image, found, seen.truth, labels=evaluation.labels)
            pictures[f"watched/{seen.sample_id}"] = (
                fit(drawn, _SIDE_PX, _SIDE_PX) if max(drawn.size) > _SIDE_PX else drawn
            )
        self.curves.add_pictures(pictures, state.global_step)
