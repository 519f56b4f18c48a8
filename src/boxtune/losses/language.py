"""Cross-entropy of the next token, where a label stands.

A conversation may show worked examples first. Then there are two terms, each over its own tokens: `teacher`, what the
examples say, and `student`, the question in hand and its answer. Without examples there is one, `language`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

IGNORED = -100
LANGUAGE, STUDENT, TEACHER = TERMS = ("language", "student", "teacher")


@dataclass(frozen=True)
class LanguageLossConfig:
    """What the two terms weigh where there are examples: each is a mean over its own tokens of the whole step.

    Attributes:
        student_weight: of the question in hand and its answer.
        teacher_weight: of the examples.
    """

    student_weight: float = 1.0
    teacher_weight: float = 1.0


def label_targets(labels: torch.Tensor, is_example: torch.Tensor | None = None) -> dict[str, Any]:
    """What this loss reads of a batch, worked out beside the labels: on a GPU it would have to be waited for.

    Args:
        labels: `[B, L]`.
        is_example: `[B, L]` True at tokens of worked examples; None where none are shown.
    """
    has_label = labels[:, 1:] != IGNORED
    found = {"labels": labels, "label_columns": _predicting_columns(labels), "num_labels": int(has_label.sum())}
    if is_example is None:
        return found
    return {**found, "is_example": is_example, "num_example_labels": int((has_label & is_example[:, 1:]).sum())}


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
    return _each(logits, targets, "sum")


def counts(targets: dict[str, Any]) -> dict[str, torch.Tensor | int]:
    """Term → number of labels that are predicted."""
    together = count(targets)
    if "is_example" not in targets:
        return {LANGUAGE: together}
    of_examples = targets["num_example_labels"]
    return {STUDENT: together - of_examples, TEACHER: of_examples}


def totals(logits: torch.Tensor, targets: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Term → its sum of −log p, in fp32; divide each by its own of `counts`, of the whole step.

    Args:
        logits, targets: as `total` takes them.
    """
    if "is_example" not in targets:
        return {LANGUAGE: total(logits, targets)}
    columns = _columns(targets)
    is_example = targets["is_example"][:, columns + 1].flatten()
    each = _each(logits, targets, "none")
    return {STUDENT: each[~is_example].sum(), TEACHER: each[is_example].sum()}


def weighted(
    sums: Mapping[str, torch.Tensor], step_counts: Mapping[str, torch.Tensor], config: LanguageLossConfig
) -> torch.Tensor:
    """The part of a loss that is text.

    Args:
        sums, step_counts: of `totals` and `counts`, the latter over the whole step; other terms are left alone.
        config: weights.
    """
    if LANGUAGE in sums:
        return sums[LANGUAGE] / step_counts[LANGUAGE]
    weights = {STUDENT: config.student_weight, TEACHER: config.teacher_weight}
    parts = [weight * sums[name] / step_counts[name] for name, weight in weights.items() if weight]
    return torch.stack(parts).sum()


def _each(logits: torch.Tensor, targets: dict[str, Any], reduction: str) -> torch.Tensor:
    labels, columns = targets["labels"], _columns(targets)
    if logits.shape[1] == labels.shape[1]:  # K is less: the last column predicts nothing
        logits = logits[:, columns]
    expected = labels[:, columns + 1]
    return F.cross_entropy(logits.float().flatten(0, 1), expected.flatten(), ignore_index=IGNORED, reduction=reduction)


def _columns(targets: dict[str, Any]) -> torch.Tensor:
    known: torch.Tensor | None = targets.get("label_columns")
    return _predicting_columns(targets["labels"]) if known is None else known


def _predicting_columns(labels: torch.Tensor) -> torch.Tensor:
    return (labels[:, 1:] != IGNORED).any(dim=0).nonzero()[:, 0]
