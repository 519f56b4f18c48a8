"""The losses of a detection head together: which terms there are, what they count, and what they weigh.

Sums and counts are kept apart, so that a step of many batches, on many processes, is divided once, by what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from boxtune.losses import boxes, captions, objectness
from boxtune.losses.matching import Matches, MatchingCosts, match

AUXILIARY = "auxiliary_"
_OF_EACH_LAYER = ("box_l1", "box_giou", "objectness")


@dataclass(frozen=True)
class DetectionLossConfig:
    """Weights of the terms.

    Attributes:
        weight: of all of them, against the language loss.
        box_l1, box_giou, objectness, captions: of each.
        auxiliary: train the layers before the last as well (DETR, §3.2).
        focal_alpha, focal_gamma: of the objectness.
        matching: costs of a pair.
    """

    weight: float = 0.2
    box_l1: float = 5.0
    box_giou: float = 2.0
    objectness: float = 2.0
    captions: float = 1.0
    auxiliary: bool = True
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    matching: MatchingCosts = field(default_factory=MatchingCosts)


class Layer(NamedTuple):
    """What is said after one layer, of N images: `[N, Q]` logits, `[N, Q, 4]` boxes, `[N, Q]` slots that count."""

    objectness_logits: torch.Tensor
    boxes_cxcywh: torch.Tensor
    mask: torch.Tensor | None = None


class TrueObjects(NamedTuple):
    """What is in the N images of a batch, M objects one after the other.

    Attributes:
        boxes_cxcywh: `[M, 4]` shares of the image's sides.
        image: `[M]` index of the image.
        tokens: `[M, T]` labels, padded with −100.
        num_images: N, also of images without objects.
    """

    boxes_cxcywh: torch.Tensor
    image: torch.Tensor
    tokens: torch.Tensor
    num_images: int


def counts(objects: TrueObjects) -> dict[str, int]:
    """Term → what its sum is divided by, known before the model runs; add up over the step, then divide."""
    own = {
        "box_l1": len(objects.boxes_cxcywh),
        "box_giou": len(objects.boxes_cxcywh),
        "objectness": objects.num_images,
    }
    return {**own, "captions": int(captions.count(objects.tokens)), **{AUXILIARY + name: own[name] for name in own}}


def weights(config: DetectionLossConfig) -> dict[str, float]:
    """Term → weight."""
    own = {name: config.weight * getattr(config, name) for name in (*_OF_EACH_LAYER, "captions")}
    return own | {AUXILIARY + name: own[name] for name in _OF_EACH_LAYER}


def totals(
    layers: Sequence[Layer], objects: TrueObjects, config: DetectionLossConfig, *, proposals: Layer | None = None
) -> tuple[dict[str, torch.Tensor], Matches]:
    """Term → sum over the batch, without the captions, and the matches of the last layer, whose labels are next.

    Args:
        layers: the last is the answer; those before it are auxiliary, each matched by itself.
        objects: of the same images.
        config: weights.
        proposals: of tokens that queries start from; auxiliary too, and never left out: nothing else trains them.
    """
    sums, matches = layer_totals(layers[-1], objects, config)
    auxiliary = [*(layers[:-1] if config.auxiliary else ()), *(() if proposals is None else (proposals,))]
    if auxiliary:
        earlier = [layer_totals(layer, objects, config)[0] for layer in auxiliary]
        sums |= {AUXILIARY + name: torch.stack([one[name] for one in earlier]).sum() for name in _OF_EACH_LAYER}
    return sums, matches


def layer_totals(
    layer: Layer, objects: TrueObjects, config: DetectionLossConfig
) -> tuple[dict[str, torch.Tensor], Matches]:
    """The terms of one layer, and its matches."""
    matches = match(
        layer.objectness_logits,
        layer.boxes_cxcywh,
        objects.boxes_cxcywh,
        objects.image,
        costs=config.matching,
        mask=layer.mask,
    )
    found = layer.boxes_cxcywh[matches.image, matches.query]
    true = objects.boxes_cxcywh[matches.box]
    is_object = torch.zeros_like(layer.objectness_logits, dtype=torch.bool)
    is_object[matches.image, matches.query] = True
    focal = objectness.focal_total(
        layer.objectness_logits, is_object, alpha=config.focal_alpha, gamma=config.focal_gamma, mask=layer.mask
    )
    return {
        "box_l1": boxes.l1_total(found, true),
        "box_giou": boxes.giou_total(found, true),
        "objectness": focal,
    }, matches


def weighted(
    sums: Mapping[str, torch.Tensor], step_counts: Mapping[str, int | torch.Tensor], config: DetectionLossConfig
) -> torch.Tensor:
    """One number: each sum divided by the step's count (at least 1), times its weight.

    A batch gives its share: the shares of a step's batches add up to the loss of the step.
    """
    weight = weights(config)
    shares = []
    for name, total in sums.items():
        count = torch.as_tensor(step_counts[name], device=total.device).clamp(min=1)
        shares.append(weight[name] * total / count)
    return torch.stack(shares).sum()
