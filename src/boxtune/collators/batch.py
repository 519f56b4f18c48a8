"""From encoded samples to one batch: padded (a row a sample) or packed (one row, no padding).

A batch is two dicts. `inputs` is exactly what the model's forward takes; `targets` is what losses read: `labels`, the
samples' ids, the grids of their pictures, and with a detection head their objects (see `objects`). With a vision cache
there is a third, `vision`: `pictures`, a `Picture` for each image, and `kept`, the features of those that have some
(see `frozen_vision`); pixels are then those of the other images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from boxtune.collators.encode import EncodedSample, SampleEncoder
from boxtune.collators.labels import LABEL_MASKS, of_examples
from boxtune.collators.objects import ObjectTargets
from boxtune.collators.pictures import NamedSample
from boxtune.collators.positions import text_and_mrope_positions
from boxtune.data.sample import Sample
from boxtune.losses.language import IGNORED, label_targets
from boxtune.models.vision_geometry import grids_of

Batch = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Collator:
    """`list[Sample]` or `list[NamedSample]` → batch, for a DataLoader.

    Attributes:
        encoder: prompt, processor, limits.
        labels: which tokens are trained (see `boxtune.collators.labels`).
        batching: padded or packed.
        pixel_dtype: of `pixel_values`. The tower rounds them to its own dtype first of all; done here, half as much
            travels.
        objects: what a detection head is told; None where there is none.
    """

    encoder: SampleEncoder
    labels: Literal["assistant", "all_text"] = "assistant"
    batching: Literal["padded", "packed"] = "padded"
    pixel_dtype: torch.dtype = torch.float32
    objects: ObjectTargets | None = None

    def __call__(self, samples: Sequence[Sample | NamedSample]) -> Batch:
        """Encode, label and batch the samples."""
        encoded = [self.encoder.sample(sample) for sample in samples]
        labels = [LABEL_MASKS[self.labels](sample) for sample in encoded]
        processor = self.encoder.processor
        if self.batching == "packed":
            inputs, label_rows = pack(encoded, labels, processor.image_processor.merge_size)
        else:
            inputs, label_rows = pad(encoded, labels, processor.tokenizer.pad_token_id)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.pixel_dtype)
        is_example = None
        if self.encoder.num_examples:
            is_example = _in_rows([of_examples(sample) for sample in encoded], self.batching)
        targets = {
            **label_targets(label_rows, is_example),
            "sample_ids": [s.sample_id for s in encoded],
            "grids": grids_of(inputs["image_grid_thw"]),  # the model's own travel to the GPU
        }
        if self.objects is not None:
            targets["detection"] = self.objects(samples, encoded, inputs)
        return {"inputs": inputs, "targets": targets, **_kept(encoded)}


def pad(
    samples: Sequence[EncodedSample], labels: Sequence[torch.Tensor], pad_id: int, *, side: str = "right"
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Rows `[B, L]` filled up to the longest sample; inputs of the model, and labels `[B, L]`."""

    def rows(tensors: Sequence[torch.Tensor], fill: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(tensors), True, fill, padding_side=side)

    inputs = {
        "input_ids": rows([s.input_ids for s in samples], pad_id),
        "attention_mask": rows([torch.ones_like(s.input_ids) for s in samples], 0),
        "mm_token_type_ids": rows([s.vision_mask.int() for s in samples], 0),
        **_vision(samples),
    }
    return inputs, rows(labels, IGNORED)


def pack(
    samples: Sequence[EncodedSample], labels: Sequence[torch.Tensor], merge_size: int
) -> tuple[dict[str, Any], torch.Tensor]:
    """One row `[1, ΣL]`; inputs of the model, and labels `[1, ΣL]`.

    Positions `[4, 1, ΣL]` (a text row that starts anew with each sample, then the three rows of M-RoPE) without an
    attention mask keep the samples apart: `Qwen2VLTextModel.forward` of transformers 5.18–5.23 and its siblings read
    the borders from the text row, or take them as `cu_seq_lens_q` and its like where attention needs no mask (see
    `boxtune.models.attention_varlen`). The first label of each sample is ignored: nothing before it may predict it.
    """
    positions = [text_and_mrope_positions(s.vision_mask, s.image_grid_thw, merge_size) for s in samples]
    first_ignored = [torch.cat([torch.full((1,), IGNORED), row[1:]]) for row in labels]
    lengths = torch.tensor([len(sample) for sample in samples])
    borders, longest = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int(), int(lengths.max())
    inputs = {
        "input_ids": torch.cat([s.input_ids for s in samples])[None],
        "position_ids": torch.cat(positions, dim=1)[:, None],
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
        **_vision(samples),
    }
    return inputs, torch.cat(first_ignored)[None]


def _in_rows(masks: Sequence[torch.Tensor], batching: str) -> torch.Tensor:
    """`[L]` each → `[B, L]` as the labels of the batch."""
    if batching == "packed":
        return torch.cat(list(masks))[None]
    return torch.nn.utils.rnn.pad_sequence(list(masks), True, False)


def _vision(samples: Sequence[EncodedSample]) -> dict[str, torch.Tensor]:
    pixels = [s.pixel_values for s in samples if len(s.pixel_values)]
    return {
        **({"pixel_values": torch.cat(pixels)} if pixels else {}),
        "image_grid_thw": torch.cat([s.image_grid_thw for s in samples]),
    }


def _kept(samples: Sequence[EncodedSample]) -> Batch:
    pictures = [picture for sample in samples for picture in sample.pictures]
    if not pictures:
        return {}
    kept = [sample.kept for sample in samples if sample.kept is not None]
    return {"vision": {"pictures": pictures, **({"kept": torch.cat(kept, dim=1)} if kept else {})}}
