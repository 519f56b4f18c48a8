"""Hidden states and vision embeddings of a forward pass, taken while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from boxtune.models.bare import bare_model


@dataclass
class Features:
    """What the last forward pass left: `hidden` `[B, L, H]`, after the last norm, and `vision` `[tokens, H]`.

    `vision` are the merged tokens of all images, each image row by row. It is the vision tower's output, not that of
    its merger, which in Qwen2.5-VL is still in the order of attention windows.
    """

    hidden: torch.Tensor | None = None
    vision: torch.Tensor | None = None

    @property
    def both(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`hidden` and `vision`, once the model has run on images."""
        assert self.hidden is not None
        assert self.vision is not None
        return self.hidden, self.vision


@contextmanager
def tapped(model: Any) -> Iterator[Features]:
    """Keep what passes, with its gradients, inside the `with`: no second pass, no states of other layers.

    Args:
        model: a Qwen-VL of transformers with its language model's head, or a PeftModel around one.
    """
    base = bare_model(model)
    features = Features()

    def keep_hidden(_module: Any, _args: Any, output: Any) -> None:
        features.hidden = output.last_hidden_state

    def keep_vision(_module: Any, _args: Any, output: Any) -> None:
        features.vision = output.pooler_output

    hooks = [
        base.model.language_model.register_forward_hook(keep_hidden),
        base.model.visual.register_forward_hook(keep_vision),
    ]
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()
