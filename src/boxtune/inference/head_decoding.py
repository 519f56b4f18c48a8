"""What a detection head finds in a batch of questions: one forward pass over image and prompt, nothing is generated."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from boxtune.collators.encode import EncodedSample
from boxtune.collators.objects import memory_of
from boxtune.detections import Detections
from boxtune.inference.language_pass import Read
from boxtune.models.detection_head.head import HeadOutputs
from boxtune.models.detection_head.memory import gather_memory
from boxtune.models.detection_head.results import found_objects
from boxtune.models.load import LoadedModel
from boxtune.models.sending import sent

MIN_OBJECTNESS = 0.01  # as candidates of the text: such a box would rank last in any case
CONFIDENT = 0.4
"""Score from which a box is the head's answer; those below are candidates, which only AP looks at. Focal loss keeps
scores low: the best F1 of two heads was at 0.37 and 0.40.
"""


@dataclass(frozen=True)
class Looked:
    """What the head says of a batch; the device may still be at work.

    Attributes:
        outputs: of the head.
        images_hw: heights and widths in the pixels that boxes are wanted in.
        is_there: an event of a GPU, behind the outputs; None elsewhere.
    """

    outputs: HeadOutputs
    images_hw: list[tuple[int, int]]
    is_there: torch.cuda.Event | None


@torch.inference_mode()
def look(loaded: LoadedModel, encoded: Sequence[EncodedSample], read: Read) -> Looked:
    """Let the head see a batch of questions; nothing is waited for.

    The language model's projection to the vocabulary is left out: no token is asked for.

    Args:
        loaded: with a head; model and head in evaluation mode.
        encoded: questions without answers.
        read: a pass over them.
    """
    head, device = loaded.head, loaded.model.device
    assert head is not None
    where: Any = memory_of(encoded, read.packed, loaded.processor)  # on the CPU: it is looked at bit by bit
    index: Any = {name: sent(tensor, device) for name, tensor in where.items()}
    outputs = head(gather_memory(read.tapped, read.vision, index))
    is_there = None
    if device.type == "cuda":
        is_there = torch.cuda.Event()
        is_there.record()
    return Looked(outputs, [sample.image_hw for sample in encoded], is_there)


@cache
def _stream_aside(device: torch.device) -> torch.cuda.Stream:
    """Beside that of the next batch, and one for all: torch keeps memory for each stream that was used."""
    return torch.cuda.Stream(device)


@torch.inference_mode()
def objects_in(loaded: LoadedModel, looked: Looked, labels: Sequence[str] | None) -> list[Detections]:
    """Boxes with scores in pixels of each image, the best first; waits for what was looked at, and for nothing later.

    Args:
        loaded: with a head; model and head in evaluation mode.
        looked: of a batch.
        labels: names to choose from; None lets the head write them.
    """
    assert loaded.head is not None
    with contextlib.ExitStack() as beside:
        if looked.is_there is not None:
            aside = _stream_aside(loaded.model.device)
            aside.wait_event(looked.is_there)
            beside.enter_context(torch.cuda.stream(aside))
        return found_objects(
            loaded.head,
            looked.outputs,
            looked.images_hw,
            loaded.model.get_input_embeddings().weight,
            loaded.processor.tokenizer,
            labels=labels,
            min_objectness=MIN_OBJECTNESS,
        )


def split_confident(found: Detections, threshold: float = CONFIDENT) -> tuple[Detections, Detections]:
    """Boxes of at least this score, and the others."""
    assert found.scores is not None
    return found.select(found.scores >= threshold), found.select(found.scores < threshold)
