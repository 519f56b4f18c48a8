"""The language model's layers with slots for memory: first over whole questions, packed, then token by token.

The layers run one by one as `Qwen2VLTextModel.forward` and its siblings run them (transformers 5.18–5.23), but each is
handed its own memory. A layer that asks a common cache for its part by number is a different program to the compiler
for every layer; like this all layers are one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from boxtune.collators.batch import pack
from boxtune.collators.encode import EncodedSample
from boxtune.inference.slots import LayerSlots
from boxtune.models.frozen_vision import tower_features
from boxtune.models.sending import sent
from boxtune.models.vision_geometry import Grid, grids_of

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


@dataclass(frozen=True)
class Read:
    """Packed questions after a pass over them.

    Attributes:
        packed: the batch, of `boxtune.collators.batch.pack`, on the CPU but for its pixels.
        hidden: `[1, T, H]` states after the last norm; None where nothing is to be written.
        tapped: `[1, T, H]` states behind the layers that were asked for; the same as `hidden` where none were.
        vision: `[I, H]` merged features of the images.
        positions: `[4, T]` a count within each question, time, row and column.
        last: `[n]` place of each question's last token.
    """

    packed: dict[str, Any]
    hidden: torch.Tensor | None
    tapped: torch.Tensor
    vision: torch.Tensor
    positions: torch.Tensor
    last: torch.Tensor


MemoryFor = Callable[[torch.Tensor], Sequence[LayerSlots]]
"""Positions `[4, T]` of the packed tokens → where each layer keeps them."""


def read_questions(
    bare: Any,
    samples: Sequence[EncodedSample],
    memory_for: MemoryFor | None = None,
    *,
    tap: int | None = None,
    to_the_end: bool = True,
) -> Read:
    """One pass over questions in a packed row.

    Args:
        bare: model of transformers, in evaluation mode, with an attention that keeps the samples of a row apart (see
            `boxtune.models.attention.choose_for_questions`).
        samples: questions.
        memory_for: None keeps nothing.
        tap: layers that `tapped` has gone through; None: all, and the last norm.
        to_the_end: False leaves out the layers behind `tap`.
    """
    merge = bare.config.vision_config.spatial_merge_size
    samples = [replace(sample, pixel_values=sent(sample.pixel_values, bare.device)) for sample in samples]
    packed, _ = pack(samples, [sample.input_ids for sample in samples], merge)
    grids = grids_of(packed["image_grid_thw"])
    inputs = {name: sent(v, bare.device) if isinstance(v, torch.Tensor) else v for name, v in packed.items()}
    is_image = torch.cat([sample.vision_mask for sample in samples])
    seen, positions = see(bare, inputs, is_image, grids), inputs["position_ids"][:, 0]
    config, borders = bare.config.get_text_config(), inputs["cu_seq_lens_q"]
    told = {name: inputs[name] for name in inputs if name.startswith(("cu_seq", "max_length"))}
    run = partial(
        run_layers,
        bare,
        positions=positions[1:, None],
        memory=None if memory_for is None else memory_for(positions),
        masks=packed_masks(config, borders, seen.embeddings.dtype),
        seen=seen,
        borders={} if sliding_window(config) else told,
    )
    tapped = run(seen.embeddings, end=tap)
    hidden = tapped if tap is None else run(tapped, begin=tap) if to_the_end else None
    return Read(packed, hidden, tapped, seen.vision, positions, borders[1:].long() - 1)


def see(bare: Any, inputs: dict[str, Any], is_image: torch.Tensor, grids: Sequence[Grid]) -> Seen:
    """Embed packed questions and the images in them, without waiting for the device.

    Args:
        bare: model of transformers.
        inputs: of `boxtune.collators.batch.pack`, on the model's device.
        is_image: `[T]`, on the CPU.
        grids: of the images.
    """
    words = bare.get_input_embeddings()(inputs["input_ids"])
    vision, *deepstack = tower_features(bare, inputs["pixel_values"], grids).to(words.dtype)
    return Seen(
        embeddings=words.masked_scatter(sent(is_image, bare.device)[None, :, None], vision),
        image_places=sent(is_image.nonzero()[:, 0], bare.device),
        deepstack=tuple(deepstack),
        vision=vision,
    )


def run_layers(
    bare: Any,
    embeddings: torch.Tensor,
    positions: torch.Tensor,
    memory: Sequence[LayerSlots] | None,
    masks: Masks,
    *,
    seen: Seen | None = None,
    borders: dict[str, Any] | None = None,
    begin: int = 0,
    end: int | None = None,
) -> torch.Tensor:
    """`[B, L, H]` embeddings → `[B, L, H]` states behind the layers that are run.

    Args:
        bare: model of transformers.
        embeddings: of this pass's tokens; what an earlier part of the pass has come to, where it does not begin at 0.
        positions: `[3, B, L]` time, row and column.
        memory: of each layer; None keeps nothing.
        masks: by kind of layer.
        seen: where the tokens are packed questions.
        borders: of samples in a packed row, as attention kernels take them.
        begin, end: layers from, and up to; None: all that follow, and the last norm.
    """
    language = bare.model.language_model
    kinds = getattr(language.config, "layer_types", None) or ["full_attention"] * len(language.layers)
    hidden, rotary = embeddings, language.rotary_emb(embeddings, positions)
    kept: Sequence[LayerSlots | None] = memory or [None] * len(language.layers)
    assert len(kept) == len(language.layers)
    for index in range(len(language.layers))[begin:end]:
        hidden = language.layers[index](
            hidden,
            attention_mask=masks[kinds[index]],
            position_embeddings=rotary,
            past_key_values=kept[index],
            **(borders or {}),
        )
        if seen is not None and index < len(seen.deepstack):
            hidden = hidden.index_add(1, seen.image_places, seen.deepstack[index][None])
    return language.norm(hidden) if end is None else hidden


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
