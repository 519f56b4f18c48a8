"""From encoded samples to one batch: padded (a row a sample) or packed (one row, no padding).

A batch is two dicts. `inputs` is exactly what the model's forward takes; `targets` is what losses read: `labels`, and
for each sample its id, sizes and boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from boxtune.collators.encode import EncodedSample, SampleEncoder
from boxtune.collators.labels import LABEL_MASKS
from boxtune.collators.positions import text_and_mrope_positions
from boxtune.data.sample import Sample
from boxtune.losses.language import IGNORED

Batch = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Collator:
    """`list[Sample]` → batch, for a DataLoader.

    Attributes:
        encoder: prompt, processor, limits.
        labels: which tokens are trained (see `boxtune.collators.labels`).
        batching: padded or packed.
    """

    encoder: SampleEncoder
    labels: Literal["assistant", "all_text"] = "assistant"
    batching: Literal["padded", "packed"] = "padded"

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Encode, label and batch the samples."""
        encoded = [self.encoder.sample(sample) for sample in samples]
        labels = [LABEL_MASKS[self.labels](sample) for sample in encoded]
        processor = self.encoder.processor
        if self.batching == "packed":
            inputs, label_rows = pack(encoded, labels, processor.image_processor.merge_size)
        else:
            inputs, label_rows = pad(encoded, labels, processor.tokenizer.pad_token_id)
        return {"inputs": inputs, "targets": {"labels": label_rows, "sample_ids": [s.sample_id for s in encoded]}}


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
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """One row `[1, ΣL]`; inputs of the model, and labels `[1, ΣL]`.

    Positions `[4, 1, ΣL]` (a text row that starts anew with each sample, then the three rows of M-RoPE) without an
    attention mask keep the samples apart: `Qwen2VLTextModel.forward` of transformers 5.18–5.23 and its siblings read
    the borders from the text row. The first label of each sample is ignored: nothing before it may predict it.
    """
    positions = [text_and_mrope_positions(s.vision_mask, s.image_grid_thw, merge_size) for s in samples]
    first_ignored = [torch.cat([torch.full((1,), IGNORED), row[1:]]) for row in labels]
    inputs = {
        "input_ids": torch.cat([s.input_ids for s in samples])[None],
        "position_ids": torch.cat(positions, dim=1)[:, None],
        **_vision(samples),
    }
    return inputs, torch.cat(first_ignored)[None]


def _vision(samples: Sequence[EncodedSample]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.cat([s.pixel_values for s in samples]),
        "image_grid_thw": torch.cat([s.image_grid_thw for s in samples]),
    }
