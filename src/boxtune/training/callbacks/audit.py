"""The first step's gradients are looked at once: whatever should learn gets one, whatever is frozen gets none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boxtune.errors import ModelError
from boxtune.models.detection_head.attached import NAME as HEAD
from boxtune.training.sharding import local


class AuditCallback(TrainerCallback):
    """Ends a run in its first step when an area does not learn, which no loss curve would tell.

    Args:
        is_resting: whether a parameter is frozen in the phase that the run is in, so that it needs no gradient.
    """

    def __init__(self, is_resting: Callable[[object], bool] = lambda _: False) -> None:
        self.is_resting = is_resting
        self.done = False

    def look_again(self) -> None:
        """At the next step: a phase has woken parameters."""
        self.done = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Look at the gradients of the whole step, all of its batches together.

        Raises:
            ModelError: names the first parameters that are not as they should be.
        """
        if self.done or args.deepspeed_plugin is not None:  # it holds gradients elsewhere
            return
        if all(parameter.grad is None for parameter in model.parameters()):
            return  # a step that is dropped; some would have one after any backward pass
        self.done = True
        check_gradients(model, new=state.global_step == 0, is_resting=self.is_resting)


def check_gradients(model: Any, *, new: bool, is_resting: Callable[[object], bool] = lambda _: False) -> None:
    """Every trained parameter has a gradient, no frozen one has.

    Args:
        model: after the backward pass of a step.
        new: nothing was trained yet. A gradient of zeros is then as bad as none, but for LoRA's A and a detection
            head: A's gradient passes through B, which starts at zero, as the head's adapters end in zeros; and images
            without objects have no boxes or labels to learn. (Later, or where all are zero, there may be nothing left
            to learn.)
        is_resting: parameters that are frozen for now count as neither.

    Raises:
        ModelError: names the first parameters that are not as they should be.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad and not is_resting(p)]
    if missing := [name for name, parameter in trained if parameter.grad is None]:
        raise ModelError(
            f"{_some(missing)} of {len(trained)} got no gradient in the first step: nothing that the loss sees goes "
            "through them. Freeze their area (adapter.…=frozen), or report the model family."
        )
    leaking = [n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    if leaking:
        raise ModelError(f"{_some(leaking)} got a gradient in the first step although frozen: report this.")
    if not new:
        return
    due = [(name, p.grad) for name, p in trained if ".lora_A." not in name and not name.startswith(HEAD + ".")]
    if not due:
        return
    counts = torch.stack([local(gradient).count_nonzero() for _, gradient in due])
    if any(local(gradient) is not gradient for _, gradient in due):  # the others have the rest of it
        distributed.all_reduce(counts)
    learning = counts.tolist()  # one wait for the GPU
    silent = [name for (name, _), count in zip(due, learning, strict=True) if not count]
    if 0 < len(silent) < len(due):
        raise ModelError(
            f"{_some(silent)} of {len(trained)} got a gradient of zeros in the first step: they would never learn. "
            "Freeze their area (adapter.…=frozen), or report the model family."
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return f"{len(names)} parameters ({shown}{' …' if len(names) > 3 else ''})"
