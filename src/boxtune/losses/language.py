"""Cross-entropy of the next token, where a label stands."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

IGNORED = -100


def forward_options(targets: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the model's forward is asked for: logits only at columns where some sample has a label to predict.

    The projection to the vocabulary is the largest tensor of a step, and most tokens (image, prompt) have no label.
    """
    return {"logits_to_keep": _predicting_columns(targets["labels"])}


def count(targets: dict[str, Any]) -> torch.Tensor:
    """Number of labels that are predicted (the first of a row has nothing before it)."""
    return (targets["labels"][:, 1:] != IGNORED).sum()


def total(logits: torch.Tensor, targets: dict[str, Any]) -> torch.Tensor:
    """Sum of −log p over all labels, in fp32; divide by `count` of the whole step.

    Args:
        logits: `[B, K, V]` at the columns that `forward_options` asked for.
        targets: with `labels` `[B, L]`.
    """
    labels = targets["labels"]
    expected = labels[:, _predicting_columns(labels) + 1]
    return F.cross_entropy(logits.float().flatten(0, 1), expected.flatten(), ignore_index=IGNORED, reduction="sum")


def _predicting_columns(labels: torch.Tensor) -> torch.Tensor:
    return (labels[:, 1:] != IGNORED).any(dim=0).nonzero()[:, 0]
