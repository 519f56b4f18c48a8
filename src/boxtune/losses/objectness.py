"""Whether a query found an object: focal loss, so that the many easy "no" do not drown the few "yes"."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def focal_total(
    logits: torch.Tensor,
    is_object: torch.Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Σ −α_t (1 − p_t)^γ log p_t over all slots, to be divided by the number of images of the whole step.

    Lin et al. 2017 (arXiv 1708.02002, eq. 5), on sigmoids.

    Args:
        logits: `[N, Q]`, fp32 or wider.
        is_object: `[N, Q]` True at slots that have an object.
        alpha: weight of objects, 0–1; that of the others is 1 − alpha.
        gamma: how little an easy slot weighs; 0 is cross-entropy.
        mask: `[N, Q]` True at slots that count; None for all.
    """
    against = torch.where(is_object, -logits, logits)  # 1 − p_t before its sigmoid
    loss = torch.where(is_object, alpha, 1 - alpha) * against.sigmoid() ** gamma * F.softplus(against)
    return (loss if mask is None else loss.masked_fill(~mask, 0)).sum()
