"""Multi-head attention, as both decoders of the head use it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Scaled dot-product attention in heads (Vaswani et al. 2017, arXiv 1706.03762, §3.2)."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.to_query, self.to_key, self.to_value = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.Linear(width, width)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        key_mask: torch.Tensor | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        """`[N, Q, W]` of queries, `[N, K, W]` of keys and values → `[N, Q, W]`.

        Args:
            query, key, value: before their projections.
            key_mask: `[N, K]` True at keys that may be looked at; each row needs one.
            causal: a query sees no key after its own place.
        """
        q, k, v = self._heads(self.to_query(query)), self._heads(self.to_key(key)), self._heads(self.to_value(value))
        mask = None if key_mask is None else key_mask[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def mlp(width: int, ffn_width: int, dropout: float) -> nn.Sequential:
    """The position-wise layer of a transformer block, `[..., W]` → `[..., W]`."""
    return nn.Sequential(nn.Linear(width, ffn_width), nn.GELU(), nn.Dropout(dropout), nn.Linear(ffn_width, width))
