"""What a vision tower gives that no step changes: computed without gradients, outside of the model's own forward.

Pictures that the tower has seen before need not pass it again: their features come with the batch (see `vision_cache`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput

from boxtune.models.bare import bare_model


@dataclass(frozen=True)
class Picture:
    """What is known of one picture of a batch besides its pixels or features.

    Attributes:
        name: of its content.
        grid_thw: frames, rows and columns of patches.
        num_tokens: that it has in the language model.
        image_hw: size of the upright image in pixels.
        is_kept: whether its features come with the batch, and its pixels do not.
        damage: why features that are on disk could not be used; empty where that is not so.
    """

    name: str
    grid_thw: tuple[int, int, int]
    num_tokens: int
    image_hw: tuple[int, int]
    is_kept: bool
    damage: str = ""


@dataclass
class VisionFeatures(ModelOutput):
    """What the models' forward reads of a vision tower's output: a tensor `[tokens, hidden]` for each picture.

    Attributes:
        pooler_output: of the merger.
        deepstack_features: of each deepstack merger (Qwen3-VL); None for families without.
    """

    pooler_output: tuple[torch.Tensor, ...] | None = None
    deepstack_features: list[tuple[torch.Tensor, ...]] | None = None


def is_frozen(model: Any) -> bool:
    """Whether no parameter of the vision tower and its mergers is trained, so that nothing before them can be.

    Args:
        model: of transformers, or a PeftModel around it.
    """
    return not any(parameter.requires_grad for parameter in bare_model(model).model.visual.parameters())


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
        features = bare_model(model).model.get_image_features(
            inputs.pop("pixel_values"), inputs["image_grid_thw"], return_dict=True
        )
    return {**inputs, "mm_encoder_outputs": {"image": features}}


def joined_features(
    model: Any, inputs: Mapping[str, Any], pictures: Sequence[Picture], kept: torch.Tensor | None
) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor | None]:
    """As `frozen_features`, of a batch some of whose pictures bring their features along.

    Args:
        model: of transformers, or a PeftModel around it.
        inputs: of the model's forward, with `pixel_values` of those pictures that are new, if any is.
        pictures: all of the batch, in order.
        kept: `[layers, tokens, hidden]`, features of the others, one after the other.

    Returns:
        The inputs; the features `[layers, tokens, hidden]` of all pictures in order; those of the new ones, if any.
    """
    inputs = dict(inputs)
    pixels = inputs.pop("pixel_values", None)
    new = None
    if pixels is not None:
        grids = [picture.grid_thw for picture in pictures if not picture.is_kept]
        new = tower_features(model, pixels, torch.tensor(grids).to(pixels.device, non_blocking=True))
    features = _in_order(pictures, new, kept)
    sizes = [picture.num_tokens for picture in pictures]
    first, *deep = (torch.split(layer, sizes) for layer in features)
    inputs["mm_encoder_outputs"] = {"image": VisionFeatures(first, deep or None)}
    return inputs, features, new


def tower_features(model: Any, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
    """`[layers, tokens, hidden]` of some pictures: the merger's output, then those of the deepstack mergers.

    Args:
        model: of transformers, or a PeftModel around it.
        pixel_values: `[patches, …]` of all pictures.
        image_grid_thw: `[pictures, 3]`.
    """
    with torch.no_grad():
        outputs = bare_model(model).model.get_image_features(pixel_values, image_grid_thw, return_dict=True)
    layers = [outputs.pooler_output, *(getattr(outputs, "deepstack_features", None) or ())]
    return torch.stack([torch.cat(layer) for layer in layers])


def _in_order(pictures: Sequence[Picture], new: torch.Tensor | None, kept: torch.Tensor | None) -> torch.Tensor:
    if kept is None or new is None:
        features = new if kept is None else kept
        assert features is not None
        return features
    parts = {
        is_kept: iter(source.split([p.num_tokens for p in pictures if p.is_kept == is_kept], dim=1))
        for is_kept, source in ((False, new), (True, kept))
    }
    return torch.cat([next(parts[picture.is_kept]) for picture in pictures], dim=1)
