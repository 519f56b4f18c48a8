"""Which query answers for which true box: the cheapest one-to-one assignment of each image.

The Hungarian matching of DETR (Carion et al. 2020, arXiv 2005.12872, §3.1, eq. 1): no query is told twice, and no
object twice, so none has to be suppressed afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment

from boxtune.losses.boxes import generalised_iou, to_xyxy

_NO_NUMBER = -1e9  # far below every cost


@dataclass(frozen=True)
class MatchingCosts:
    """Weights of what a pair costs: L1 of the boxes, −GIoU, −p(object)."""

    box_l1: float = 5.0
    box_giou: float = 2.0
    objectness: float = 2.0


class Matches(NamedTuple):
    """K pairs: `image`, `query` and `box` `[K]`, each an index; `box` into all true boxes of the batch."""

    image: torch.Tensor
    query: torch.Tensor
    box: torch.Tensor


@torch.no_grad()
def match(
    objectness_logits: torch.Tensor,
    found_cxcywh: torch.Tensor,
    true_cxcywh: torch.Tensor,
    image_of_box: torch.Tensor,
    *,
    costs: MatchingCosts,
    mask: torch.Tensor | None = None,
) -> Matches:
    """Assign the M true boxes of N images to queries of their own image, as many as there are.

    A query that says no numbers costs least: it is matched, so that the loss is no number either, and is noticed.

    Args:
        objectness_logits: `[N, Q]`.
        found_cxcywh: `[N, Q, 4]` shares of the image's sides.
        true_cxcywh: `[M, 4]` of all images, one after the other.
        image_of_box: `[M]` index of each true box's image.
        costs: weights.
        mask: `[N, Q]` True at queries that may be given a box; None for all.
    """
    cost = pair_costs(objectness_logits, found_cxcywh, true_cxcywh, image_of_box, costs).cpu()
    cost = cost.where(cost.isfinite(), _NO_NUMBER)
    usable = None if mask is None else mask.cpu()
    owner = image_of_box.cpu()
    queries, boxes = [], []
    for image in owner.unique().tolist():
        own = (owner == image).nonzero()[:, 0]
        columns = torch.arange(cost.shape[1]) if usable is None else usable[image].nonzero()[:, 0]
        rows, chosen = linear_sum_assignment(cost[own][:, columns].numpy())
        boxes.append(own[torch.from_numpy(rows)])
        queries.append(columns[torch.from_numpy(chosen)])
    device = true_cxcywh.device
    box = (torch.cat(boxes) if boxes else torch.zeros(0, dtype=torch.long)).to(device)
    query = (torch.cat(queries) if queries else torch.zeros(0, dtype=torch.long)).to(device)
    return Matches(image_of_box[box], query, box)


def pair_costs(
    objectness_logits: torch.Tensor,
    found_cxcywh: torch.Tensor,
    true_cxcywh: torch.Tensor,
    image_of_box: torch.Tensor,
    costs: MatchingCosts,
) -> torch.Tensor:
    """`[M, Q]` what each query of its own image would cost each true box; arguments as in `match`."""
    found = found_cxcywh.float()[image_of_box]
    true = true_cxcywh.float()[:, None]
    distance = (found - true).abs().sum(-1)
    overlap = generalised_iou(to_xyxy(found), to_xyxy(true))
    probability = objectness_logits.float().sigmoid()[image_of_box]
    return costs.box_l1 * distance - costs.box_giou * overlap - costs.objectness * probability
