"""Cross-entropy of the next token, where a label stands."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

IGNORED = -100


def label_targets(labels: torch.Tensor) -> dict[str, Any]:
    """What this loss reads of a batch, worked out beside the labels: on a GPU it would have to be waited for.

    Args:
        labels: `[B, L]`.
    """
    columns = _predicting_columns(labels)
    return {"labels": labels, "label_columns": columns, "num_labels": int((labels[:, 1:] != IGNORED).sum())}


def forward_options(targets: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the model's forward is asked for: logits only at columns where some sample has a label to predict.

    The projection to the vocabulary is the largest tensor of a step, and most tokens (image, prompt) have no label.
    """
    return {"logits_to_keep": _columns(targets)}


def count(targets: dict[str, Any]) -> torch.Tensor | int:
    """Number of labels that are predicted (the first of a row has nothing before it)."""
    known: int | None = targets.get("num_labels")
    return (targets["labels"][:, 1:] != IGNORED).sum() if known is None else known


def total(logits: torch.Tensor, targets: dict[str, Any]) -> torch.Tensor:
    """Sum of −log p over all labels, in fp32; divide by `count` of the whole step.

    Args:
        logits: `[B, K, V]` at the columns that `forward_options` asked for, or `[B, L, V]` at all.
        targets: with `labels` `[B, L]`.
    """
    labels, columns = targets["labels"], _columns(targets)
    if logits.shape[1] == labels.shape[1]:  # K is less: the last column predicts nothing
        logits = logits[:, columns]
    expected = labels[:, columns + 1]
    return F.cross_entropy(logits.float().flatten(0, 1), expected.flatten(), ignore_index=IGNORED, reduction="sum")


def _columns(targets: dict[str, Any]) -> torch.Tensor:
    known: torch.Tensor | None = targets.get("label_columns")
    return _predicting_columns(targets["labels"]) if known is None else known


def _predicting_columns(labels: torch.Tensor) -> torch.Tensor:
    return (labels[:, 1:] != IGNORED).any(dim=0).nonzero()[:, 0]
