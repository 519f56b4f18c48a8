"""How far found boxes are from their true ones: L1 of the numbers, and generalised IoU of the areas.

Both are sums over matched pairs, to be divided by the number of true boxes of the whole step (DETR, arXiv 2005.12872,
§A.2), so a picture with many objects counts as many times. Boxes are fp32 or wider.
"""

from __future__ import annotations

import torch


def l1_total(found_cxcywh: torch.Tensor, true_cxcywh: torch.Tensor) -> torch.Tensor:
    """Σ |difference| over K pairs and the four numbers; `[K, 4]` each, shares of the image's sides."""
    return (found_cxcywh - true_cxcywh).abs().sum()


def giou_total(found_cxcywh: torch.Tensor, true_cxcywh: torch.Tensor) -> torch.Tensor:
    """Σ (1 − GIoU) over K pairs; `[K, 4]` each, shares of the image's sides. 0–2 a pair."""
    return (1 - generalised_iou(to_xyxy(found_cxcywh), to_xyxy(true_cxcywh))).sum()


def to_xyxy(boxes_cxcywh: torch.Tensor) -> torch.Tensor:
    """`[..., 4]` centre and size → corners."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def generalised_iou(a_xyxy: torch.Tensor, b_xyxy: torch.Tensor) -> torch.Tensor:
    """IoU less the share of the smallest box around both that neither fills: −1 to 1.

    Rezatofighi et al. 2019 (arXiv 1902.09630, algorithm 1). Of boxes without area the IoU is 0.

    Args:
        a_xyxy, b_xyxy: `[..., 4]` corners that broadcast against each other.
    """
    smallest = torch.finfo(a_xyxy.dtype).tiny
    overlap = _area(torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:]))
    around = _area(torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:]))
    union = _area(a_xyxy[..., :2], a_xyxy[..., 2:]) + _area(b_xyxy[..., :2], b_xyxy[..., 2:]) - overlap
    return overlap / union.clamp(min=smallest) - (around - union) / around.clamp(min=smallest)


def _area(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Of boxes given by `[..., 2]` corners; 0 where they are swapped, as of an empty intersection."""
    return (high - low).clamp(min=0).prod(-1)
