"""The language model's layers with slots for memory: first over whole questions, packed, then token by token.

The layers run one by one as `Qwen2VLTextModel.forward` and its siblings run them (transformers 5.18–5.23), but each is
handed its own memory. A layer that asks a common cache for its part by number is a different program to the compiler
for every layer; like this all layers are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from boxtune.inference.slots import LayerSlots

Masks = dict[str, torch.Tensor | None]
"""For each kind of layer (`full_attention`, `sliding_attention`) what is added to the scores; None where borders
tell."""


@dataclass(frozen=True)
class Seen:
    """Questions as the language model takes them in.

    Attributes:
        embeddings: `[1, T, H]` of words and images.
        image_places: `[I]` where image tokens stand among the T.
        deepstack: `[I, H]` each, what Qwen3-VL adds at image tokens after its first layers; empty elsewhere.
        vision: `[I, H]` merged features of the images.
    """

    embeddings: torch.Tensor
    image_places: torch.Tensor
    deepstack: tuple[torch.Tensor, ...]
    vision: torch.Tensor


def see(bare: Any, inputs: dict[str, Any], is_image: torch.Tensor) -> Seen:
    """Embed packed questions and the images in them.

    Args:
        bare: model of transformers.
        inputs: of `boxtune.collators.batch.pack`, on the model's device.
        is_image: `[T]`.
    """
    found = bare.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
    words = bare.get_input_embeddings()(inputs["input_ids"])
    vision = torch.cat(list(found.pooler_output)).to(words.dtype)
    deepstack = getattr(found, "deepstack_features", None) or ()
    return Seen(
        embeddings=words.masked_scatter(is_image[None, :, None], vision),
        image_places=is_image.nonzero()[:, 0],
        deepstack=tuple(
            (part if isinstance(part, torch.Tensor) else torch.cat(list(part))).to(words.dtype) for part in deepstack
        ),
        vision=vision,
    )


def run_layers(
    bare: Any,
    embeddings: torch.Tensor,
    positions: torch.Tensor,
    memory: Sequence[LayerSlots],
    masks: Masks,
    *,
    seen: Seen | None = None,
    borders: dict[str, Any] | None = None,
) -> torch.Tensor:
    """`[B, L, H]` embeddings → `[B, L, H]` states after the last norm.

    Args:
        bare: model of transformers.
        embeddings: of this pass's tokens.
        positions: `[3, B, L]` time, row and column.
        memory: of each layer.
        masks: by kind of layer.
        seen: where the tokens are packed questions.
        borders: of samples in a packed row, as attention kernels take them.
    """
    language = bare.model.language_model
    kinds = getattr(language.config, "layer_types", None) or ["full_attention"] * len(language.layers)
    hidden, rotary = embeddings, language.rotary_emb(embeddings, positions)
    for index, (layer, slots) in enumerate(zip(language.layers, memory, strict=True)):
        hidden = layer(
            hidden,
            attention_mask=masks[kinds[index]],
            position_embeddings=rotary,
            past_key_values=slots,
            **(borders or {}),
        )
        if seen is not None and index < len(seen.deepstack):
            hidden = hidden.index_add(1, seen.image_places, seen.deepstack[index][None])
    return language.norm(hidden)


def packed_masks(config: Any, borders: torch.Tensor, dtype: torch.dtype) -> Masks:
    """Masks of a packed row, where some layer sees a window of the past only; else none, since borders do.

    Args:
        config: of the language model.
        borders: `[N + 1]` of the samples.
        dtype: of the scores.
    """
    if not sliding_window(config):
        return {"full_attention": None}
    place = torch.arange(int(borders[-1]), device=borders.device)
    sample = torch.bucketize(place, borders[1:], right=True)
    back = place[:, None] - place
    whole = (sample[:, None] == sample) & (back >= 0)
    return {
        "full_attention": _added(whole, dtype)[None, None],
        "sliding_attention": _added(whole & (back < sliding_window(config)), dtype)[None, None],
    }


def token_masks(config: Any, lengths: torch.Tensor, width: int, dtype: torch.dtype) -> Masks:
    """Masks of one new token each, `[N, 1, 1, W]`, that is written behind the first `lengths` `[N]` of its slot."""
    back = lengths[:, None] - torch.arange(width, device=lengths.device)
    masks: Masks = {"full_attention": _added(back >= 0, dtype)[:, None, None]}
    if window := sliding_window(config):
        masks["sliding_attention"] = _added((back >= 0) & (back < window), dtype)[:, None, None]
    return masks


def sliding_window(config: Any) -> int:
    """How far some layer looks back, itself included; 0 where all see everything."""
    return config.sliding_window if "sliding_attention" in (getattr(config, "layer_types", None) or ()) else 0


def _added(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
