"""Attention as whole matrix products, for steps in bf16 on a CPU.

torch's own kernel for CPUs (`scaled_dot_product_attention` of 2.15) cuts the matrices into blocks too small for bf16
instructions: forwards and backwards it takes 50 ms for 1530 patches and 4 heads on two cores, this takes 28 ms. In the
language model, with 768 tokens and 4 heads on one core, it takes 21 ms and this 14 ms; without a backward pass both
take the same.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

MATMUL = "boxtune_matmul"
LONGEST = 2048  # patches: the weights take patches² × heads × 2 bytes for each image and layer
_ROWS = 512  # of queries at once in the language model, so that little is computed of what a mask throws away


def register_matmul() -> str:
    """Make it known to transformers; returns the name to give to `set_attn_implementation`."""
    AttentionInterface.register(MATMUL, matmul_attention)
    AttentionMaskInterface.register(MATMUL, sdpa_mask)
    return MATMUL


def matmul_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """`[B, H, N, D]` → `[B, N, H, D]`, each patch looking at all; sdpa where that is faster, or anything else is asked.

    The signature is that of transformers' attention functions.
    """
    plain = attention_mask is None and not dropout and not options.get("is_causal") and query.shape == key.shape
    if not plain or query.dtype != torch.bfloat16 or query.shape[2] > LONGEST:  # sdpa wins in fp32
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    weights = ((query * scaling) @ key.transpose(-1, -2)).softmax(-1)
    return (weights @ value).transpose(1, 2), None


def computes_bf16_on_cpu(query: torch.Tensor) -> bool:
    """Whether attention to these queries is computed in bf16 on a CPU, which autocast decides where they are fp32."""
    if query.device.type != "cpu":
        return False
    cast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return query.dtype == torch.bfloat16 or cast


def attend_causally(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    """Each token looks at those before it and itself, in bf16.

    Args:
        query: `[H, L, D]`.
        key, value: `[G, L, D]`, G dividing H.
        scale: of the products; None: 1 / √D.

    Returns:
        `[H, L, D]`.
    """
    query, key, value = (tensor.to(torch.bfloat16) for tensor in (query, key, value))
    (heads, length, width), groups = query.shape, key.shape[0]
    query = (query * (width**-0.5 if scale is None else scale)).view(groups, heads // groups, length, width)
    parts = []
    for start in range(0, length, _ROWS):
        end = min(start + _ROWS, length)
        rows = query[:, :, start:end].reshape(groups, -1, width)
        scores = (rows @ key[:, :end].transpose(-1, -2)).view(heads, end - start, end)
        unseen = torch.full((end - start, end), -torch.inf, dtype=scores.dtype).triu(start + 1)
        weights = (scores + unseen).softmax(-1)
        parts.append((weights.view(groups, -1, end) @ value[:, :end]).view(heads, end - start, width))
    return torch.cat(parts, dim=1)
