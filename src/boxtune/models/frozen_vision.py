"""What a vision tower gives that no step changes: computed without gradients, outside of the model's own forward."""

from __future__ import annotations

from typing import Any

import torch


def is_frozen(model: Any) -> bool:
    """Whether no parameter of the vision tower and its mergers is trained, so that nothing before them can be.

    Args:
        model: of transformers, or a PeftModel around it.
    """
    return not any(parameter.requires_grad for parameter in _bare(model).model.visual.parameters())


def frozen_features(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs with image features in the place of pixels, as `forward` takes them (`mm_encoder_outputs`).

    Whoever enables input gradients (`enable_input_require_grads`, as trainers do for gradient checkpointing) makes a
    frozen tower keep its activations and run a backward pass for nothing; not so here.

    Args:
        model: of transformers, or a PeftModel around it.
        inputs: of the model's forward, with `pixel_values` and `image_grid_thw`.
    """
    inputs = dict(inputs)
    with torch.no_grad():
        features = _bare(model).model.get_image_features(
            inputs.pop("pixel_values"), inputs["image_grid_thw"], return_dict=True
        )
    return {**inputs, "mm_encoder_outputs": {"image": features}}


def _bare(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
