"""What a detection head is told of a batch: where its memory lies, and which objects are true.

All of it is known from tokens and boxes, so it is worked out where batches are made, not in the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from boxtune.collators.encode import IMAGE_PAD, EncodedSample
from boxtune.collators.pictures import NamedSample
from boxtune.data.sample import Sample
from boxtune.detections import xyxy_to_cxcywh
from boxtune.losses import detection
from boxtune.losses.detection import TrueObjects
from boxtune.models.detection_head.captioner import encode_labels
from boxtune.models.detection_head.config import DetectionHeadConfig
from boxtune.models.detection_head.memory import MemoryIndex, memory_index, question_span


@dataclass(frozen=True)
class ObjectTargets:
    """Makes them.

    Attributes:
        processor: of the model.
        config: of the head.
    """

    processor: Any
    config: DetectionHeadConfig

    def __call__(
        self,
        samples: Sequence[Sample | NamedSample],
        encoded: Sequence[EncodedSample],
        inputs: Mapping[str, torch.Tensor],
    ) -> dict[str, Any]:
        """Of a batch: `memory` (a `MemoryIndex`), `objects` (fields of `TrueObjects`), `counts` of what losses add up.

        Plain dicts, since that is what the Trainer moves to its device.

        Args:
            samples: with their boxes, as they are shown.
            encoded: the same.
            inputs: of the model, for them.

        Raises:
            ConfigError: a label that is longer than the head can write.
            DataError: a sample without an image.
        """
        objects = self.objects(samples)
        return {
            "memory": memory_of(encoded, inputs, self.processor),
            "objects": objects._asdict(),
            "counts": detection.counts(objects),
        }

    def objects(self, samples: Sequence[Sample | NamedSample]) -> TrueObjects:
        """The true boxes of all images, one after the other; parts outside of an image are cut off."""
        boxes = [_shares_cxcywh(sample) for sample in samples]
        labels = [label for sample in samples for label in sample.detections.labels]
        return TrueObjects(
            boxes_cxcywh=torch.from_numpy(np.concatenate(boxes)).float(),
            image=torch.arange(len(samples)).repeat_interleave(torch.tensor([len(own) for own in boxes])),
            tokens=encode_labels(labels, self.processor.tokenizer, self.config),
            num_images=len(samples),
        )


def memory_of(encoded: Sequence[EncodedSample], inputs: Mapping[str, torch.Tensor], processor: Any) -> MemoryIndex:
    """Where the head's memory of each sample lies in a padded or packed batch.

    Raises:
        DataError: a sample without an image.
    """
    return memory_index(
        inputs,
        [question_span(sample.answer_spans, len(sample), is_answered=sample.is_answered) for sample in encoded],
        image_token_id=processor.tokenizer.convert_tokens_to_ids(IMAGE_PAD),
        merge_size=processor.image_processor.merge_size,
    )


def _shares_cxcywh(sample: Sample | NamedSample) -> np.ndarray:
    """`[M, 4]` as shares of the image's sides."""
    height, width = sample.image_hw
    return xyxy_to_cxcywh(sample.detections.clipped(sample.image_hw).xyxy) / [width, height, width, height]
