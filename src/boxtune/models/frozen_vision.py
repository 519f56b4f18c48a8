"""What a vision tower gives that no step changes: computed without gradients, outside of the model's own forward.

Pictures that the tower has seen before need not pass it again: their features come with the batch (see `vision_cache`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput

from boxtune.models.attention import attention_names, has_sliding_window
from boxtune.models.attention_varlen import knows_borders
from boxtune.models.bare import bare_model
from boxtune.models.vision_geometry import Grid, grids_of, vision_geometry


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
    grid_thw: Grid
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


def frozen_features(model: Any, inputs: Mapping[str, Any], grids: Sequence[Grid] | None = None) -> dict[str, Any]:
    """The inputs with image features in the place of pixels, as `forward` takes them (see `with_features`).

    Whoever enables input gradients (`enable_input_require_grads`, as trainers do for gradient checkpointing) makes a
    frozen tower keep its activations and run a backward pass for nothing; not so here.

    Args:
        model: of transformers, or a PeftModel around it.
        inputs: of the model's forward, with `pixel_values` and `image_grid_thw`.
        grids: of the pictures; None asks `image_grid_thw`, and waits for the GPU.
    """
    inputs = dict(inputs)
    pixels, on_device = inputs.pop("pixel_values"), inputs["image_grid_thw"]
    outputs = _look(model, pixels, grids_of(on_device) if grids is None else grids)
    return with_features(model, inputs, outputs.pooler_output, getattr(outputs, "deepstack_features", None))


def with_features(
    model: Any,
    inputs: Mapping[str, Any],
    features: tuple[torch.Tensor, ...],
    deepstack: list[tuple[torch.Tensor, ...]] | None,
) -> dict[str, Any]:
    """Inputs without pixels → inputs with features of the pictures.

    A packed row gets them among its embeddings: handed over as features, transformers counts whether there is one for
    each image token, and finds borders of the row that are known, and both wait for the GPU (5.18–5.23). Qwen3-VL's
    deepstack needs to be handed over.

    Args:
        model: of transformers, or a PeftModel around it.
        inputs: of the model's forward.
        features, deepstack: `[tokens, hidden]` for each picture, of the merger and of each deepstack merger.
    """
    bare = bare_model(model)
    if deepstack or "position_ids" not in inputs:
        return {**inputs, "mm_encoder_outputs": {"image": VisionFeatures(features, deepstack or None)}}
    inputs = dict(inputs)
    del inputs["image_grid_thw"]
    ids = inputs.pop("input_ids")
    words = bare.get_input_embeddings()(ids)
    is_image = (ids == bare.config.image_token_id)[..., None]
    inputs["inputs_embeds"] = words.masked_scatter(is_image, torch.cat(features).to(words.dtype))
    if knows_borders(attention_names(bare)["text_config"]) and not has_sliding_window(bare.config):
        inputs["attention_mask"] = {"full_attention": None}
    return inputs


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
        new = tower_features(model, pixels, [picture.grid_thw for picture in pictures if not picture.is_kept])
    features = _in_order(pictures, new, kept)
    sizes = [picture.num_tokens for picture in pictures]
    first, *deep = (torch.split(layer, sizes) for layer in features)
    return with_features(model, inputs, first, deep), features, new


def tower_features(model: Any, pixel_values: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
    """`[layers, tokens, hidden]` of some pictures: the merger's output, then those of the deepstack mergers.

    Args:
        model: of transformers, or a PeftModel around it.
        pixel_values: `[patches, …]` of all pictures.
        grids: of the pictures.
    """
    outputs = _look(model, pixel_values, grids)
    layers = [outputs.pooler_output, *(getattr(outputs, "deepstack_features", None) or ())]
    return torch.stack([torch.cat(layer) for layer in layers])


def _look(model: Any, pixel_values: torch.Tensor, grids: Sequence[Grid]) -> Any:
    bare = bare_model(model).model
    geometry = vision_geometry(bare.visual, grids, pixel_values.device)
    with torch.no_grad():  # the grids stay on the CPU, where they are asked how many tokens each picture has
        return bare.get_image_features(pixel_values, torch.tensor(grids), return_dict=True, **geometry)


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
