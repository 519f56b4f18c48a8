"""Cross-entropy of the labels that matched queries write."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from boxtune.losses.language import IGNORED


def count(tokens: torch.Tensor) -> torch.Tensor:
    """Number of tokens of the labels `[M, T]` of all true boxes, those that end them included, −100 not.

    Divided by it, as the language loss by its own, a picture with a hundred objects does not weigh a hundred times
    against one with one, which a division by images would let it.
    """
    return (tokens != IGNORED).sum()


def total(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Sum of −log p over the tokens of K labels, in fp32 or wider; divide by `count` of the whole step.

    Args:
        logits: `[K, T, V]`, each of the token at its own place.
        tokens: `[K, T]`, padded with −100.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), ignore_index=IGNORED, reduction="sum")
