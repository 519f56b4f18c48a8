"""Hidden states and vision embeddings of a forward pass, taken while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from boxtune.models.bare import bare_model


@dataclass
class Features:
    """What the last forward pass left: `hidden` `[B, L, H]`, behind the layers that are asked for, and `vision`
    `[tokens, H]`.

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
def tapped(model: Any, language_layers: int | None = None) -> Iterator[Features]:
    """Keep what passes, with its gradients, inside the `with`: no second pass, no states of other layers.

    Args:
        model: a Qwen-VL of transformers with its language model's head, or a PeftModel around one.
        language_layers: that the hidden states have gone through; None: all, and the last norm.
    """
    base = bare_model(model)
    features = Features()
    next_layer = layer_behind(base, language_layers)
    assert getattr(next_layer, "_compiled_call_impl", None) is None, "a hook on a compiled module may not be called"

    def keep_hidden(_module: Any, _args: Any, output: Any) -> None:
        features.hidden = output.last_hidden_state

    def keep_entering(_module: Any, args: Any) -> None:
        features.hidden = args[0]

    def keep_vision(_module: Any, _args: Any, output: Any) -> None:
        features.vision = output.pooler_output

    hooks = [
        # in front of the next layer: Qwen3-VL adds to the states of an image between its first layers
        base.model.language_model.register_forward_hook(keep_hidden)
        if next_layer is None
        else next_layer.register_forward_pre_hook(keep_entering),
        base.model.visual.register_forward_hook(keep_vision),
    ]
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()


def layer_behind(model: Any, language_layers: int | None) -> nn.Module | None:
    """The layer of the language model that gets what the head reads; None where that is the state behind the last one.

    Its forward is watched, so it is to be left out where blocks are compiled.

    Args:
        model: a Qwen-VL of transformers, or a PeftModel around one.
        language_layers: of the head's configuration.
    """
    return None if language_layers is None else bare_model(model).model.language_model.layers[language_layers]
