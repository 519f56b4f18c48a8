"""From what the head says to boxes in pixels, with labels and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchvision.ops import batched_nms

from boxtune.detections import Detections, cxcywh_to_xyxy
from boxtune.errors import ConfigError
from boxtune.models.detection_head.captioner import encode_labels
from boxtune.models.detection_head.head import DetectionHead, HeadOutputs

MIN_OBJECTNESS = 0.05


@torch.no_grad()
def found_objects(
    head: DetectionHead,
    outputs: HeadOutputs,
    images_hw: Sequence[tuple[int, int]],
    embedding: torch.Tensor,
    tokenizer: Any,
    *,
    labels: Sequence[str] | None = None,
    min_objectness: float = MIN_OBJECTNESS,
    nms_iou: float | None = None,
) -> list[Detections]:
    """Detections of each image, the best first.

    The score is objectness times the probability of the label: of its whole text where it is written freely, and among
    the given labels where there is a list.

    Args:
        head: in evaluation mode.
        outputs: of N images.
        images_hw: their heights and widths in the pixels that boxes are wanted in.
        embedding: `[vocabulary, H]` the language model's token embedding.
        tokenizer: of the language model.
        labels: the only names to choose from; None writes them freely.
        min_objectness: queries below it are no objects, and no label is written for them.
        nms_iou: of two boxes of one label that overlap more, only the better stays; None keeps all, as a decoder
            trained by matching gives each object once.

    Raises:
        ConfigError: an empty list of labels, or a label that is longer than the head can write.
    """
    if labels is not None and not labels:
        raise ConfigError("No labels to choose from: name some, or let the head write them freely.")
    objectness = outputs.found.objectness_logits.sigmoid()
    image, query = (objectness >= min_objectness).nonzero(as_tuple=True)
    states = outputs.states[image, query]
    if labels is None:
        names, certainty = _written(head, states, embedding, tokenizer)
    else:
        names, certainty = _chosen(head, states, embedding, tokenizer, labels)
    scores = objectness[image, query] * certainty
    boxes = outputs.found.boxes[image, query].cpu().double().numpy()
    found = []
    for number, (height, width) in enumerate(images_hw):
        own = (image == number).nonzero()[:, 0].tolist()
        pixels = cxcywh_to_xyxy(boxes[own]) * [width, height, width, height]
        own_scores = scores[own].cpu().double().numpy().clip(0, 1)
        one = Detections(pixels, [names[i] for i in own], own_scores).clipped((height, width))
        one = one.select(np.argsort(-own_scores, kind="stable"))
        found.append(one if nms_iou is None else without_duplicates(one, nms_iou))
    return found


def without_duplicates(detections: Detections, nms_iou: float) -> Detections:
    """Greedy suppression among the boxes of each label, by score; the best first."""
    if not len(detections):
        return detections
    number = {label: i for i, label in enumerate(dict.fromkeys(detections.labels))}
    kept = batched_nms(
        torch.tensor(detections.xyxy),
        torch.tensor(detections.scores),
        torch.tensor([number[label] for label in detections.labels]),
        nms_iou,
    )
    return detections.select(kept.numpy())


def _written(
    head: DetectionHead, states: torch.Tensor, embedding: torch.Tensor, tokenizer: Any
) -> tuple[list[str], torch.Tensor]:
    tokens, log_probs = head.captioner.write(states, embedding)
    rows = [[token for token in row if token >= 0] for row in tokens.tolist()]
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows], log_probs.exp()


def _chosen(
    head: DetectionHead, states: torch.Tensor, embedding: torch.Tensor, tokenizer: Any, labels: Sequence[str]
) -> tuple[list[str], torch.Tensor]:
    tokens = encode_labels(labels, tokenizer, head.config).to(states.device)
    likelihoods = head.captioner.log_likelihoods(states, tokens, embedding)
    share, best = likelihoods.softmax(-1).max(-1)
    return [labels[i] for i in best.tolist()], share
