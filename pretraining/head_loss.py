"""What a detection head is told of a batch, with a single wait for the device in a step."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from boxtune.losses import boxes as box_losses
from boxtune.losses import captions, detection
from boxtune.losses.detection import DetectionLossConfig, TrueObjects
from boxtune.losses.matching import pair_costs
from boxtune.losses.objectness import focal_total
from boxtune.models.detection_head.head import DetectionHead, HeadOutputs
from boxtune.models.sending import sent

TERMS = tuple(detection.weights(DetectionLossConfig()))
_NO_NUMBER = -1e9  # as in boxtune.losses.matching


class Truth(NamedTuple):
    """The true objects of a batch, and how many each image has."""

    objects: TrueObjects
    per_image: np.ndarray


def truth_of(batch: Mapping[str, Any]) -> Truth:
    """The boxes of a batch, one after the other; which they are is known without asking the device."""
    per_image = batch["num_boxes"]
    image = np.repeat(np.arange(len(per_image)), per_image)
    place = np.concatenate([np.arange(count) for count in per_image])
    both = sent(torch.from_numpy(np.stack([image, place]).astype(np.int64)), batch["boxes"].device)
    low, high = batch["boxes"][both[0], both[1]].split(2, -1)
    tokens = batch["labels"][both[0], both[1]].long()
    boxes = torch.cat([(low + high) / 2, high - low], -1)
    return Truth(TrueObjects(boxes, both[0], tokens, len(per_image)), per_image)


class HeadLoss:
    """The terms of `boxtune.losses.detection`, all layers matched at once.

    There each layer asks the device for its costs by itself, and waits for all work before. Here costs of all layers
    travel together (`ask`), and the device has other work until they are answered (`terms`).
    """

    def __init__(self, outputs: HeadOutputs, truth: Truth, config: DetectionLossConfig) -> None:
        assert outputs.proposals is not None
        self.outputs, self.truth, self.config = outputs, truth, config
        layers = [*outputs.layers, outputs.proposals]
        self.logits = torch.cat([layer.objectness_logits for layer in layers], 1)
        self.boxes = torch.cat([layer.boxes for layer in layers], 1)
        ends = np.cumsum([layer.objectness_logits.shape[1] for layer in layers]).tolist()
        self.spans = list(zip([0, *ends[:-1]], ends, strict=True))
        self.answer = len(outputs.layers) - 1  # the layer that is the answer

    @torch.no_grad()
    def ask(self) -> None:
        """Send the costs on their way."""
        objects = self.truth.objects
        costs = pair_costs(self.logits, self.boxes, objects.boxes_cxcywh, objects.image, self.config.matching)
        costs = costs.nan_to_num(_NO_NUMBER, _NO_NUMBER, _NO_NUMBER)
        self.arrived = None
        if costs.device.type == "cuda":
            self.costs = torch.empty(costs.shape, dtype=costs.dtype, pin_memory=True)
            self.costs.copy_(costs, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()
        else:
            self.costs = costs

    def _matched(self) -> np.ndarray:
        """`[layers, M]` place of each true box's query among the slots of all layers."""
        if self.arrived is not None:
            self.arrived.synchronize()
        costs = self.costs.numpy()
        found = np.empty((len(self.spans), len(costs)), np.int64)
        borders = [0, *np.cumsum(self.truth.per_image).tolist()]
        single = np.repeat(self.truth.per_image == 1, self.truth.per_image)
        for layer, (begin, end) in enumerate(self.spans):
            found[layer, single] = costs[single, begin:end].argmin(1) + begin
            for first, last in itertools.pairwise(borders):
                if last - first > 1:
                    rows, chosen = linear_sum_assignment(costs[first:last, begin:end])
                    assert len(rows) == last - first, "an image has more boxes than queries"
                    found[layer, first:last] = chosen + begin
        return found

    def terms(self, head: DetectionHead, embedding: torch.Tensor) -> torch.Tensor:
        """The terms in the order of `TERMS`, each divided by what the batch holds of it."""
        objects = self.truth.objects
        query = sent(torch.from_numpy(self._matched()), self.logits.device)
        is_object = torch.zeros_like(self.logits, dtype=torch.bool)
        is_object[objects.image, query] = torch.ones((), dtype=torch.bool, device=query.device)
        num_boxes = max(1, len(objects.boxes_cxcywh))
        sums = dict.fromkeys(TERMS, torch.zeros((), device=self.logits.device))
        for layer, (begin, end) in enumerate(self.spans):
            prefix = "" if layer == self.answer else detection.AUXILIARY
            found = self.boxes[objects.image, query[layer]]
            own = {
                "box_l1": box_losses.l1_total(found, objects.boxes_cxcywh) / num_boxes,
                "box_giou": box_losses.giou_total(found, objects.boxes_cxcywh) / num_boxes,
                "objectness": focal_total(
                    self.logits[:, begin:end],
                    is_object[:, begin:end],
                    alpha=self.config.focal_alpha,
                    gamma=self.config.focal_gamma,
                )
                / objects.num_images,
            }
            for name, value in own.items():
                sums[prefix + name] = sums[prefix + name] + value
        states = self.outputs.states[objects.image, query[self.answer] - self.spans[self.answer][0]]
        logits = head.caption_logits(states, objects.tokens, embedding)
        sums["captions"] = captions.total(logits, objects.tokens) / captions.count(objects.tokens).clamp(min=1)
        return torch.stack([sums[name] for name in TERMS])
