"""How long the conversations of a data set get in tokens, at a model's limits of pixels, and which are too long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from boxtune.collators.encode import SampleEncoder
from boxtune.collators.lengths import num_image_tokens, num_tokens
from boxtune.data.dataset import DetectionDataset
from boxtune.inspection.dataset_figures import Histogram, histogram
from boxtune.models.contract import pixel_limits

MAX_IMAGES = 2000
"""Conversations that are counted, evenly chosen; one takes about a millisecond."""

_NAMED = 12


@dataclass(frozen=True)
class TokenLengths:
    """Lengths of whole conversations: question, image and answer.

    Attributes:
        num_images, num_counted: in the data set; counted.
        min_pixels, max_pixels: limits of the input image that were used.
        lengths: tokens a conversation.
        median, longest: of them.
        median_image_tokens: of the image alone.
        max_length: `collator.max_length`, or None for no limit.
        num_too_long: of those counted, conversations above it. boxtune refuses them; it never cuts one.
        too_long: ids of some of them, the longest first.
        num_refused: images of a shape that the processor takes no picture of.
    """

    num_images: int
    num_counted: int
    min_pixels: int
    max_pixels: int
    lengths: Histogram
    median: float
    longest: int
    median_image_tokens: float
    max_length: int | None
    num_too_long: int
    too_long: tuple[str, ...]
    num_refused: int


def token_lengths(dataset: DetectionDataset, encoder: SampleEncoder, limit: int = MAX_IMAGES) -> TokenLengths:
    """Count from sizes and boxes; no picture is decoded.

    Args:
        dataset: opened.
        encoder: as a run makes it, with the processor's pixel limits set.
        limit: most conversations to count.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(limit, len(dataset))).round().astype(np.intp))
    counted: list[tuple[int, int, str]] = []
    for index in chosen.tolist():
        record = dataset.records[index]
        try:
            image_tokens = num_image_tokens(encoder, record.image_hw)
        except ValueError:  # an aspect ratio above 200
            continue
        counted.append((num_tokens(encoder, record.detections, record.image_hw), image_tokens, record.id))
    totals = np.array([total for total, _, _ in counted] or [0])
    above = [row for row in counted if encoder.max_length is not None and row[0] > encoder.max_length]
    smallest, largest = pixel_limits(encoder.processor)
    return TokenLengths(
        num_images=len(dataset),
        num_counted=len(counted),
        min_pixels=smallest,
        max_pixels=largest,
        lengths=histogram(totals),
        median=float(np.median(totals)),
        longest=int(totals.max()),
        median_image_tokens=float(np.median([tokens for _, tokens, _ in counted] or [0])),
        max_length=encoder.max_length,
        num_too_long=len(above),
        too_long=tuple(name for _, _, name in sorted(above, key=lambda row: -row[0])[:_NAMED]),
        num_refused=len(chosen) - len(counted),
    )
