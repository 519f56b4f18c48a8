"""Which tokens are trained. Each function gives `[L]` labels: the token itself, or −100 where nothing is learned.

Students compare the two: with `all_text` the model also learns to write the question, with `assistant` all of the
gradient goes into the answer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from boxtune.collators.encode import EncodedSample
from boxtune.losses.language import IGNORED
from boxtune.models.detection_head.memory import question_span

LabelMask = Callable[[EncodedSample], torch.Tensor]


def assistant(sample: EncodedSample) -> torch.Tensor:
    """The answers only, each with its stop token."""
    labels = torch.full_like(sample.input_ids, IGNORED)
    for start, end in sample.answer_spans:
        labels[start:end] = sample.input_ids[start:end]
    return labels


def all_text(sample: EncodedSample) -> torch.Tensor:
    """Every token but those of images (the placeholders and the marks around them)."""
    around = torch.zeros_like(sample.vision_mask)
    around[:-1] |= sample.vision_mask[1:]  # <|vision_start|>
    around[1:] |= sample.vision_mask[:-1]  # <|vision_end|>
    return sample.input_ids.masked_fill(sample.vision_mask | around, IGNORED)


def of_examples(sample: EncodedSample) -> torch.Tensor:
    """`[L]` True at worked examples: all before the last question, as far as the end of the answer before it."""
    start, _ = question_span(sample.answer_spans, len(sample))
    return torch.arange(len(sample)) < start


LABEL_MASKS: dict[str, LabelMask] = {"assistant": assistant, "all_text": all_text}
