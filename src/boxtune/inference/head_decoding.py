"""What a detection head finds in a batch of questions: one forward pass over image and prompt, nothing is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from boxtune.collators.encode import EncodedSample
from boxtune.collators.objects import memory_of
from boxtune.detections import Detections
from boxtune.inference.language_pass import Read
from boxtune.models.detection_head.memory import gather_memory
from boxtune.models.detection_head.results import found_objects
from boxtune.models.load import LoadedModel

MIN_OBJECTNESS = 0.01  # as candidates of the text: such a box would rank last in any case
CONFIDENT = 0.4
"""Score from which a box is the head's answer; those below are candidates, which only AP looks at. Focal loss keeps
scores low: the best F1 of two heads was at 0.37 and 0.40.
"""


@torch.inference_mode()
def find_objects(
    loaded: LoadedModel, encoded: Sequence[EncodedSample], read: Read, labels: Sequence[str] | None
) -> list[Detections]:
    """Boxes with scores in pixels of each image, the best first.

    The language model's projection to the vocabulary is left out: no token is asked for.

    Args:
        loaded: with a head; model and head in evaluation mode.
        encoded: questions without answers.
        read: a pass over them.
        labels: names to choose from; None lets the head write them.
    """
    head, model = loaded.head, loaded.model
    assert head is not None
    where: Any = memory_of(encoded, read.packed, loaded.processor)  # on the CPU: it is looked at bit by bit
    index: Any = {name: tensor.to(model.device) for name, tensor in where.items()}
    return found_objects(
        head,
        head(gather_memory(read.tapped, read.vision, index)),
        [sample.image_hw for sample in encoded],
        model.get_input_embeddings().weight,
        loaded.processor.tokenizer,
        labels=labels,
        min_objectness=MIN_OBJECTNESS,
    )


def split_confident(found: Detections, threshold: float = CONFIDENT) -> tuple[Detections, Detections]:
    """Boxes of at least this score, and the others."""
    assert found.scores is not None
    return found.select(found.scores >= threshold), found.select(found.scores < threshold)
